"""Score a model on blends with known truth: the paper's Table 1, and more."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from astropy.table import QTable
from torch.utils.flop_counter import FlopCounterMode

from astrodeblend import __version__
from astrodeblend.blends import BRANCHES, PAPER_BLENDS, PUBLISHED, STATISTICS, flux_ratio, overlap
from astrodeblend.calibration import Calibration
from astrodeblend.metrics import table_statistics
from astrodeblend.networks import build
from astrodeblend.texture import Texture, frequencies
from astrodeblend.weights import check_model

from . import figures
from .coverage import Coverage, coverage_lines
from .pairs import METRICS
from .report import (
    Measure,
    Report,
    about,
    aligned,
    limits_text,
    median,
    number_text,
    ratio_of_sums,
    rows_of,
    standard_error,
    table_lines,
    within,
)

#: Quantities that scores are binned by: what they are, and the edges of the bins.
BINS = {
    "separation": ("separation of the centres (stamp pixels)", (0, 8, 12, 16, 20, np.inf)),
    "flux_ratio": (
        "flux ratio, companion to central (magnitudes)",
        (-np.inf, -1, 0, 1, 2, 3, np.inf),
    ),
    "overlap": (
        "overlap: share of own light where the other is brighter",
        (0, 0.01, 0.1, 0.3, 0.6, np.inf),
    ),
}
_COVERED = 1024  # blends whose error bars are tried; shares of truths are good to 1 or 2 %


@dataclass(frozen=True, eq=False)
class Examples:
    """Blends, their truth and their components, to look at."""

    index: np.ndarray  # (n,): numbers of the blends, from 0
    blend: np.ndarray  # (n, bands, y, x)
    isolated: np.ndarray  # (n, 2, bands, y, x), central first
    components: np.ndarray  # (n, 2, bands, y, x)


def evaluate(deblender, blends, *, examples=24, progress=False):
    """Deblend blends with known truth and score the components.

    Parameters
    ----------
    deblender : Deblender
        Deblender with a model for colour pictures.
    blends : BlendSet
        The blends.
    examples : int, optional
        Number of failures, and of successes, whose images are kept.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    Report
        Its tables are described in :ref:`score-tables`. ``measured`` has by metric the scores of
        every component, shape (blends, 2), and those of the blend itself (``scores``,
        ``blend_scores``), and the `Examples` that are drawn: ``failures``, the blends with the
        lowest PSNR (mean of both components), worst first, and ``successes``, random ones of
        those above the median, chosen by the seed of the blends.
    """
    card = deblender.card
    check_model(card)
    if examples < 1:
        raise ValueError(f"examples={examples}: give at least 1")
    measured = _measure(deblender, blends, examples, progress)
    scores, coverage = measured.scores, measured.coverage
    meta = {"model": card.name, "sha256": card.sha256, "blends": len(blends)} | blends.meta
    waves = {"frequencies": frequencies().tolist(), "unit of frequencies": "cycles per pixel"}
    listed = blends.to_table()
    listed.meta |= {"model": card.name, "sha256": card.sha256}
    for name, values in (measured.properties | scores).items():
        if values.ndim == 1:
            listed[name] = values
        else:
            for k, branch in enumerate(BRANCHES):
                listed[f"{name}_{branch}"] = values[:, k]
    tables = {
        "table": QTable(_scores(measured), meta=dict(meta))["metric", "of", "number", *STATISTICS],
        "bins": QTable(_bins(measured), meta=dict(meta)),
        "texture": QTable(_texture(measured.texture), meta=meta | waves),
        "coverage": QTable(coverage.rows(), meta=meta | {"blends of coverage": len(coverage)}),
        "blends": listed,
    }
    calibrated = {"curve": coverage.curve(), "binned": coverage.binned()}
    numbers = {
        **about(deblender), "cost": _cost(deblender, blends.recipe.stamp),
        "blends": len(blends), "galaxies": blends.galaxies, "uses": list(blends.uses),
        "folder": str(blends.folder), **blends.meta,
        "versions": {"astrodeblend": __version__, "torch": torch.__version__},
        "published": PUBLISHED,
        "frequencies": waves["frequencies"],
        **{name: rows_of(table) for name, table in tables.items() if name != "blends"},
        "calibration": {"blends": len(coverage), **calibrated},
    }  # fmt: skip
    title = f"{card.name} on {len(blends)} blends, recipe {blends.recipe.name}"
    worst = "lowest PSNR, worst first"
    chance = f"at random from those above the median PSNR (seed {blends.seed})"
    labels = {name: label for name, (label, _) in BINS.items()}
    means = {name: values["mean"] for name, values in PUBLISHED.items()}
    return Report(
        text="\n".join(_lines(numbers, blends, tables)),
        tables=tables,
        numbers=numbers,
        json="scores",
        figures={
            "distributions": lambda: figures.distributions(scores, means, title=title),
            "bins": lambda: figures.bins(tables["bins"], labels, title=title),
            "power": lambda: figures.power(tables["texture"], title=title),
            "calibration": lambda: figures.calibration(**calibrated, title=title),
            "successes": lambda: figures.panels(measured.successes, title=f"{title}: {chance}"),
            "failures": lambda: figures.panels(measured.failures, title=f"{title}: {worst}"),
        },
        card_scores={card.sha256[:8]: _card_scores(blends, scores, deblender.arithmetic)},
        measured=measured,
    )


def _measure(deblender, blends, examples, progress):
    """Return the scores, properties, texture and coverage of all blends, and examples."""
    parts, textures, coverages, start = [], [], [], 0
    calibration = Calibration(**deblender.card.calibration)
    for blend, isolated in blends.batches(progress=progress):
        level = blends.sky[start : start + len(blend)]
        if start < _COVERED:
            few = slice(_COVERED - start)
            components, std = deblender.deblend_arrays(blend, std="calibrated")
            arrays = (each[few] for each in (components, std, isolated))
            coverages.append(Coverage.of(*arrays, calibration, sky=level[few]))
        else:
            components = deblender.deblend_arrays(blend)
        start += len(blend)
        sky = level[:, None, :, None, None]
        light, untouched = isolated - sky, np.broadcast_to(blend[:, None], isolated.shape)
        scores, blend_scores = (
            {name: metric(images, isolated) for name, metric in METRICS.items()}
            for images in (components, untouched)
        )
        properties = {"flux_ratio": flux_ratio(light), "overlap": overlap(light)}
        parts.append((scores, blend_scores, properties))
        textures.append(Texture.of(components - sky, light))
    scores, blend_scores, properties = (
        {name: np.concatenate([part[name] for part in each]) for name in each[0]}
        for each in zip(*parts, strict=True)
    )
    order = scores["psnr"].mean(axis=1).argsort(kind="stable")
    better = np.random.default_rng(blends.seed).permutation(order[len(order) // 2 :])
    return SimpleNamespace(
        blends=blends,
        scores=scores,
        blend_scores=blend_scores,
        properties={"separation": blends.separation} | properties,
        texture=Texture.join(textures),
        coverage=Coverage.join(coverages),
        failures=_make_examples(deblender, blends, order[:examples]),
        successes=_make_examples(deblender, blends, better[:examples]),
    )


def _card_scores(blends, scores, arithmetic):
    """Return scores for the card, by recipe and split, or folder where there is none."""
    folder = Path(blends.folder).resolve().name
    found = {"blends": len(blends), "seed": blends.seed, "arithmetic": arithmetic}
    found |= {} if blends.split else {"data": folder}
    for metric, values in scores.items():
        statistics = table_statistics(values) | {"p1": np.percentile(values, 1)}
        found[metric] = {name: round(float(v), 4) for name, v in statistics.items()}
    return {f"{blends.recipe.name} on {blends.split or f'folder {folder}'}": found}


def _parts(measured, metric, *, sources=False):
    """Return by name the scores (blends, 2) of some components, NaN for all others."""
    scores, blends = measured.scores[metric], measured.blends
    parts = {"components": scores}
    for k, branch in enumerate(BRANCHES):
        parts[branch] = np.where(np.arange(2) == k, scores, np.nan)
    if sources:
        folders = blends.subfolders
        names = np.unique(folders)
        for name in names if len(names) > 1 else ():
            parts[name or "(no sub-folder)"] = np.where(folders == name, scores, np.nan)
        both = blends.isolated.all(axis=1)
        if both.any() and not both.all():
            parts["both isolated"] = np.where(both[:, None], scores, np.nan)
    return parts | {"blend itself": measured.blend_scores[metric]}


def _scores(measured):
    """Return rows of all scores."""
    return [
        {"metric": metric, "of": of, **_statistics(values)}
        for metric in measured.scores
        for of, values in _parts(measured, metric, sources=True).items()
    ]


def _bins(measured):
    """Return rows of scores in bins of separation, flux ratio and overlap, empty ones left out."""
    rows = []
    for quantity, (_, edges) in BINS.items():
        values = measured.properties[quantity].reshape(len(measured.blends), -1)
        values = np.broadcast_to(values, (len(values), 2))
        for low, high in pairwise(map(float, edges)):
            inside = within(values, low, high)
            for metric in measured.scores:
                for of, scores in _parts(measured, metric).items():
                    scores = np.where(inside, scores, np.nan)
                    some = values[~np.isnan(scores)]
                    if some.size:
                        found = _statistics(scores)
                        row = {"quantity": quantity, "low": low, "high": high}
                        row |= {"metric": metric, "of": of, "middle": median(some)}
                        rows.append(row | {n: found[n] for n in ("number", "mean", "error")})
    return rows


def _texture(texture):
    """Return rows of power and roughness of the components over those of the truth."""
    index, rows = np.arange(len(texture)), []
    for of, part in zip(("components", *BRANCHES), (slice(None), 0, 1), strict=True):
        some = texture[:, part]
        row = {"of": of, "power_ratio": some.power_ratio}
        row["median_power_ratio"] = some.median_power_ratio
        for name in ("occluded_psnr", "occluded_roughness"):

            def statistic(rows, name=name, some=some):
                return getattr(some[rows.astype(int)], name)

            row |= {name: statistic(index), f"{name}_error": standard_error(index, statistic)}
        rows.append(row)
    return rows


def summary_of(evaluations):
    """Return a table as text, a line for each recipe: reports of `evaluate` on one model."""
    names = ("PSNR (dB)", "min", "p1", "ssim_reiman2019", "ssim", "PSNR of the blend itself")
    rows = [["recipe", "blends", *names]]
    for of in (each.measured for each in evaluations):
        score = of.scores["psnr"]
        numbers = [score.mean(), score.min(), np.percentile(score, 1)]
        numbers += [of.scores[name].mean() for name in ("ssim_reiman2019", "ssim")]
        numbers.append(of.blend_scores["psnr"].mean())
        cells = map(number_text, numbers, (2, 2, 2, 4, 4, 2))
        rows.append([of.blends.recipe.name, f"{len(of.blends)}", *cells])
    return "\n".join(aligned(rows))


def _lines(numbers, blends, tables):
    """Yield the text: model, blends, the paper's table, bins, texture, error bars."""
    cost = numbers["cost"]
    yield f"model {numbers['model']} (sha256 {numbers['sha256'][:12]})"
    size = f"{cost['parameters'] / 1e6:.2f} million parameters"
    yield f"{size}; {cost['gmac']:.2f} GMAC a stamp, {numbers['arithmetic']}"
    yield str(blends)
    yield f"(the paper: {PAPER_BLENDS} blends of {2 * PAPER_BLENDS} galaxies, each once)"
    yield ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    yield from ("", *_score_lines(tables["table"]))
    bins = tables["bins"]
    for quantity, (label, _) in BINS.items():
        yield from ("", f"by {label}", *_bin_lines(bins[bins["quantity"] == quantity]))
    yield from ("", *_texture_lines(tables["texture"]), "")
    number = tables["coverage"].meta["blends of coverage"]
    some = f" of the first {number} blends" * (number < len(blends))
    yield f"truths within the error bars{some} (%)"
    yield from coverage_lines(tables["coverage"], "kind", "of")
    shared = ", as if none shared a galaxy" * (blends.uses[1] > 1)
    yield from ("", f"error, ±: standard error, by bootstrap over the blends{shared}")


