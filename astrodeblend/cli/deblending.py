"""Commands that use a model, or what it wrote: deblend, demo, export, models, report."""

import re
from importlib.util import find_spec
from pathlib import Path

import click

from . import options


@options.command(
    "astrodeblend deblend galaxy.jpg -o out.fits --plot",
    "astrodeblend deblend coadd.fits -o out.fits --position 512.3,488.9",
    'astrodeblend deblend i.fits r.fits g.fits -o out.fits --position "150.1133 +2.2008"',
    "astrodeblend deblend coadd.fits -o scene.fits --scene --plot",
    "astrodeblend deblend coadd.fits -o scene.fits --scene --catalog sources.ecsv --json",
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="OUT",
    help="FITS file to write; one that ends in .fits.gz is smaller.",
)
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
    "file says so); once per IMAGE.",
)
@click.option(
    "--weight",
    metavar="FILE",
    multiple=True,
    help="FITS file of weights, in proportion to inverse variances, in place of --noise; once per "
    "IMAGE.",
)
@click.option(
    "--mask",
    metavar="FILE",
    multiple=True,
    help="File with 1 where the image has no data; once, or once per IMAGE.",
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
    default=0.95,
    show_default=True,
    help="Share of true sources to be expected among those found in a scene of flux. A lower one "
    "finds more.",
)
@options.plot("what went in, the components and what is left")
@click.option("--catalog", metavar="FILE", help="Also write the table to a file of its own, .ecsv.")
@click.option(
    "--regions",
    metavar="FILE",
    help="Also write the sources of a scene as regions for DS9, .reg; takes the package regions.",
)
@click.option("--verbose", is_flag=True, help="Say how the image was read, and what was not.")
@options.as_json
@options.quiet
@options.overwrite
@options.how
def deblend(
    images, out, model, position, kind, scene, light, purity, plot, catalog, regions, verbose,
    overwrite, how, **planes,
):  # fmt: skip
    """Take a galaxy, or all sources of an image, apart from what overlaps.

    Without --scene it is the galaxy at --position, and all else around it. IMAGE is a FITS, JPEG
    or PNG file ("image.fits[SCI]" chooses an extension), or several files, one per band, in the
    order the model takes them (R, G, B). OUT gets the extensions CENTRAL and COMPANION on the
    image's own pixels, with its unit and WCS, each with _UNCERT and, where there is one, _MASK,
    IMAGE (what went in), and the table SOURCES.

    With --scene OUT gets the table CATALOG, IMAGE, RESIDUAL (what no source has), and COMPONENT and
    COMPONENT_UNCERT for every source, EXTVER being its label in the catalogue. Printed are the
    brightest sources, and how many have which flag.

    --json prints the files, the number of sources, how many have which flag, and meta: how the
    image was read and taken apart.
    """
    if scene and position is not None:
        raise ValueError(f"--position {position!r} is for one blend; leave it out with --scene")
    if light is not None and not scene:
        raise ValueError(f"--light {light!r} is for scenes; give --scene too, or leave it out")
    if regions is not None and not scene:
        raise ValueError(f"--regions {regions!r} is for scenes; give --scene too, or leave it out")
    if regions is not None and find_spec("regions") is None:
        raise ValueError("--regions takes the package regions: pip install regions")
    for name, path, end in (("catalog", catalog, ".ecsv"), ("regions", regions, ".reg")):
        if path is not None and Path(path).suffix != end:
            raise ValueError(f"--{name} {path!r} has to end in {end}")
    place = _parse_position(position)
    inputs = [*images, *(name for names in planes.values() for name in names)]
    others = catalog, regions
    files = options.outputs(out, plot, overwrite=overwrite, inputs=inputs, others=others)
    with files as ((fits_file, picture, table_file, regions_file), written):
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
        if table_file:
            table.write(table_file)
        if regions_file:
            result.write_regions(regions_file)
    return _tell(table, result.meta, written, scene)


def _tell(table, meta, written, scene):
    """Print a table, or its brightest rows, and its flags; return what there is for a script."""
    from astrodeblend.flags import Flag, count_flags, decode_flags
    from astrodeblend.results import brief

    shown = brief(table, 10 if scene else None)
    if scene:
        blended = sum(table["n_blended"] > 1)
        click.echo(f"{len(table)} sources, {blended} of them blended")
    if not len(table):
        click.echo("Note: nothing was found; --verbose says how the image was read", err=True)
    if len(shown):
        click.echo(options.table_text(shown))
    if len(table) > len(shown):
        click.echo(f"and {len(table) - len(shown)} fainter ones, in {written[0]}")
    flags = count_flags(table["flags"])
    for flag, number in flags.items():
        of = f"{number} of {len(table)}: " if scene else ""
        click.echo(f"Note: {of}{flag.name}, {decode_flags(flag)[0]}", err=True)
    if Flag.NO_SOURCE in flags:
        click.echo("Note: --position X,Y says where the galaxy is; --scene finds all", err=True)
    click.echo(options.wrote(written))
    counts = {flag.name: number for flag, number in flags.items()}
    return {"files": written, "sources": len(table), "flags": counts, "meta": meta}


