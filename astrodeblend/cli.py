"""The command line: thin commands over the public objects.

Whatever a command needs is imported inside it, so that ``--help`` is quick. Anything wrong with
what a command was given ends in one sentence on stderr and exit code 2.
"""

import contextlib
import json
import os
import re
import shlex
import sys
import warnings
from pathlib import Path

import click

# What options offer, so that help needs no import of torch; a test compares them with the code.
RECIPES = ("reiman2019", "sum", "max_sum", "varied")
NETWORKS = ("unet", "reiman2019")
LOSSES = ("log_mse", "mse")
ADVERSARIAL = ("none", "nonsaturating", "minimax")
PLANS = ("trapezoid", "cosine", "reiman2019")
PRECISIONS = ("float32", "bfloat16")
OPTIMIZERS = ("adamw", "adam")


class _Commands(click.Group):
    """Commands in the order they are written; refusals in one sentence."""

    def list_commands(self, ctx):
        return list(self.commands)

    def invoke(self, ctx):
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # | head: click ends quietly
                raise
            except (ValueError, TypeError, OSError) as error:
                if ctx.params["traceback"]:
                    raise
                refusal = click.ClickException(_sentence(error))
                refusal.exit_code = 2
                raise refusal from error


def _sentence(error):
    """Put an error in one line."""
    if isinstance(error, OSError) and error.errno is not None:  # raised by the system itself
        place = "" if error.filename is None else f": {str(error.filename)!r}"
        return f"{error.strerror}{place}"
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(message, category, filename, lineno, file=None, line=None):
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="astrodeblend", prog_name="astrodeblend")
@click.option("--traceback", is_flag=True, help="Show where an error came from.")
def main(traceback):
    """Take overlapping galaxies apart.

    \b
    See it work:            astrodeblend demo
    Your own image:         astrodeblend deblend image.fits -o out.fits --position 512,488 --plot
    What a command takes:   astrodeblend deblend --help
    """


_model = click.option(
    "--model", default="galaxyzoo", show_default=True, metavar="NAME|PATH",
    help="A model of the package (see 'astrodeblend models') or a .safetensors file.",
)  # fmt: skip
_device = click.option(
    "--device", metavar="D", help="cpu, cuda or cuda:1. Default: a GPU when there is one."
)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
_seed = click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True,
    help="Where the randomness starts from.",
)  # fmt: skip


@main.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="OUT", help="FITS file to write.")
@_model
@click.option(
    "--position", metavar="POSITION",
    help="Of the central galaxy: pixels X,Y counted from 0, or a place on the sky, 'RA DEC'. "
    "Default: the middle of the image.",
)  # fmt: skip
@click.option(
    "--plot", is_flag=False, flag_value="", metavar="[PNG]",
    help="Draw blend, components and what is left; by default beside OUT.",
)  # fmt: skip
@_overwrite
@_device
def deblend(images, out, model, position, plot, overwrite, device):
    """Take the galaxy at a position and the one that overlaps it apart.

    IMAGE is a FITS, JPEG or PNG file ("image.fits[SCI]" chooses an extension), or several
    files, one per band, in the order the model takes them (R, G, B). OUT gets the extensions
    CENTRAL and COMPANION on the image's own pixels, with its unit and WCS, each with _UNCERT
    and, where there is one, _MASK, and the table SOURCES.

    \b
    astrodeblend deblend galaxy.jpg -o out.fits --plot
    astrodeblend deblend coadd.fits -o out.fits --position 512.3,488.9
    astrodeblend deblend i.fits r.fits g.fits -o out.fits --position "10:00:27.2 +02:12:03"
    """
    from astrodeblend.files import atomic_path

    place = _parse_position(position)
    picture = _picture_path(plot, out)
    # Refused before the work, written after it, all or none.
    with contextlib.ExitStack() as stack:
        fits_file = stack.enter_context(atomic_path(out, overwrite=overwrite))
        if picture:
            png_file = stack.enter_context(atomic_path(picture, overwrite=overwrite))
        deblender = _load(model, device)
        result = deblender(images[0] if len(images) == 1 else list(images), position=place)
        result.write(fits_file)
        if picture:
            result.plot().savefig(png_file)
    click.echo(_text(_short(result.to_table())))
    from astrodeblend.results import decode_flags

    for words in decode_flags(result.flags):
        click.echo(f"Note: {words}", err=True)
    click.echo(f"wrote {out}" + (f" and {picture}" if picture else ""))


