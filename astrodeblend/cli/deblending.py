"""Commands that use a model, or what it wrote: deblend, demo, models, report."""

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
    "flag_names",
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
@options.model(None)
@click.option(
    "--position",
    metavar="POSITION",
    help="Of the central galaxy: pixels X,Y counted from 0, or a place on the sky: 'RA DEC' in "
    "degrees, or 'hh:mm:ss dd:mm:ss'. X,Y that only as degrees is inside the image is read as "
    "such; what may be either is refused. Default: the middle of the image.",
)
@click.option(
    "--kind",
    type=click.Choice(["picture", "flux"]),
    help="What the values of the image are. Default: what it looks like, see --verbose.",
)
@click.option(
    "--noise",
    metavar="FILE",
    multiple=True,
    help="FITS file of standard deviations (of variances or inverse variances if its name in the "
    "file says so); once, or once per band.",
)
@click.option(
    "--weight",
    metavar="FILE",
    multiple=True,
    help="FITS file of weights, in proportion to inverse variances, in place of --noise.",
)
@click.option(
    "--mask",
    metavar="FILE",
    multiple=True,
    help="File with 1 where the image has no data; once, or once per band.",
)
@click.option(
    "--psf",
    metavar="WIDTH|FILE",
    multiple=True,
    help="Full width at half maximum of the PSF, in pixels ('3.2') or as an angle ('0.8 arcsec'), "
    "or FITS file of an image of it; once, or once per band. Default: what the header states.",
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
    "what the network drew, which has less noise, and more where one hides the other.  [default: "
    "apportioned of pictures, network of flux]",
)
@click.option(
    "--purity",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.98,
    show_default=True,
    help="Share of true sources to be expected among those found in a scene of flux. A lower one "
    "finds more.",
)
@options.plot("what went in, the components and what is left")
@click.option("--verbose", is_flag=True, help="Say how the image was read, and what was not.")
@options.overwrite
@options.how
def deblend(
    images, out, model, position, kind, scene, light, purity, plot, verbose, overwrite, how,
    **planes,
):  # fmt: skip
    """Take the galaxy at a position and the one that overlaps it apart.

    IMAGE is a FITS, JPEG or PNG file ("image.fits[SCI]" chooses an extension), or several
    files, one per band, in the order the model takes them (R, G, B). OUT gets the extensions
    CENTRAL and COMPANION on the image's own pixels, with its unit and WCS, each with _UNCERT
    and, where there is one, _MASK, IMAGE (what went in), and the table SOURCES.

    With --scene OUT gets the table CATALOG, IMAGE, RESIDUAL (what no source has), and COMPONENT and
    COMPONENT_UNCERT for every source, EXTVER being its label in the catalogue.
    """
    if scene and position is not None:
        raise ValueError(f"--position {position!r} is for one blend; leave it out with --scene")
    if light is not None and not scene:
        raise ValueError(f"--light {light!r} is for scenes; give --scene too, or leave it out")
    place = _parse_position(position)
    inputs = [*images, *(name for names in planes.values() for name in names)]
    files = options.outputs(out, plot, overwrite=overwrite, inputs=inputs)
    with files as (fits_file, picture, written):
        image = _read(images, kind, planes)
        deblender = options.load_model(model, **how)
        if scene:
            result = deblender.deblend_scene(image, light=light, purity=purity, progress=True)
        else:
            result = deblender(image, position=_told_apart(place, position, image))
        for words in result.meta["words"] if verbose else ():
            click.echo(words, err=True)
        result.write(fits_file)
        if picture:
            result.plot().savefig(picture)
    table = result.catalog if scene else result.to_table()
    if scene:
        click.echo(repr(result))
    else:
        click.echo(options.table_text(table[[name for name in SHORT if name in table.colnames]]))
    _tell(table["flags"])
    click.echo(written)


