"""Model cards as text, for the terminal and for the documentation."""

import math
import re
import shlex
import textwrap

from safetensors import safe_open

from .blends import PAPER_BLENDS, PUBLISHED, STATISTICS
from .score.report import aligned
from .weights import find_model, read_card

__all__ = ["card_text"]

_WIDTH = 79  # characters of a line
_UNITS = {"psnr": "dB"}


def card_text(model, *, markup=False):
    """Return a model's card as text: description, training, scores, known failures.

    ``model`` is as in `astrodeblend.weights.read_card`. Empty entries are left out. ``markup`` is
    for reStructuredText, with special characters escaped.
    """
    card, path = read_card(model), find_model(model)
    plain = _escaped if markup else str
    sections = [
        [*_title(card.name, "="), *_paragraph(plain(card.description))],
        _identity(card, path, plain),
        _training(card, plain),
        _scores(card, model, plain),
        _limits(card, plain),
    ]
    return "\n".join(line.rstrip() for section in sections for line in section)


def _identity(card, path, plain):
    size = path.stat().st_size
    kind, *shape = card.network.items()
    kind = f"{kind[1]} (" + ", ".join(f"{name} {_values(value)}" for name, value in shape) + ")"
    radii, pixels = card.size_rule["petrosian_radii"], card.size_rule["pixels"]
    stamp = f"{radii:g} Petrosian radii of the source on {pixels} pixels"
    if card.scaling == "noise":
        stamp = f"{pixels} pixels of the image, or a multiple that holds {radii:g} Petrosian radii"
    if card.network.get("kind") == "field":
        stamp = "none: whole images, block by block"
    rows = {
        "bands": ", ".join(card.bands) or "any number of them, in any order",
        "blending modes": ", ".join(card.modes),
        "scaling": card.scaling,
        "stamp": stamp,
        "network": kind,
        "handed over": card.crowded and f"images with more than two sources, to {card.crowded}",
        "weights": f"{_number_of_weights(path):,}",
        "file": f"{path.name}, {size / 1e6:.1f} MB",
        "data": card.data,
        "licence": card.licence,
    }
    text = _pairs({name: plain(value) for name, value in rows.items() if value})
    return text + (["sha256 of the file:", "", *_block(card.sha256)] if card.sha256 else [])


def _training(card, plain):
    training = card.training
    config = training.get("config", {})
    text = _title("Training", "-")
    if "command" in training:
        text += _block(training["command"])
    recipe = card.recipe
    if config.get("final_recipe"):
        recipe += f", at the end {config['final_recipe']}"
    rows = {"cost": _cost(training)}
    if parent := training.get("from"):
        rows["cost"] += ", in addition to that of its start"
        rows["started from"] = f"{parent['name']} (sha256 {parent['sha256'][:12]}...)"
    if "steps" in training:
        batch = f" of {config['batch']} blends" if "batch" in config else ""
        if "blocks" in training:
            batch = f", {training['blocks']:,} blocks of fields in all"
        rows["updates"] = f"{training['steps']:,}{batch}"
    if surveys := config.get("surveys"):
        rows["surveys"] = ", ".join(surveys)
    else:
        rows["recipe"] = recipe
    rows["loss"] = config.get("loss", "")
    if config.get("adversarial", "none") != "none":
        rows["loss"] += f", {config['adversarial_weight']:g} of adversarial {config['adversarial']}"
    rows["seed"] = str(config.get("seed", ""))
    for name in ("familiarity", "blend_score"):
        if entry := training.get(name):
            rows[name.replace("_", " ")] = ", ".join(f"{k} {_values(v)}" for k, v in entry.items())
    rows["error bars"] = _calibration(card.calibration)
    text += _pairs({name: plain(value) for name, value in rows.items()})
    return text + _paragraph(plain(training.get("note", "")))


def _cost(training):
    """Return the cost of a training in core-hours or GPU-hours."""
    if "hours" not in training:
        return ""
    hours, threads = training["hours"], training.get("threads", 1)
    device = training.get("device", "cpu")
    if device != "cpu":
        return f"{hours:.2f} GPU-hours ({device})"
    cores = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{hours * threads:.2f} core-hours ({hours:.2f} hours of {cores})"


def _calibration(calibration):
    """Return the data of the calibration, and the width of intervals."""
    if not calibration:
        return "not calibrated"
    fit = calibration.get("fit", {})
    about = [f"{name} {fit[name]}" for name in ("blends", "galaxies", "seed") if name in fit]
    if "recipes" in fit:
        parts = ", ".join(f"{n} {name}" for name, n in fit["recipes"].items())
        about.append(f"recipes in the proportion {parts}")
    widths = calibration.get("interval_95", {})
    about += [f"95.4 % of {name} within {w:.2f} errors" for name, w in widths.items()]
    if widths := calibration.get("in_scenes", {}).get("interval_95", {}):
        about += [f"in scenes 95.4 % of {name} within {w:.2f} errors" for name, w in widths.items()]
    return "calibrated: " + ", ".join(about)