@main.command()
@click.option(
    "--images", required=True, metavar="DIR", help="Folder of isolated galaxies, JPEG or PNG."
)
@click.option("--split", metavar="S", help="Part of them, by splits.csv in DIR. Default: all.")
@click.option("--recipe", type=click.Choice(RECIPES), default="reiman2019", show_default=True)
@click.option(
    "-n", "--number", type=click.IntRange(min=1), default=100, show_default=True,
    help="How many blends.",
)  # fmt: skip
@_seed
@click.option("-o", "--out", required=True, metavar="OUT", help="FITS file to write.")
@click.option(
    "--plot", is_flag=False, flag_value="", metavar="[PNG]",
    help="Draw the first blends with their galaxies; by default beside OUT.",
)  # fmt: skip
@_overwrite
def simulate(images, split, recipe, number, seed, out, plot, overwrite):
    """Make blends with known truth.

    OUT gets BLEND (n, bands, y, x), ISOLATED (n, 2, bands, y, x; central first), both from 0
    to 1, and the table DRAW: which galaxies, and how each companion was perturbed. The same
    images, number and seed give the same blends, here and in 'astrodeblend evaluate'.

    \b
    astrodeblend simulate --images galaxies --recipe reiman2019 -n 100 --seed 1 -o blends.fits
    """
    from astrodeblend.evaluate import draw_blends
    from astrodeblend.files import atomic_path

    picture = _picture_path(plot, out)
    with contextlib.ExitStack() as stack:
        fits_file = stack.enter_context(atomic_path(out, overwrite=overwrite))
        if picture:
            png_file = stack.enter_context(atomic_path(picture, overwrite=overwrite))
        blends = draw_blends(images, split=split, recipe=recipe, number=number, seed=seed)
        blend, isolated = blends.write(fits_file, progress=True)
        if picture:
            _draw_blends(blend[:8], isolated[:8], png_file)
    click.echo(str(blends))
    click.echo(f"wrote {out}" + (f" and {picture}" if picture else ""))


@main.command()
@click.option(
    "--images", metavar="DIR", help="Folder of isolated galaxies to learn from, JPEG or PNG."
)
@click.option(
    "--split", metavar="S",
    help="Part of them, by splits.csv in DIR. Default: train if there is that table, else all.",
)  # fmt: skip
@click.option(
    "--validation-images", metavar="DIR",
    help="Other galaxies, to judge the model by. Default: part 'val' of DIR if it has "
    "splits.csv, else every tenth image, which is then not learned from.",
)  # fmt: skip
@click.option("--validation-split", metavar="S", help="Part of those, by their splits.csv.")
@click.option("--out", required=True, metavar="RUN", help="Folder of the run; made if missing.")
@click.option(
    "--resume", is_flag=True,
    help="Go on with the run in RUN as though it had never stopped; what was chosen is known.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: a GPU if there is.")
