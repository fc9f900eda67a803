"""What several commands share."""

import json
import os
import re
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import wraps
from io import StringIO
from pathlib import Path

import click
from click.core import ParameterSource

from astrodeblend.simulate.recipes import RECIPES as KNOWN

#: Recipes of blends of two, which can be judged.
RECIPES = tuple(name for name, recipe in KNOWN.items() if recipe.companions == (0.0, 1.0))

#: Titles under which help shows options; all others are "Options".
_GROUPS = {
    "Image": "position kind noise weight mask psf",
    "Scene": "scene light purity",
    "Blends": "task data survey fields split validation-images validation-split recipe "
    "final-recipe validation-recipe blends validation-blends bands sources size density number "
    "seed",
    "Model": "model from config paper network device dtype",
    "Options": "",
    "Output": "out plot catalog regions card overwrite",
    "Messages": "json quiet verbose help",
}


class _Command(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx, formatter):
        titles = {name: title for title, names in _GROUPS.items() for name in names.split()}
        groups = {title: [] for title in _GROUPS}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option):
                title = titles.get(parameter.opts[-1].removeprefix("--"), "Options")
                groups[title].append(parameter.get_help_record(ctx))
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def command(*lines):
    """Make a command whose help ends with examples."""
    return click.command(cls=_Command, epilog=examples(*lines))


def model(default):
    """Return the option --model; by default that which suits the image."""
    return click.option(
        "--model",
        default=default,
        show_default=bool(default) or "galaxyzoo for pictures, survey for flux",
        metavar="NAME|PATH",
        help="Name of a model (see 'astrodeblend models'), or its .safetensors file.",
    )


def whole(*names, text, least=1, most=None, default=None):
    """Return an option that takes a whole number."""
    kind = click.IntRange(min=least, max=most)
    shown = default is not None
    return click.option(
        *names, type=kind, metavar="N", default=default, show_default=shown, help=text
    )


def images(text, metavar="DIR", **options):
    """Return the option --images, also called --data."""
    return click.option("--images", "--data", "images", metavar=metavar, help=text, **options)


def peers(names, text, default=None):
    """Return the option --peer, which gives a tuple of names."""
    kind = click.Choice(names)
    return click.option(
        "--peer", "peers", type=kind, multiple=True, show_default=default, help=text
    )


def split(default="val if DIR has splits.csv, else all galaxies"):
    """Return the option --split."""
    return click.option(
        "--split",
        metavar="NAME",
        show_default=default,
        help="Use only the galaxies that splits.csv in DIR gives to this split, such as test.",
    )


def bands(text, default):
    """Return the option --bands, which gives a list, or None."""
    return click.option(
        "--bands",
        metavar="B,B,...",
        show_default=default,
        help=text,
        callback=lambda context, option, value: value and value.split(","),
    )


def out(text, metavar="OUT", **options):
    """Return the option --out."""
    return click.option("-o", "--out", metavar=metavar, help=text, **options)


overwrite = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
seed = whole("--seed", least=0, default=1, text="Seed of the random numbers.")
recipe = click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default="reiman2019",
    show_default=True,
    help="How pictures of two galaxies are blended.",
)
survey = click.option(
    "--survey",
    metavar="NAME|YAML",
    help="Simulate linear flux instead of pictures, as this survey sees it: lsst, hsc, des, sdss, "
    "or a YAML file.",
)


def how(command):
    """Add --device and --dtype to a command, which gets both as ``how`` for `load_model`."""

    @click.option(
        "--device",
        metavar="NAME",
        show_default="a GPU if there is one",
        help="Where the network runs: cpu, cuda or cuda:1.",
    )
    @click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16"]),
        show_default="bfloat16 for pictures and fields on processors that have it; else float32",
        help="Number format of the network's arithmetic; bfloat16 is faster and less exact.",
    )
    @wraps(command)
    def with_both(*arguments, device, dtype, **chosen):
        return command(*arguments, how={"device": device, "dtype": dtype}, **chosen)

    return with_both


def quiet(command):
    """Add --quiet to a command."""

    @click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
    @wraps(command)
    def with_quiet(*arguments, quiet, **chosen):
        if not quiet:
            return command(*arguments, **chosen)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return command(*arguments, **chosen)

    return with_quiet


