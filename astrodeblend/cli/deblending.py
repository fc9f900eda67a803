"""Commands that use a model: deblend, demo, models."""

import json
import re
from pathlib import Path

import click
from click.core import ParameterSource

from . import options

# What of a table fits on a screen.
SHORT = (
    "component",
    "x_centroid",
    "y_centroid",
    "sky_centroid",
    "segment_flux",
    "ellipticity",
    "flags",
)


@click.command(
    epilog=options.examples(
        "astrodeblend deblend galaxy.jpg -o out.fits --plot",
        "astrodeblend deblend coadd.fits -o out.fits --position 512.3,488.9",
        'astrodeblend deblend i.fits r.fits g.fits -o out.fits --position "150.1133 +2.2008"',
        "astrodeblend deblend coadd.fits -o scene.fits --scene --plot",
    )
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="OUT", help="FITS file to write.")
@options.model
@click.option(
    "--position",
    metavar="POSITION",
    help="Of the central galaxy: pixels X,Y counted from 0, or a place on the sky: 'RA DEC' in "
    "degrees, or 'hh:mm:ss dd:mm:ss'. Default: the middle of the image.",
)
@click.option(
    "--scene",
    is_flag=True,
    help="Find all sources of the image and take apart all that overlap.",
)
@click.option(
    "--light",
    type=click.Choice(["apportioned", "network"]),
    help="What the components of a scene hold: the light of the image, shared out among them, or "
    "what the network drew, which may be more where one hides the other.  [default: apportioned]",
)
@options.plot("what went in, the components and what is left")
@options.overwrite
@options.how
def deblend(images, out, model, position, scene, light, plot, overwrite, how):
    """Take the galaxy at a position and the one that overlaps it apart.

    IMAGE is a FITS, JPEG or PNG file ("image.fits[SCI]" chooses an extension), or several
    files, one per band, in the order the model takes them (R, G, B). OUT gets the extensions
    CENTRAL and COMPANION on the image's own pixels, with its unit and WCS, each with _UNCERT
    and, where there is one, _MASK, and the table SOURCES.

    With --scene OUT gets the table CATALOG, RESIDUAL (what no source has), and COMPONENT and
    COMPONENT_UNCERT for every source, EXTVER being its label in the catalogue.
    """
    if scene and position is not None:
        raise ValueError(f"--position {position!r} is for one blend; leave it out with --scene")
    if light is not None and not scene:
        raise ValueError(f"--light {light!r} is for scenes; give --scene too, or leave it out")
    place = _parse_position(position)
    with options.outputs(out, plot, overwrite=overwrite) as (fits_file, picture, written):
        deblender = options.load_model(model, **how)
        image = images[0] if len(images) == 1 else list(images)
        if scene:
            result = deblender.deblend_scene(image, light=light or "apportioned", progress=True)
        else:
            result = deblender(image, position=place)
        result.write(fits_file)
        if picture:
            result.plot().savefig(picture)
    from astrodeblend.results import decode_flags

    if scene:
        click.echo(repr(result))
        click.echo(written)
        return
    table = result.to_table()
    flags = 0
    for of_component in table["flags"]:
        flags |= int(of_component)
    click.echo(options.table_text(table[[name for name in SHORT if name in table.colnames]]))
    for words in decode_flags(flags):
        click.echo(f"Note: {words}", err=True)
    click.echo(written)


@click.command(
    epilog=options.examples(
        "astrodeblend models",
        "astrodeblend models galaxyzoo",
        "astrodeblend models runs/mine/model.safetensors --json",
    )
)
@click.argument("name", required=False, metavar="[NAME|PATH]")
@click.option("--json", "as_json", is_flag=True, help="Print the whole card, as it is kept.")
def models(name, as_json):
    """List the models in the package, or print the card of one.

    A card says what a model is, how it was trained and what that cost, what it scores, and
    what it is known to fail at.
    """
    if name is None:
        if as_json:
            raise ValueError("--json prints one card; say of which model")
        from astrodeblend import Deblender

        click.echo(str(Deblender.models()))
    elif as_json:
        from dataclasses import asdict

        from astrodeblend.weights import read_card

        click.echo(json.dumps(asdict(read_card(name)), indent=2))
    else:
        from astrodeblend.cards import card_text

        click.echo(card_text(name).rstrip())


@click.command(
    epilog=options.examples(
        "astrodeblend demo",
        "astrodeblend demo --out elsewhere",
        "astrodeblend demo --data galaxies --split test -n 24 -o page",
    )
)
@click.option(
    "-o",
    "--out",
    default="astrodeblend-demo",
    show_default=True,
    metavar="FOLDER",
    help="Where to; made if it is missing.",
)
@click.option(
    "--data",
    metavar="DIR",
    help="Folder of pictures to take blends from, instead of the Hubble Deep Field: those with "
    "blend_candidate = 1 in its splits.csv, or all if it has no such column.",
)
@click.option(
    "--split",
    metavar="S",
    help="Part of them, by splits.csv in DIR. Default: test if there is that table, else all.",
)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    help="How many blends at most. Default: 6, and 24 out of a folder.",
)
@options.seed
@options.model
@options.overwrite
@options.how
@click.pass_context
def demo(context, out, data, split, number, seed, model, overwrite, how):
    """Deblend the clearest blends of the Hubble Deep Field.

    The picture comes with scikit-image: real light, in colour, full of overlaps. Detects its
    sources, picks the clearest blends, deblends them, prints a table and writes panels.png,
    stamps.fits and catalogue.ecsv. Takes less than a minute and no internet.

    With --data the blends are pictures of a folder, drawn by the seed; the galaxy in the middle
    of each is the central one. They overlap in truth, and there is nothing to compare with.
    Writes panels.png and catalogue.ecsv.
    """
    from astrodeblend.demo import FILES, PAGE, deblend_folder, run_demo

    if data is None:
        _refuse_without_data(context)
    elif split is None and (Path(data) / "splits.csv").is_file():
        split = "test"
    files = FILES if data is None else PAGE
    options.check_folder(out, files, overwrite=overwrite)
    deblender = options.load_model(model, **how)
    common = {"overwrite": overwrite, "say": click.echo}
    if data is None:
        from skimage.data import hubble_deep_field

        click.echo(
            f"Hubble Deep Field (NASA, ESA; out of scikit-image), model {deblender.card.name}"
        )
        run_demo(deblender, hubble_deep_field(), out, number=number or 6, **common)
    else:
        click.echo(f"{data}, {split or 'all pictures'}, seed {seed}, model {deblender.card.name}")
        common |= {"split": split, "number": number or 24, "seed": seed, "progress": True}
        deblend_folder(deblender, data, out, **common)


def _refuse_without_data(context):
    """Refuse options of the demonstration that only choose pictures of a folder."""
    for name in ("split", "seed"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise ValueError(f"--{name} chooses pictures of a folder; give that by --data")


def _parse_position(text):
    """Turn X,Y into two numbers and anything else into a place on the sky."""
    if text is None:
        return None
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    pixels = re.fullmatch(rf"\s*({number})\s*,\s*({number})\s*", text)
    if pixels:
        return float(pixels[1]), float(pixels[2])
    from astropy.coordinates import SkyCoord

    degrees = re.fullmatch(rf"\s*{number}\s+{number}\s*", text)
    try:
        return SkyCoord(text, unit="deg" if degrees else ("hourangle", "deg"))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"--position {text!r} is no position; give pixels as X,Y (512.3,488.9), or a place on "
            "the sky as 'RA DEC' ('150.11 2.2' in degrees, or '10:00:27.2 +02:12:03')"
        ) from error