@click.option(
    "--config", metavar="JSON",
    help="Take all choices from a model's card, or from a JSON file of TrainingConfig's fields; "
    "options beside it win.",
)  # fmt: skip
@click.option(
    "--paper", is_flag=True,
    help="Take all choices of Reiman & Goehre (2019): network, loss, plan, discriminator; "
    "options beside it win.",
)  # fmt: skip
@click.option("--recipe", type=click.Choice(RECIPES), help="Blends to learn from. Default: varied.")
@click.option(
    "--validation-recipe", type=click.Choice(RECIPES),
    help="Blends to be judged by. Default: reiman2019.",
)  # fmt: skip
@click.option("--steps", type=int, metavar="N", help="Updates. Default: 16000.")
@click.option("--batch", type=int, metavar="N", help="Blends per update. Default: 16.")
@click.option("--seed", type=int, metavar="S", help="All randomness follows. Default: 1.")
@click.option("--network", type=click.Choice(NETWORKS), help="Default: unet.")
@click.option("--loss", type=click.Choice(LOSSES), help="Pixel loss. Default: log_mse.")
@click.option("--learning-rate", type=float, metavar="X", help="The highest. Default: 1e-3.")
@click.option(
    "--plan", type=click.Choice(PLANS), help="Learning rate over time. Default: trapezoid."
)
@click.option("--warmup", type=int, metavar="N", help="Updates of rising rate. Default: 500.")
@click.option(
    "--decay", type=float, metavar="X", help="Share of the steps of falling rate. Default: 0.3."
)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="Default: adamw.")
@click.option("--weight-decay", type=float, metavar="X", help="For adamw. Default: 0.01.")
@click.option(
    "--average", type=float, metavar="X",
    help="Decay of the running average of the weights, which is what is saved; 0 for none. "
    "Default: 0.999.",
)  # fmt: skip
@click.option(
    "--clip", type=float, metavar="X", help="Largest norm of the gradient; 0: any. Default: 1."
)
@click.option(
    "--adversarial", type=click.Choice(ADVERSARIAL),
    help="Train against a discriminator, with this loss. Default: none.",
)  # fmt: skip
@click.option("--adversarial-weight", type=float, metavar="X", help="Default: 1e-3.")
@click.option(
    "--burn-in", type=int, metavar="N",
    help="Updates before the adversarial phase, on VGG19 features if there is --vgg. Default: 0.",
)  # fmt: skip
@click.option(
    "--vgg", metavar="PATH", help="VGG19 weights in torchvision's format, for the burn-in."
)
@click.option("--std-weight", type=float, metavar="X", help="Of the errors' loss. Default: 0.1.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Default: bfloat16.")
@click.option(
    "--validate-every", type=int, metavar="N", help="Updates between validations. Default: 1000."
)
@click.option(
    "--validation-blends", type=int, metavar="N", help="Blends of a validation. Default: 256."
)
@click.option(
    "--checkpoint-every", type=int, metavar="N", help="Updates between saves. Default: 500."
)
@click.option("--log-every", type=int, metavar="N", help="Updates between log lines. Default: 50.")
def train(out, resume, device, **given):
    """Train a model on galaxies of your own.

    RUN gets model.safetensors with its card model.json, log.csv, validation.png (for each
    blend: blend, central, its truth, companion, its truth) and checkpoint.safetensors. Ctrl-C
    saves and ends with exit code 130; --resume goes on exactly, after that and after a crash.
    Defaults are those of our own best model, not of the paper; see --paper.

    \b
    astrodeblend train --recipe reiman2019 --images galaxies --out runs/try --steps 50
    astrodeblend train --out runs/try --resume
    astrodeblend train --paper --vgg vgg19.pth --images galaxies --out runs/paper
    torchrun --nproc-per-node 4 -m astrodeblend train --images galaxies --out runs/four
    """
    first = int(os.environ.get("RANK", "0")) == 0  # torchrun: one process speaks for all
    run = Path(out)
    given = {name: value for name, value in given.items() if value not in (None, False)}
    if resume:
        given = {**_recorded(run), **given}
        if not (run / "checkpoint.safetensors").exists() and (run / "run.json").exists():
            _say(f"{out} has no checkpoint yet: starting from the beginning", first)
            resume = False
    elif (run / "checkpoint.safetensors").exists():
        raise FileExistsError(
            f"{out!r} holds a run already; go on with it by --resume, or choose another folder"
        )
    if "images" not in given:
        raise ValueError("--images is missing; give the folder of galaxies to learn from")

    import torch

    from astrodeblend.simulate import read_images
    from astrodeblend.training import train as train_model
    from astrodeblend.weights import Card

    config = _training_config(given)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu")
    learn, judge = _training_images(given)
    run.mkdir(parents=True, exist_ok=True)
    if first:
        _write_record(run, given)
        judged = f"judged by {len(judge)} others" if judge else "too few to hold some out"
        _say(f"learning from {len(learn)} galaxies, {judged}", first)
    card = Card(
        name=run.resolve().name,
        description=f"a {config.network['kind']} trained on {len(learn)} galaxies",
        network=config.network,
        training={"command": _as_command(out, given)},
        data=f"{len(learn)} images of {given['images']}",
    )
    model = train_model(
        config,
        read_images(learn, progress=first),
        run,
        validation=read_images(judge, progress=first) if judge and first else None,
        resume=resume,
        device=device,
        card=card,
        progress=first,
    )
    if not first:
        return
    if model is None:
        _say(f"stopped and saved; go on with: astrodeblend train --out {shlex.quote(out)} --resume")
        raise SystemExit(130)  # what shells give for Ctrl-C
    _say(f"wrote {model}; use it with --model {shlex.quote(str(model))}")