def _score_lines(table):
    """Return the lines of the paper's Table 1, one metric below the other."""
    lines = [["", "number", *STATISTICS]]
    for metric in dict.fromkeys(table["metric"]):
        digits = 2 if metric == "psnr" else 4
        lines.append([metric + (" (dB)" if metric == "psnr" else "")])
        rows = {row["of"]: row for row in rows_of(table[table["metric"] == metric])}
        if metric in PUBLISHED:
            rows["Reiman & Goehre 2019"] = {"number": 2 * PAPER_BLENDS, **PUBLISHED[metric]}
        for of, row in rows.items():
            cells = (number_text(row.get(name, np.nan), digits) for name in STATISTICS)
            lines.append([f"  {of}", f"{row['number']}", *cells])
    return aligned(lines)


def _bin_lines(bins):
    """Return the lines of the bins of one quantity."""
    shown = [("psnr", of) for of in ("components", *BRANCHES, "blend itself")]
    shown += [("ssim_reiman2019", "components"), ("ssim", "components")]
    rows = {}
    for row in bins:
        rows.setdefault((row["low"], row["high"]), {})[row["metric"], row["of"]] = row
    lines = [["", "number", *(m for m, _ in shown)], ["", "", *(of for _, of in shown)]]
    for limits, row in rows.items():
        lines.append([f"  {limits_text(*limits)}", f"{row['psnr', 'components']['number']}"])
        for metric, of in shown:
            each = row.get((metric, of), {"mean": np.nan, "error": np.nan})
            digits = 2 if metric == "psnr" else 4
            lines[-1].append(number_text(each["mean"], digits, each["error"]))
    return aligned(lines)