@options.command(
    "astrodeblend models",
    "astrodeblend models galaxyzoo",
    "astrodeblend models runs/mine/model.safetensors --json",
)
@click.argument("name", required=False, metavar="[NAME|PATH]")
@options.as_json
def models(name):
    """List the models in the package, or print the card of one.

    A card says what a model is, how it was trained and what that cost, what it scores, and
    what it is known to fail at. --json prints the whole card, as it is kept, or those of all
    models by their names.
    """
    from dataclasses import asdict

    from astrodeblend import Deblender
    from astrodeblend.cards import card_text
    from astrodeblend.weights import list_models, read_card

    if name is None:
        click.echo(str(Deblender.models()))
        return {name: asdict(read_card(name)) for name in list_models()}
    click.echo(card_text(name).rstrip())
    return asdict(read_card(name))


@options.command(
    "astrodeblend export galaxyzoo -o galaxyzoo.onnx",
    "astrodeblend export runs/mine/model.safetensors -o mine.pt2 --overwrite",
)
@click.argument("model", metavar="NAME|PATH")
@click.option("-o", "--out", required=True, metavar="OUT", help="File to write, .pt2 or .onnx.")
@options.as_json
@options.quiet
@options.overwrite
def export(model, out, overwrite):
    """Write a model as a program that runs where this package is not.

    OUT is for torch.export (.pt2) or for any runtime of ONNX (.onnx, which takes pip install
    astrodeblend[export]). The program takes stamps as they are and returns their components, with
    scaling and error bars inside. Printed are its inputs and outputs; a length in words may be any.
    """
    from astrodeblend.export import export_model

    about = export_model(model, out, overwrite=overwrite)
    for what in ("inputs", "outputs"):
        for name, axes in about[what].items():
            click.echo(f"{what[:-1]:6} {name}: ({', '.join(map(str, axes))})")
    click.echo(options.wrote([out]))
    return {"files": [out], **about}


@options.command(
    "astrodeblend demo",
    "astrodeblend demo --out elsewhere",
)
@options.folder("Where to; made if it is missing.", default="astrodeblend-demo", show_default=True)
@options.number("How many blends, of 12.", most=12, default=6, show_default=True)
@options.model("galaxyzoo")
@options.as_json
@options.quiet
@options.overwrite
@options.how
def demo(out, number, model, overwrite, how):
    """Deblend the clearest blends of the Hubble Deep Field.

    The picture comes with scikit-image: real light, in colour, full of overlaps. Deblends the
    clearest ones, prints a table and writes panels.png, stamps.fits and catalogue.ecsv. Takes less
    than a minute and no internet.
    """
    from skimage.data import hubble_deep_field

    from astrodeblend.demo import BLENDS, FILES, run_demo

    options.check_folder(out, FILES, overwrite=overwrite)
    deblender = options.load_model(model, **how)
    click.echo(f"Hubble Deep Field (NASA, ESA; out of scikit-image), model {deblender.card.name}")
    common = {"overwrite": overwrite, "say": click.echo}
    run_demo(deblender, hubble_deep_field(), BLENDS[:number], out, **common)
    return {"files": [str(Path(out) / name) for name in FILES], "model": deblender.card.name}


@options.command(
    "astrodeblend report scene.fits -o scene.html",
    "astrodeblend report scenes/ -o scenes.html --overwrite",
)
@click.argument("source", metavar="FILE|DIR")
@click.option("-o", "--out", required=True, metavar="OUT.html", help="HTML page to write.")
@options.as_json
@options.quiet
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
    return {"files": [out], "sources": sources, "left_out": bad}


def _read(images, kind, planes):
    """Read one image, or several of one band each, with noise, weights, masks and PSFs."""
    from astrodeblend.images import read_image

    one = len(images) == 1
    for name, files in planes.items():
        enough = {len(images)} if name in ("noise", "weight") else {1, len(images)}
        if files and not one and len(files) not in enough:
            raise ValueError(
                f"--{name} is given {len(files)} times for the {len(images)} images "
                f"{', '.join(images)}; give it for each: --{name} FILE --{name} FILE"
            )
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
