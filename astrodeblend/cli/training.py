"""The commands train and finish."""

import hashlib
import json
import os
import shlex
from dataclasses import fields
from pathlib import Path

import click

from astrodeblend.training.config import TrainingConfig, reiman2019

from . import options

#: Fields of the configuration that are options; those of other types come through --config.
FIELDS = {
    f.name: f for f in fields(TrainingConfig) if f.type in (str, str | None, int, float, bool)
}
_KINDS = {str | None: str}
_METAVARS = {int: "N", float: "X", str | None: "PATH"}
#: Options that say which galaxies.
IMAGES = ("images", "split", "validation_images", "validation_split")


def _config_options(command):
    """Add an option for every field of the configuration."""
    for name, field in reversed(FIELDS.items()):
        option, default = f"--{name.replace('_', '-')}", field.default
        text, among = field.metadata["help"], field.metadata["among"]
        if field.type is bool:
            option, default = f"{option}/--no-{option[2:]}", "yes" if default else "no"
        command = click.option(
            option,
            default=None,  # the default is taken only if no --config or --paper says otherwise
            type=click.Choice(list(among)) if among else _KINDS.get(field.type, field.type),
            metavar=None if among else _METAVARS.get(field.type),
            help=text if default is None else f"{text}  [default: {default}]",
        )(command)
    return command


