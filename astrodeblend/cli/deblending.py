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
@options.out("FITS file to write; compressed if it ends in .fits.gz.", required=True)
@options.model(None)
@click.option(
    "--position",
    metavar="POSITION",
    show_default="the centre of the image",
    help="Position of the galaxy: 'X,Y' in pixels, the first pixel being 0, or on the sky, "
    "'RA DEC' in degrees or 'hh:mm:ss dd:mm:ss'. A pair 'X,Y' that lies in the image only as "
    "degrees is taken as degrees; one that does both ways is refused.",
)
@click.option(
    "--kind",
    type=click.Choice(["picture", "flux"]),
    show_default="decided from the file; --verbose prints why",
    help="What pixel values are: displayed light up to a known white, or linear light.",
)
@click.option(
    "--noise",
    metavar="FILE",
    multiple=True,
    help="FITS file with the noise of every pixel, once for each IMAGE: standard deviations, or "
    "variances or inverse variances if its extension is named so (VAR, IVAR).",
)
@click.option(
    "--weight",
    metavar="FILE",
    multiple=True,
    help="FITS file with weights, proportional to 1/variance, instead of --noise; once for each "
    "IMAGE.",
)
@click.option(
    "--mask",
    metavar="FILE",
    multiple=True,
    help="File with 1 in pixels without data, 0 elsewhere; once, or once for each IMAGE.",
)
@click.option(
    "--psf",
    metavar="WIDTH|FILE",
    multiple=True,
    show_default="from the header",
    help="PSF: its full width at half maximum in pixels ('3.2') or as an angle ('0.8 arcsec'), or "
    "a FITS image of it; once, or once for each band.",
)
@click.option("--scene", is_flag=True, help="Find and deblend all sources of the image.")
@click.option(
    "--light",
    type=click.Choice(["apportioned", "network"]),
    show_default="apportioned for pictures, network for flux",
    help="Light of a scene's components: that of the image, apportioned among them, which keeps "
    "the flux of every pixel; or the network's, which has less noise.",
)
@click.option(
    "--purity",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    default=0.95,
    show_default=True,
    help="In a scene of flux, the expected share of true sources among those found. A lower value "
    "finds more sources.",
)
@options.plot("the image, the components and the residual")
@click.option("--catalog", metavar="FILE", help="Also write the table to this .ecsv file.")
@click.option(
    "--regions",
    metavar="FILE",
    help="Also write the sources of a scene to this .reg file, for DS9 (pip install regions).",
)
@click.option("--verbose", is_flag=True, help="Print how the image was read.")
@options.as_json
@options.quiet
@options.overwrite
@options.how
def deblend(
    images, out, model, position, kind, scene, light, purity, plot, catalog, regions, verbose,
    overwrite, how, **planes,
):  # fmt: skip
    """Deblend one galaxy, or all sources of an image.

    IMAGE is a FITS, JPEG or PNG file, or one file for each band. 'image.fits[SCI]' selects an
    extension. Bands of a picture are in the order R, G, B; those of flux in any.

    Without --scene, the galaxy at --position is separated from all other light. OUT has the
    extensions CENTRAL (the galaxy), COMPANION (all other light), IMAGE (the input) and the table
    SOURCES.

    With --scene, all sources are found and deblended. OUT has the table CATALOG, the IMAGE, the
    RESIDUAL (the image less the network's components), and one COMPONENT for each source, with its
    label in the catalogue as EXTVER.

    Each component has the image's unit and WCS; the extension _UNCERT after its name is its
    standard deviation, _MASK (if any) its pixels without data.

    Prints the table, of a scene the ten brightest sources, and how many sources have each flag.
    --json prints the names of the files, the number of sources and of those with each flag, and
    how the image was read.
    """
    if scene and position is not None:
        raise ValueError(f"--position {position!r} is for one galaxy; leave it out with --scene")
    if light is not None and not scene:
        raise ValueError(f"--light {light!r} is for scenes; give --scene too, or leave it out")
    if regions is not None and not scene:
        raise ValueError(f"--regions {regions!r} is for scenes; give --scene too, or leave it out")
    if regions is not None and find_spec("regions") is None:
        raise ValueError(f"--regions {regions!r} needs the package regions: pip install regions")
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
            result = deblender(image, position=_pixels_or_degrees(place, position, image))
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
    """Print a table, or its brightest rows, and its flags; return what --json prints."""
    from astrodeblend.flags import Flag, count_flags, decode_flags
    from astrodeblend.results import brief

    shown = brief(table, 10 if scene else None)
    if scene:
        blended = sum(table["n_blended"] > 1)
        click.echo(f"{len(table)} sources, {blended} of them blended")
    if not len(table):
        click.echo("Note: no source was found; --verbose prints how the image was read", err=True)
    if len(shown):
        click.echo(options.table_text(shown))
    if len(table) > len(shown):
        click.echo(f"and {len(table) - len(shown)} fainter sources, in {written[0]}")
    flags = count_flags(table["flags"])
    for flag, number in flags.items():
        of = f"{number} of {len(table)}: " if scene else ""
        click.echo(f"Note: {of}{flag.name}, {decode_flags(flag)[0]}", err=True)
    if Flag.NO_SOURCE in flags:
        click.echo("Note: give --position X,Y of the galaxy, or --scene to find all", err=True)
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
    """List the models of the package, or print the card of one.

    The card states what a model takes, how it was trained, its scores and its known failures.
    --json prints the whole card, or the cards of all models by name.
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
@options.out("File to write, .pt2 or .onnx.", required=True)
@options.as_json
@options.quiet
@options.overwrite
def export(model, out, overwrite):
    """Write a model as a program that runs without this package.

    OUT is a program of torch.export (.pt2), or for any runtime of ONNX (.onnx, which needs
    pip install astrodeblend[export]). It takes stamps and returns their components with standard
    deviations. Prints the program's inputs and outputs with their shapes; an axis given by name may
    have any length.
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
@options.out(
    "Folder to write to.", metavar="FOLDER", default="astrodeblend-demo", show_default=True
)
@options.whole("-n", "--number", most=12, default=6, text="Number of blends.")
@options.model("galaxyzoo")
@options.as_json
@options.quiet
@options.overwrite
@options.how
def demo(out, number, model, overwrite, how):
    """Deblend the clearest blends of the Hubble Deep Field.

    The colour picture comes with scikit-image. Prints a table of the galaxies, and writes
    panels.png (each blend, its two galaxies, the residual), stamps.fits and catalogue.ecsv. Takes
    less than a minute and no internet.
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
@options.out("HTML page to write.", metavar="OUT.html", required=True)
@options.as_json
@options.quiet
@options.overwrite
def report(source, out, overwrite):
    """Show the files that deblend wrote as one HTML page.

    FILE is an OUT of 'astrodeblend deblend', with or without --scene; DIR is a folder of such
    files. The page shows the image and the residual, a catalogue to sort and filter, every source's
    component, residual and flags, and histograms. It needs no other file and no internet. Files of
    DIR that cannot be read are listed.
    """
    from astrodeblend.page import write_page

    sources, bad = write_page(source, out, overwrite=overwrite)
    for why in bad:
        click.echo(f"Left out: {why}", err=True)
    click.echo(f"wrote {out}: {sources} sources")
    return {"files": [out], "sources": sources, "left_out": bad}


def _read(images, kind, planes):
    """Read one file, or one for each band, with noise, weights, masks and PSFs."""
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
    """Return X,Y as two numbers, any other position as a SkyCoord."""
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
            f"--position {text!r} is no position; give pixels as X,Y (512.3,488.9), or sky "
            "coordinates as 'RA DEC' ('150.11 2.2' in degrees, or '10:00:27.2 +02:12:03')"
        ) from error


def _pixels_or_degrees(place, text, image):
    """Return a pair X,Y as a place on the sky if it is inside the image only as degrees."""
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