def as_json(command):
    """Add --json to a command: its return value is printed instead of its text."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
    @wraps(command)
    def with_json(*arguments, as_json, **chosen):
        if not as_json:
            return command(*arguments, **chosen)
        with redirect_stdout(StringIO()):
            content = command(*arguments, **chosen)
        from astrodeblend.files import plain

        click.echo(json.dumps(plain(content), indent=2))
        return content

    return with_json


def plot(what):
    """Return the option --plot."""
    text = f"Also draw {what}, as a PNG file of OUT's name."
    return click.option("--plot", is_flag=True, help=text)


def examples(*lines):
    """Return examples as the end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def given(context, *names):
    """Return which of the named options are on the command line, such as "--a and --b"."""
    return " and ".join(
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    )


def load_model(name, **how):
    """Load a model by name or from a file, with its device and dtype."""
    from astrodeblend import Deblender

    if name is not None and name.endswith(".safetensors"):
        return Deblender.load(name, **how)
    return Deblender.from_pretrained(name, **how)


def survey_blends(survey, number, folder, split, **options):
    """Simulate the blends of a survey, with galaxies out of a folder if there is one."""
    from astrodeblend.simulate import cut_galaxies, find_images, simulate_blends

    images = folder and cut_galaxies(find_images(folder, split=split), progress=True)
    return simulate_blends(survey, number, images=images, progress=True, **options)


@contextmanager
def outputs(out, plot, *, overwrite, inputs=(), others=()):
    """Refuse output files before the work, write them after it, all or none.

    ``inputs`` are files that may not be overwritten. Yields the temporary paths of ``out``, of its
    picture and of ``others`` (None where no file is wanted), and the names of the final files.
    """
    from astrodeblend.files import atomic_path

    with ExitStack() as stack:
        bare = out[:-3] if out.lower().endswith(".gz") else out
        suffix = Path(bare).suffix.lower()
        if suffix not in ("", ".fits", ".fit", ".fts"):
            raise ValueError(
                f"--out {out!r} is no name of a FITS file: end it in .fits, not {suffix}"
            )
        paths = [Path(out), Path(out).with_suffix(".png") if plot else None]
        paths += [other and Path(other) for other in others]
        wanted = [path for path in paths if path is not None]
        for path in wanted:
            if sum(path.resolve() == other.resolve() for other in wanted) > 1:
                raise ValueError(f"{str(path)!r} would be written twice; choose another name")
            for name in inputs:
                read = Path(re.sub(r"\[[^\[\]]+\]$", "", name))
                if path.exists() and read.exists() and path.samefile(read):
                    raise ValueError(
                        f"{str(path)!r} would overwrite the input {name!r}, the same file; "
                        "choose another --out"
                    )
        places = [
            path and stack.enter_context(atomic_path(path, overwrite=overwrite)) for path in paths
        ]
        yield places, [str(path) for path in wanted]


def wrote(files):
    """Say which files were written."""
    *first, last = files
    return f"wrote {', '.join(first)} and {last}" if first else f"wrote {last}"


def check_folder(folder, names, *, overwrite):
    """Refuse, before the work, an output folder that cannot take files of these names."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file; choose another name for the folder")
    nearest = folder if folder.is_dir() else folder.parent
    if not nearest.is_dir():
        raise FileNotFoundError(
            f"cannot write to {str(folder)!r}: the folder {str(nearest)!r} does not exist; "
            "make it first"
        )
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{str(folder)!r} holds {', '.join(there)} already; choose another folder by --out, "
            "or replace them by --overwrite"
        )
    if not os.access(nearest, os.W_OK):
        raise PermissionError(
            f"cannot write to {str(folder)!r}: {str(nearest)!r} is read-only; choose another folder"
        )


def table_text(table):
    """Return a whole table as text, with the bands of a column side by side."""
    from astropy.coordinates import SkyCoord

    shown = table.copy()
    for name in shown.colnames:
        column = shown[name]
        if isinstance(column, SkyCoord):  # as --position takes it
            shown[name] = column.to_string("decimal", precision=6)
            shown[name].unit = "deg"
        elif column.ndim == 2:
            values = getattr(column, "value", column)
            shown[name] = [", ".join(f"{value:.5g}" for value in row) for row in values]
            shown[name].unit = column.unit
        elif column.dtype.kind == "f":
            shown[name].info.format = ".5g"
    return "\n".join(shown.pformat(max_lines=-1, max_width=-1, show_unit=None))