@main.command()
@_model
@click.option("--data", required=True, metavar="DIR", help="Folder of isolated galaxies.")
@click.option(
    "--split", metavar="S",
    help="Part of them, by splits.csv in DIR. Default: val if there is that table, else all.",
)  # fmt: skip
@click.option("--recipe", type=click.Choice(RECIPES), default="reiman2019", show_default=True)
@click.option(
    "-n", "--number", type=click.IntRange(min=1),
    help="How many blends. Default: as many as can be had with each galaxy used once, at most "
    "3200, as in the paper. With more, galaxies are used again.",
)  # fmt: skip
@_seed
@click.option("--out", metavar="FOLDER", help="Also write the table and all scores there (ECSV).")
@_overwrite
@_device
def evaluate(model, data, split, recipe, number, seed, out, overwrite, device):
    """Score a model on simulated blends: Table 1 of Reiman & Goehre (2019).

    Prints mean, median, maximum, minimum and variance of PSNR (dB), of ssim_reiman2019 (the
    paper's lenient scale) and of ssim (the strict one), over both components, for each branch,
    for the blend taken as it is, and what the paper has.

    \b
    astrodeblend evaluate --model galaxyzoo --split val --data galaxies
    astrodeblend evaluate --model runs/try/model.safetensors --data galaxies --out scores
    """
    from astrodeblend.evaluate import draw_blends
    from astrodeblend.evaluate import evaluate as evaluate_model

    if split is None and (Path(data) / "splits.csv").is_file():
        split = "val"
    if out is not None:
        _check_folder(out, ("table.ecsv", "blends.ecsv"), overwrite)
    blends = draw_blends(data, split=split, recipe=recipe, number=number, seed=seed)
    evaluation = evaluate_model(_load(model, device), blends, progress=True)
    if out is not None:
        evaluation.write(out, overwrite=overwrite)
    click.echo(str(evaluation))
    if out is not None:
        click.echo(f"wrote {Path(out) / 'table.ecsv'} and {Path(out) / 'blends.ecsv'}")


@main.command()
@click.argument("name", required=False, metavar="[NAME|PATH]")
def models(name):
    """List the models in the package, or print the card of one.

    \b
    astrodeblend models
    astrodeblend models galaxyzoo
    """
    if name is None:
        from astrodeblend import Deblender

        click.echo(_text(Deblender.models()))
        return
    from dataclasses import asdict

    from astrodeblend.weights import read_card

    click.echo(json.dumps(asdict(read_card(name)), indent=2))


@main.command()
@click.option(
    "--out", default="astrodeblend-demo", show_default=True, metavar="FOLDER",
    help="Where to; made if it is missing.",
)  # fmt: skip
@_model
@_overwrite
@_device
def demo(out, model, overwrite, device):
    """Deblend the clearest blends of the Hubble Deep Field.

    The picture comes with scikit-image: real light, in colour, full of overlaps. Detects its
    sources, picks the clearest blends, deblends them, prints a table and writes panels.png,
    stamps.fits and catalogue.ecsv. Takes less than a minute and no internet.

    \b
    astrodeblend demo
    """
    from astrodeblend.demo import run_demo

    files = ("panels.png", "stamps.fits", "catalogue.ecsv")
    _check_folder(out, files, overwrite)
    run_demo(_load(model, device), out, overwrite=overwrite, say=click.echo)


def _say(text, aloud=True):
    """Tell what goes on; on stderr, where progress bars are too."""
    if aloud:
        click.echo(text, err=True)


def _load(model, device):
    from astrodeblend import Deblender

    if model.endswith(".safetensors"):
        return Deblender.load(model, device=device)
    return Deblender.from_pretrained(model, device=device)


def _parse_position(text):
    """Turn X,Y into two numbers and anything else into a place on the sky."""
    if text is None:
        return None
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    pixels = re.fullmatch(rf"\s*({number})\s*,\s*({number})\s*", text)
    if pixels:
        return float(pixels[1]), float(pixels[2])
    from astropy.coordinates import SkyCoord

    try:
        if re.fullmatch(rf"\s*{number}\s+{number}\s*", text):
            return SkyCoord(text, unit="deg")
        return SkyCoord(text, unit=("hourangle", "deg"))
    except ValueError as error:
        raise ValueError(
            f"--position {text!r} is no position; give pixels as X,Y (512.3,488.9), or a place on "
            "the sky as 'RA DEC' ('150.11 2.2' in degrees, or '10:00:27.2 +02:12:03')"
        ) from error


def _picture_path(plot, out):
    """Return where a picture goes, or None."""
    if plot is None:
        return None
    path = Path(plot) if plot else Path(out).with_suffix(".png")
    if path.suffix.lower() != ".png":
        raise ValueError(f"--plot {str(path)!r}: the name of a picture ends in .png")
    return path