def _tell(flags):
    """Say what there is to know of sources, and of how many."""
    from astrodeblend import Flag, decode_flags

    for flag in Flag:
        number = sum(bool(value & flag) for value in flags)
        if number:
            of = f"{number} of {len(flags)}: " if len(flags) > 2 else ""
            click.echo(f"Note: {of}{flag.name}, {decode_flags(flag)[0]}", err=True)


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
@options.model("galaxyzoo")
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


@click.command(
    epilog=options.examples(
        "astrodeblend report scene.fits -o scene.html",
        "astrodeblend report scenes/ -o scenes.html --overwrite",
    )
)
@click.argument("source", metavar="FILE|DIR")
@click.option("-o", "--out", required=True, metavar="OUT.html", help="HTML page to write.")
@options.overwrite
def report(source, out, overwrite):
    """Show what deblend wrote as one HTML page.

    FILE is a scene or a result, DIR a folder of them. The page shows the images, a catalogue to
    sort and to filter, every source's component and residual, flags in words, and distributions.
    It needs no other file and no internet. A file of DIR that cannot be read is named, and the
    rest is shown.
    """
    from astrodeblend.page import write_page

    sources, bad = write_page(source, out, overwrite=overwrite)
    for why in bad:
        click.echo(f"Left out: {why}", err=True)
    click.echo(f"wrote {out}: {sources} sources")


def _refuse_without_data(context):
    """Refuse options of the demonstration that only choose pictures of a folder."""
    for name in ("split", "seed"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise ValueError(f"--{name} chooses pictures of a folder; give that by --data")


def _read(images, kind, planes):
    """Read one image, or several of one band each, with noise, weights, masks and PSFs."""
    from astrodeblend.images import read_image

    one = len(images) == 1
    given = {
        "uncertainty" if name == "noise" else name: files[0] if len(files) == 1 else list(files)
        for name, files in planes.items()
        if files
    }
    return read_image(images[0] if one else list(images), kind=kind, **given)


def _parse_position(text):
    """Turn X,Y into two numbers and anything else into a place on the sky."""
    if text is None:
        return None
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    pixels = re.fullmatch(rf"\s*({number})\s*(?:px)?\s*,\s*({number})\s*(?:px)?\s*", text)
    if pixels:
        return float(pixels[1]), float(pixels[2])
    from astropy.coordinates import SkyCoord

    pair = text.replace(",", " ")
    degrees = re.fullmatch(rf"\s*({number})\s*(?:d|deg|°)?\s+({number})\s*(?:d|deg|°)?\s*", pair)
    try:
        if degrees:
            return SkyCoord(float(degrees[1]), float(degrees[2]), unit="deg")
        return SkyCoord(pair, unit=("hourangle", "deg"))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"--position {text!r} is no position; give pixels as X,Y (512.3,488.9), or a place on "
            "the sky as 'RA DEC' ('150.11 2.2' in degrees, or '10:00:27.2 +02:12:03')"
        ) from error


def _told_apart(place, text, image):
    """Return a position, what was written as pixels as degrees if only so it is in the image."""
    if not isinstance(place, tuple) or image.wcs is None or "px" in text:
        return place
    if not (0 <= place[0] <= 360 and abs(place[1]) <= 90):
        return place
    from astropy.coordinates import SkyCoord

    from astrodeblend.images import pixel_position

    inside = {}
    for name, each in (("pixels", place), ("degrees", SkyCoord(*place, unit="deg"))):
        try:
            pixel_position(image, each)
            inside[name] = each
        except ValueError:
            continue
    if len(inside) != 1:
        where = "inside the image both" if inside else "outside the image"
        raise ValueError(
            f"--position {text!r} is {where} as pixels and as degrees; write '{place[0]:g} "
            f"{place[1]:g}' for degrees, '{place[0]:g}px,{place[1]:g}px' for pixels"
        )
    ((name, place),) = inside.items()
    other = "'RA DEC' would be degrees" if name == "pixels" else "as pixels it is outside the image"
    click.echo(f"Note: --position {text!r} is read as {name}; {other}", err=True)
    return place
