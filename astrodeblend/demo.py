"""The demonstration: real blends of the Hubble Deep Field, deblended."""

from pathlib import Path

from astropy.io import fits
from astropy.nddata import NDDataRef
from astropy.table import vstack

from astrodeblend.files import atomic_paths
from astrodeblend.images import image_to_hdus, read_image, write_fits
from astrodeblend.plot import panels
from astrodeblend.results import provenance

__all__ = ["BLENDS", "FILES", "run_demo"]

#: Pixels (x, y) of the brighter galaxy of the clearest blends of two in
#: `skimage.data.hubble_deep_field`: alike in brightness, a dip of light between, no others near.
BLENDS = (
    (656.4, 591.3), (182.3, 710.1), (540.3, 724.7), (289.9, 107.8), (334.4, 312.8), (446.2, 152.3),
    (722.7, 636.5), (726.8, 473.5), (213.4, 561.9), (862.2, 758.4), (335.9, 76.3), (29.6, 705.8),
)  # fmt: skip
#: What `run_demo` writes.
FILES = {
    "panels.png": "each blend, its two galaxies, and what is left",
    "stamps.fits": "blends and galaxies, as FITS",
    "catalogue.ecsv": "the table, with fluxes and shapes",
}


def run_demo(deblender, image, positions, folder, *, overwrite=False, say=lambda text: None):
    """Deblend blends of a picture, and write `FILES` to a folder; return the results.

    ``positions`` are (x, y) of the central galaxies in pixels. The folder is made if its parent
    exists. ``say`` is called with lines of text on the progress.
    """
    say(f"deblending the {len(positions)} clearest blends")
    image = read_image(image)
    results = [deblender(image, position=position) for position in positions]
    folder, catalogue = Path(folder), _catalogue(results)
    with atomic_paths(folder, FILES, overwrite=overwrite) as (drawing, stamps, table):
        panels(results).savefig(drawing)
        write_fits(_stamps(results), stamps)
        catalogue.write(table, format="ascii.ecsv")
    say("\n".join(_short(catalogue).pformat(max_lines=-1, max_width=-1)))
    for name, content in FILES.items():
        say(f"{folder / name}: {content}")
    return results


def _catalogue(results):
    """Stack the tables of all blends, numbered from 1 in the column ``blend``."""
    tables = []
    for number, result in enumerate(results, start=1):
        table = result.to_table()
        table.add_column([number] * len(table), 0, "blend")
        table.meta = {}
        tables.append(table)
    catalogue = vstack(tables)
    catalogue.meta = {
        name: results[0].meta[name] for name in ("version", "model", "network", "sha256")
    }
    return catalogue


def _short(catalogue):
    """Return the columns of the catalogue that are printed, with the flux of all bands summed."""
    short = catalogue["blend", "component", "x_centroid", "y_centroid", "ellipticity"]
    short["flux"] = catalogue["segment_flux"].sum(axis=1)
    for name, digits in (("x_centroid", 1), ("y_centroid", 1), ("ellipticity", 2), ("flux", 0)):
        short[name].info.format = f".{digits}f"
    return short


def _cut(image, result):
    """Return the part of an image that the stamp covers."""
    part = (slice(None), *(slice(*ends) for ends in result.meta["stamp_box"]))
    return NDDataRef(image)[part]


def _stamps(results):
    """Return extensions BLEND1, CENTRAL1, COMPANION1, BLEND2 and so on."""
    hdus = [fits.PrimaryHDU(header=provenance(results[0].image, results[0].meta))]
    for number, result in enumerate(results, start=1):
        for name in ("image", "central", "companion"):
            extension = f"{'blend' if name == 'image' else name}{number}".upper()
            hdus += image_to_hdus(_cut(getattr(result, name), result), extension)
    return hdus