def _texture_lines(table):
    """Yield the lines on power and roughness."""
    yield "power of output over truth in the footprints, by spatial frequency (cycles per pixel)"
    lines = [["", *(f"{k:.3f}" for k in table.meta["frequencies"])]]
    for name, text in (("power_ratio", ""), ("median_power_ratio", ", median")):
        for row in table:
            lines.append([f"  {row['of']}{text}", *(number_text(v, 3) for v in row[name])])
    yield from aligned(lines)
    measures = {
        "occluded_psnr": Measure("", "PSNR (dB)", 2),
        "occluded_roughness": Measure("", "roughness of output over truth", 3),
    }
    yield from table_lines(table, {"occluded pixels": [f"  {of}" for of in table["of"]]}, measures)


def _statistics(scores):
    """Return the statistics of scores (blends, 2) that are not NaN."""
    values = scores[~np.isnan(scores)]
    # of the error: both components of a blend go together
    sums = np.stack([np.nansum(scores, axis=1), (~np.isnan(scores)).sum(axis=1)], axis=1)
    return {
        "number": len(values),
        **table_statistics(values),
        "error": standard_error(sums[sums[:, 1] > 0], ratio_of_sums),
        "p1": float(np.percentile(values, 1)),
    }


def _cost(deblender, size):
    """Return multiply-accumulates for one stamp, in 1e9, and parameters of the network."""
    card = deblender.card
    stamp = np.zeros((1, len(card.bands), size, size), np.float32)
    with FlopCounterMode(display=False) as counter:
        deblender.deblend_arrays(stamp)
    with torch.device("meta"):  # shapes without memory
        parameters = sum(p.numel() for p in build(**card.network).parameters())
    # PyTorch counts a multiply-accumulate as two operations
    return {"gmac": counter.get_total_flops() / 2e9, "parameters": parameters}


def _make_examples(deblender, blends, index):
    """Make and deblend some of the blends again."""
    blend, isolated = map(np.concatenate, zip(*blends[index].batches(), strict=True))
    return Examples(index, blend, isolated, np.asarray(deblender.deblend_arrays(blend)))