@options.command(
    "astrodeblend train --recipe reiman2019 --images galaxies --out runs/try --steps 50",
    "astrodeblend train --out runs/try --resume",
    "astrodeblend train --paper --vgg vgg19.pth --images galaxies --out runs/paper",
    "astrodeblend train --from galaxyzoo --images galaxies --out runs/mine --steps 2000",
    "astrodeblend train --survey lsst --survey MY.yaml --out runs/flux",
    "astrodeblend train --from survey --survey MY.yaml --out runs/mine --steps 500",
    "astrodeblend train --from survey --survey stamps --out runs/mine --steps 500",
    "torchrun --nproc-per-node 4 -m astrodeblend train --images galaxies --out runs/four",
)
@options.images(
    "Folder of isolated galaxies, JPEG or PNG. With --survey optional: colour pictures of SDSS, or "
    "an .npz file of galaxies cut out of them, of which half of the galaxies are made.",
    metavar="DIR|NPZ",
)
@click.option(
    "--survey",
    "surveys",
    multiple=True,
    metavar="NAME|YAML|FOLDER",
    help="Learn from blends in linear flux, as this survey sees them: lsst, hsc, des, sdss, a YAML "
    "file, or, with --from, a folder of FITS stamps, each with an isolated source of your survey "
    "in its centre. May be given several times.",
)
@click.option(
    "--split",
    metavar="NAME",
    show_default="train if DIR has splits.csv, else all galaxies",
    help="Learn only from the galaxies that splits.csv in DIR gives to this split.",
)
@click.option(
    "--validation-images",
    metavar="DIR|NPZ",
    show_default="split val of --images, or every tenth of its images",
    help="Galaxies for validation, which are not learned from.",
)
@click.option("--validation-split", metavar="NAME", help="Split of the galaxies for validation.")
@options.out("Folder of the run; made if missing.", metavar="RUN", required=True)
@click.option(
    "--from",
    metavar="NAME|PATH",
    help="Start from the weights of a model (see 'astrodeblend models') or .safetensors file, with "
    "its network, or with the deeper one of --config.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in RUN as if it had never stopped, with its options.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    show_default="a GPU if there is one",
    help="Where the network is trained.",
)
@click.option(
    "--paper",
    is_flag=True,
    default=None,
    help="The configuration of Reiman & Goehre (2019): network, loss, learning rates, "
    "discriminator, burn-in. Other options override it.",
)
@click.option(
    "--config",
    metavar="NAME|JSON",
    help="The configuration of a model, of a card, or of a JSON file with fields of "
    "TrainingConfig. Other options override it.",
)
@click.option(
    "--network",
    type=click.Choice(["unet", "reiman2019", "band_unet"]),
    show_default="unet; with --survey band_unet",
    help="Architecture: a U-shaped network for pictures, that of the paper, or one for flux.",
)
@_config_options
@options.quiet
def train(out, resume, device, **given):
    """Train a model on your own galaxies.

    Blends are simulated during the run: pictures of the galaxies of --images, blended by --recipe,
    or with --survey linear flux. RUN has model.safetensors and its card model.json, log.csv (losses
    and validation), validation.png (in each column a blend, its central galaxy, the truth, its
    companion, the truth) and checkpoint.safetensors.

    Ctrl-C saves the run and ends with exit code 130. After that, or a crash, --resume continues
    exactly. At the end error bars are fitted, as by 'astrodeblend finish'.
    """
    speaks = (
        int(os.environ.get("RANK", "0")) == 0
    )  # of the processes that torchrun starts, the first
    run = Path(out)
    given = {name: value for name, value in given.items() if value not in (None, ())}
    if run.exists() and not run.is_dir():
        raise FileExistsError(f"{out!r} is a file; choose another name for the run's folder")
    started = (run / "checkpoint.safetensors").exists()
    if started and not resume:
        raise FileExistsError(
            f"{out!r} holds a run already; continue it by --resume, or choose another folder"
        )
    record = _read_record(run) if resume else None
    if record is None:
        record = {"command": _as_command(out, given), "images": {}, "config": {}}
    else:  # the configuration is in the record, --paper included
        given.pop("paper", None)
        if not started:
            _say(f"{out} has no checkpoint yet: starting from the beginning", speaks)
            resume = False
    if not started and "from" in given:
        record["from"] = given["from"]
    record["images"] |= {name: value for name, value in given.items() if name in IMAGES}

    import torch

    from astrodeblend.files import atomic_path
    from astrodeblend.networks import build
    from astrodeblend.training import train as train_model
    from astrodeblend.training.heads import FEWEST_BLENDS
    from astrodeblend.training.run import check_compiler, load_parent, read_state
    from astrodeblend.weights import Card, read_card

    if started:  # --steps may have been raised since the start
        record["config"] = read_state(run / "checkpoint.safetensors")["config"]
    # The checkpoint has the parent model; a repeated --from is compared with it.
    start = given.get("from") if resume else record.get("from")
    config = _training_config(given, record["config"], start)
    folder = record["images"].get("images")
    if folder is None and not config.surveys:
        raise ValueError("--images is missing: give the folder of galaxies to learn from")
    if start is not None:
        load_parent(start, build(**config.network), weights=False)  # raises before the work
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu")
    if config.compile:
        check_compiler(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if config.burn_in and config.vgg is None:
        _say("burn-in without --vgg: with the pixel loss alone, without VGG19 features", speaks)
    galaxies, others = _galaxies(config, start, record, started=started, speaks=speaks)
    number = 0 if galaxies is None else len(galaxies)
    if number:
        judges = "no" if others is None else len(others)
        _say(f"learning from {number} galaxies, validated on {judges} others", speaks)
    blends = f"blends of {', '.join(config.surveys)}" if config.surveys else f"{number} galaxies"
    source = Path(folder or config.surveys[0]).resolve().name
    card = Card(
        name=run.resolve().name,
        description=f"a {config.network['kind']} trained on {blends}",
        network=config.network,
        training={"command": record["command"]},
        data=f"{number} images of {source}" if number else "parametric galaxies",
    )
    if speaks and not started:
        run.mkdir(parents=True, exist_ok=True)
        with atomic_path(run / "run.json", overwrite=True) as file:
            file.write_text(json.dumps({**record, "config": config.to_dict()}, indent=2) + "\n")
    model = train_model(
        config, galaxies, run, validation=others, start=start, resume=resume, device=device,
        card=card, progress=speaks,
    )  # fmt: skip
    if not speaks:
        return
    if model is None:
        _say(
            f"stopped and saved; continue by: astrodeblend train --out {shlex.quote(out)} --resume"
        )
        raise SystemExit(130)  # what shells have for Ctrl-C
    _say(f"wrote {model}; use it by --model {shlex.quote(str(model))}")
    learned = read_card(model).training["steps"] * config.batch  # --minutes may end it early
    images = record["images"]
    if config.surveys:  # galaxies that were not learned from, or parametric ones
        others = images.get("validation_images")
        images = {"images": others} if _are_cut_out(others) else {}
    if config.familiarity_blends and learned >= FEWEST_BLENDS:
        _say("fitting error bars, which takes minutes; after Ctrl-C use 'astrodeblend finish'")
        _finish(model, **images)
    else:
        why = "--familiarity-blends 0"
        if config.familiarity_blends:
            why = f"learned from {learned} blends, fewer than {FEWEST_BLENDS}"
        words = ["astrodeblend", "finish", str(model)]
        if "images" in images:
            words += ["--images", images["images"]]
        _say(f"{why}: no error bars are fitted; fit them by: {shlex.join(words)}")


@options.command(
    "astrodeblend finish runs/mine/model.safetensors --images galaxies",
    "astrodeblend finish runs/fields/model.safetensors",
)
@click.argument("model", metavar="MODEL")
@options.images(
    "Folder of the galaxies that a model of pictures was trained on, of which split val is used; "
    "for flux optional, an .npz file of galaxies.",
    metavar="DIR|NPZ",
)
@options.quiet
def finish(model, images):
    """Fit error bars to a trained model, and the scores of how far to trust it.

    For pictures: the distance from the training blends, the blend score, and error bars. For flux:
    error bars. For fields: probabilities of sources, and error bars. MODEL and its card are
    rewritten with the same weights. For pictures this takes a quarter of an hour or more on one
    core.
    """
    if any(_finish(model, images).values()):
        raise SystemExit(1)


def _finish(model, images=None, **parts):
    """Fit the parts, and say which were fitted, and why others were not."""
    from astrodeblend.finish import finish as fit

    failed = fit(model, images, **parts)
    for part, error in failed.items():
        _say(f"{part}: {'fitted' if error is None else f'not fitted, {error}'}")
    return failed


def _galaxies(config, start, record, *, started, speaks):
    """Read the galaxies for training and those for validation; None if there are none."""
    from astrodeblend.simulate import Morphologies, cut_galaxies, read_images, share_out
    from astrodeblend.training import BlendStream

    images = record["images"]
    if any(Path(survey).is_dir() for survey in config.surveys):
        return _stamps_of_ones_own(config, start, images)
    if config.surveys and _are_cut_out(images.get("images")):
        if "split" in images or "validation_split" in images:
            raise ValueError(
                f"--images {images['images']!r} has no splits; write a file for each of them"
            )
        paths = (images["images"], images.get("validation_images"))
        return tuple(path and Morphologies.read(path) for path in paths)
    if not images:
        return None, None
    learn, judge = share_out(**images)
    _check_galaxies(record, learn, started=started)
    read = cut_galaxies if config.surveys else read_images
    galaxies = read(learn, progress=speaks)
    others = read(judge, progress=speaks) if judge and speaks else None
    for each in () if config.surveys else (galaxies, others):  # raises before the folder is made
        if each is not None:
            BlendStream(each, config.recipe, batch=config.batch, seed=config.seed)
    return galaxies, others


def _are_cut_out(images):
    return str(images).endswith(".npz")


def _stamps_of_ones_own(config, start, images):
    """Return isolated sources in units of the noise, as the model to start from splits them off.

    Every tenth is for validation.
    """
    import numpy as np
    from astropy.nddata import extract_array
    from tqdm import tqdm

    from astrodeblend import Deblender
    from astrodeblend.simulate.survey_batches import STAMP
    from astrodeblend.weights import find_model

    (folder, *others) = config.surveys
    if others or images or start is None:
        raise ValueError(
            f"--survey {folder!r} is a folder of stamps of your own: give no other --survey, no "
            "--images, and a model to start from (--from survey)"
        )
    kinds = {".fits", ".fit", ".fts"}
    paths = sorted(p for p in Path(folder).rglob("*") if kinds & set(p.suffixes))
    if len(paths) < 20:
        raise ValueError(f"--survey {folder!r} holds {len(paths)} FITS files; give at least 20")
    deblender = Deblender.load(find_model(start), device="cpu")
    light, bad = [], []
    for path in tqdm(paths, "reading stamps", unit="stamp"):
        try:
            result = deblender(path)
        except (ValueError, TypeError, OSError) as error:  # the other stamps are still used
            bad.append(f"{path}: {error}")
            continue
        sky, noise = (np.reshape(result.meta[k], (-1, 1, 1)) for k in ("background", "noise"))
        both = result.central.data + result.companion.data
        both = (both.reshape(-1, *both.shape[-2:]) - 2 * sky) / noise
        if light and len(both) != len(light[0]):
            raise ValueError(
                f"{str(path)!r} has {len(both)} bands, and those before {len(light[0])}; give "
                "stamps of the same bands"
            )
        bands, y, x = both.shape
        middle = (bands / 2, y // 2, x // 2)
        light.append(extract_array(both, (bands, STAMP, STAMP), middle, fill_value=0))
    for words in bad:
        _say(f"left out {words}")
    if len(light) < 20:
        raise ValueError(f"--survey {folder!r}: {len(light)} stamps can be used; give at least 20")
    light = np.array(light, np.float32)
    judged = np.arange(len(light)) % 10 == 0
    return light[~judged], light[judged]


def _say(text, aloud=True):
    """Print a message on stderr, as progress bars are."""
    if aloud:
        click.echo(text, err=True)


def _read_record(run):
    """Return the record of a run, or None if this command did not start it."""
    path = run / "run.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read ({error}); remove it and give all options again"
        ) from error


def _as_command(out, given):
    """Return the command that starts the run, as one line."""
    words = ["astrodeblend", "train"]
    given = {**given, "out": out}
    for survey in given.pop("surveys", ()):
        words += ["--survey", survey]
    for name, value in given.items():
        words.append(f"--{'no-' if value is False else ''}{name.replace('_', '-')}")
        words += [] if isinstance(value, bool) else [str(value)]
    return shlex.join(words)


def _training_config(given, choices, start=None):
    """Return the configuration: options override --config or --paper, and ``choices``.

    ``choices`` are those of the run's record. Without another choice, the network is that of the
    model to start from.
    """
    from astrodeblend.training.loop import FREE
    from astrodeblend.weights import read_card

    if "config" in given:
        if "paper" in given:
            raise ValueError("--config and --paper both make all choices; give one of them")
        chosen = _read_config(given["config"])
        if choices:  # of a run to resume: fields that may change keep their present values
            chosen = {name: value for name, value in chosen.items() if name not in FREE}
        choices = choices | chosen
    choices = choices | {name: value for name, value in given.items() if name in FIELDS}
    if "surveys" in given:
        choices = {"loss": "flux", **choices, "surveys": given["surveys"]}
    if "network" in given:
        marks = {} if given["network"] == "reiman2019" else {"marks": True}
        choices["network"] = {"kind": given["network"], **marks}
    elif start is not None and "paper" not in given and "network" not in choices:
        choices["network"] = read_card(start).network
    elif choices.get("surveys") and "network" not in choices:
        choices["network"] = {"kind": "band_unet", "marks": True}
    config = reiman2019(**choices) if "paper" in given else TrainingConfig(**choices)
    if config.vgg is not None:
        if not config.burn_in:
            raise ValueError("--vgg is for the burn-in; give --burn-in N too (the paper: 2000)")
        if config.vgg != "torchvision" and not Path(config.vgg).is_file():
            raise FileNotFoundError(
                f"--vgg {config.vgg!r} does not exist; give a file with VGG19 weights, or "
                "torchvision to fetch them"
            )
    return config


def _read_config(path):
    """Read a configuration from a model's card or a JSON file."""
    from astrodeblend.weights import find_model, list_models

    known = {field.name for field in fields(TrainingConfig)}
    if path in list_models():
        path = str(find_model(path).with_suffix(".json"))
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"--config {path!r} does not exist; give a model's card, a JSON file of choices, or "
            f"one of {', '.join(list_models())}"
        )
    try:
        values = json.loads(Path(path).read_text())
        if "training" in values:  # a card
            values = values["training"]["config"]
        wrong = sorted(values.keys() - known)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--config {path!r} is neither a model's card nor a JSON file of choices ({error})"
        ) from error
    if wrong:
        raise ValueError(
            f"--config {path!r} has {', '.join(wrong)}; choices are {', '.join(sorted(known))}"
        )
    return values


def _check_galaxies(record, paths, *, started):
    """Record which galaxies are learned from; refuse others when a run is resumed."""
    folder = Path(record["images"]["images"])
    names = "\n".join(path.relative_to(folder).as_posix() for path in paths)
    digest = hashlib.sha256(names.encode()).hexdigest()
    known = record.get("galaxies", digest) if started else digest
    record["galaxies"] = known
    if known != digest:
        raise ValueError(
            f"--images {record['images']['images']!r}: these {len(paths)} galaxies are not those "
            "that the run was begun with; give the same, or choose another folder for a new run"
        )