def _check_folder(folder, names, overwrite):
    """Refuse an output folder before the work that would fill it."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file; choose another name for the folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write to {str(folder)!r}: the folder {str(folder.parent)!r} does not exist; "
            "make it first"
        )
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{str(folder)!r} holds {' and '.join(there)} already; choose another folder by --out, "
            "or replace them by --overwrite"
        )
    nearest = folder if folder.is_dir() else folder.parent
    if not os.access(nearest, os.W_OK):
        raise PermissionError(
            f"cannot write to {str(folder)!r}: {str(nearest)!r} is read-only; choose another folder"
        )


def _recorded(run):
    """Return what a run was begun with; nothing if that was not by this command."""
    record = run / "run.json"
    if not record.exists():
        return {}
    return json.loads(record.read_text())


def _write_record(run, given):
    from astrodeblend.files import atomic_path

    with atomic_path(run / "run.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(given, indent=2) + "\n")


def _as_command(out, given):
    """Return the command that begins the run, as one line."""
    words = ["astrodeblend", "train"]
    for name, value in {**given, "out": out}.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [str(value)]
    return shlex.join(words)


def _training_config(given):
    """Make the configuration out of a file or the paper's choices, and of options."""
    from dataclasses import fields

    from astrodeblend.training import TrainingConfig, reiman2019

    known = {field.name for field in fields(TrainingConfig)}
    choices = {name: value for name, value in given.items() if name in known}
    if "network" in choices:
        choices["network"] = {"kind": choices["network"]}
    if "config" in given:
        if "paper" in given:
            raise ValueError("--config and --paper both name all choices; give one of them")
        choices = {**_read_config(given["config"], known), **choices}
    config = reiman2019(**choices) if "paper" in given else TrainingConfig(**choices)
    if config.vgg is not None:
        if not config.burn_in:
            raise ValueError("--vgg is for the burn-in; give --burn-in N too (the paper: 2000)")
        if not Path(config.vgg).is_file():
            raise FileNotFoundError(
                f"--vgg {config.vgg!r} does not exist; give a file with VGG19 weights"
            )
    return config


def _read_config(path, known):
    """Read choices from a model's card or a file of its own."""
    try:
        values = json.loads(Path(path).read_text())
        if "training" in values:  # a card
            values = values["training"]["config"]
        wrong = sorted(set(values) - known)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--config {path!r} is neither a model's card nor a JSON file of choices: {error}"
        ) from error
    if wrong:
        raise ValueError(f"--config {path!r} has unknown choices: {', '.join(wrong)}")
    return values


def _training_images(given):
    """Return the paths to learn from and those to judge by, which may be none."""
    from astrodeblend.simulate import find_images

    folder = Path(given["images"])
    has_table = (folder / "splits.csv").is_file()
    learn = find_images(folder, split=given.get("split", "train" if has_table else None))
    if "validation_images" in given:
        other = given["validation_images"]
        return learn, find_images(other, split=given.get("validation_split"))
    if has_table or "validation_split" in given:
        return learn, find_images(folder, split=given.get("validation_split", "val"))
    # A blend takes two galaxies, on either side.
    if len(learn) < 4:
        return learn, []
    step = min(10, len(learn) // 2)
    judge = learn[::step]
    return [path for k, path in enumerate(learn) if k % step], judge


def _short(table):
    """Leave out of a table what does not fit on a screen."""
    keep = ("component", "x_centroid", "y_centroid", "sky_centroid", "segment_flux", "ellipticity",
            "flags")  # fmt: skip
    return table[[name for name in keep if name in table.colnames]]


def _text(table):
    """Return a table as text, all of it."""
    for name in table.colnames:
        column = table[name]
        if getattr(column, "dtype", None) is not None and column.dtype.kind == "f":
            column.info.format = ".4g"
    return "\n".join(table.pformat(max_lines=-1, max_width=-1))


def _draw_blends(blend, isolated, path):
    """Draw blends, a column each, over their central galaxies and their companions."""
    import numpy as np
    from PIL import Image

    rows = np.stack([blend, isolated[:, 0], isolated[:, 1]])  # (rows, n, bands, y, x)
    rows = np.moveaxis(rows, 2, -1).transpose(0, 2, 1, 3, 4)  # (rows, y, n, x, bands)
    pixels = rows.reshape(rows.shape[0] * rows.shape[1], -1, rows.shape[-1])
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