def _scores(card, model, plain):
    text = _title("Scores", "-")
    command, of = f"astrodeblend evaluate --model {model} --images FOLDER", "recipe"
    if card.scaling == "noise":
        command, of = f"astrodeblend benchmark --model {model} --images FOLDER", "survey"
    if card.network.get("kind") == "field":
        command, of = f"astrodeblend benchmark --model {model}", "fields"
    if not card.scores:
        if of == "fields":
            words = _paragraph("None yet. This prints them:")
            return text + words + _block(f"{command} --fields lsst")
        some = " --survey lsst" if of == "survey" else ""
        return text + _paragraph("None yet. This adds them:") + _block(f"{command}{some} --card")
    for name, entry in card.scores.items():
        recipe, _, split = name.partition(" on ")
        text += _title(plain(name), "~")
        metrics = {key: value for key, value in entry.items() if isinstance(value, dict)}
        about = [f"{entry['blends']:,} blends"] if "blends" in entry else []
        rest = [key for key in entry if key not in metrics and key != "blends"]
        about += [f"{key} {_values(entry[key])}" for key in rest]
        text += _paragraph(plain(", ".join(about)))
        known = list(dict.fromkeys(key for values in metrics.values() for key in values))
        if of == "recipe":
            known = [key for key in STATISTICS if key in known]
        rows = []
        for metric, values in metrics.items():
            digits = 2 if metric == "psnr" else 4
            label = f"{metric} ({_UNITS[metric]})" if metric in _UNITS else metric
            rows.append([plain(label), *_cells(values, known, digits)])
            if recipe == "reiman2019" and metric in PUBLISHED:
                cells = _cells(PUBLISHED[metric], known, 2 if metric == "psnr" else 3)
                rows.append(["published", *cells])
        text += _table([["score", *known], *rows])
        if any(row[0] == "published" for row in rows):
            text += _paragraph(
                f"Published: Reiman & Goehre (2019), Table 1, on {PAPER_BLENDS:,} blends of "
                "galaxies of their own test set."
            )
        options = {
            of: recipe.removesuffix(" fields"),
            "split": "" if "data" in entry or split == "parametric" else split,
            "seed": entry.get("seed"),
            "dtype": entry.get("arithmetic"),
        }
        options = "".join(f" --{key} {value}" for key, value in options.items() if value)
        number = next((f" -n {entry[k]}" for k in ("blends", "fields") if k in entry), "")
        data = shlex.quote(entry.get("data", "FOLDER"))
        text += _block(command.replace("FOLDER", data) + options + number)
    return text


def _limits(card, plain):
    text = _title("Known failures", "-")
    sentences = [part for part in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", card.limits) if part]
    if not sentences:
        return text + _paragraph("None are stated.")
    for sentence in sentences:
        text += _wrapped(plain(sentence), "- ", "  ")
    return [*text, ""]


def _cells(values, names, digits):
    known = [values.get(name) for name in names]
    return [f"{v:.{digits}f}" if isinstance(v, int | float) else "-" for v in known]


def _values(value):
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"


def _number_of_weights(path):
    with safe_open(path, framework="np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    fitted = ("familiarity.", "blend_score.")
    return sum(math.prod(s) for name, s in shapes.items() if not name.startswith(fitted))


def _block(command):
    """Return a shell command as a block, broken before its options."""
    first, *parts = re.split(r" (?=--?\w)", command)
    lines = [first]
    for part in parts:
        if len(lines[-1]) + len(part) > _WIDTH - 8:
            lines[-1] += " \\"
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return ["::", "", *(f"    {line}" for line in lines), ""]


def _escaped(text):
    """Return text escaped for reStructuredText."""
    return re.sub(r"([\\*_`|])", r"\\\1", text)


def _title(text, line):
    return [text, line * len(text), ""]


def _paragraph(text):
    return [*_wrapped(text), ""] if text else []


def _wrapped(text, first="", later=""):
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _pairs(rows):
    """Return names and values as a table without a head; empty values are left out."""
    rows = {name: value for name, value in rows.items() if value}
    if not rows:
        return []
    width = max(map(len, rows))
    lines = []
    for name, value in rows.items():
        lines += _wrapped(value, f"{name:{width}}  ", " " * (width + 2))
    right = max(len(line) for line in lines) - width - 2
    rule = f"{'=' * width}  {'=' * right}"
    return [rule, *lines, rule, ""]


def _table(rows):
    """Return rows of cells as a table, the first row its head, numbers to the right."""
    rule = ["=" * max(map(len, column)) for column in zip(*rows, strict=True)]
    return [*aligned([rule, rows[0], rule, *rows[1:], rule]), ""]
