"""The demonstration: the clearest blends of a picture, taken apart."""

from pathlib import Path

from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import Column, vstack

from astrodeblend.detect import find_sources, select_blends
from astrodeblend.files import atomic_path
from astrodeblend.images import image_to_hdus, read_image, write_fits
from astrodeblend.plot import panels

__all__ = ["FILES", "run_demo"]

#: What `run_demo` writes.
FILES = ("panels.png", "stamps.fits", "catalogue.ecsv")


def run_demo(deblender, image, folder, *, number=6, overwrite=False, say=lambda text: None):
    """Find the clearest blends of a picture, take them apart and write down what came out.

    Parameters
    ----------
    deblender : Deblender
        With a model for colour pictures.
    image : path or array
        A colour picture.
    folder : str or path-like
        Where to write ``panels.png``, ``stamps.fits`` and ``catalogue.ecsv``; made if its
        parent exists.
    number : int, optional
        How many blends at most.
    overwrite : bool, optional
        Replace files that are there already.
    say : callable, optional
        Is given lines of text on what goes on.

    Returns
    -------
    list of Deblended
        The results, the clearest blend first.

    Raises
    ------
    ValueError
        If there is no blend of two galaxies in the picture.
    FileExistsError, FileNotFoundError, PermissionError
        If a file exists, the folder's parent does not, or nothing can be written there.
    """
    image = read_image(image)
    _, height, width = image.data.shape
    say(f"looking for sources on {width} x {height} pixels")
    sources, segmentation = find_sources(image)
    blends = select_blends(image, sources, segmentation, **deblender.card.size_rule)
    if not len(blends):
        raise ValueError(f"image has {len(sources)} sources, but no blend of two galaxies")
    say(f"found {len(sources)} sources, and {len(blends)} places where two overlap")
    blends = blends[:number]
    say(f"taking the {len(blends)} clearest blends apart")
    results = [deblender(image, position=(row["x_centroid"], row["y_centroid"])) for row in blends]

    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    pictures, stamps, table = (folder / name for name in FILES)
    catalogue = _catalogue(results)
    with (
        atomic_path(pictures, overwrite=overwrite) as pictures_file,
        atomic_path(stamps, overwrite=overwrite) as stamps_file,
        atomic_path(table, overwrite=overwrite) as table_file,
    ):
        panels(results).savefig(pictures_file)
        write_fits(_stamps(results), stamps_file)
        catalogue.write(table_file, format="ascii.ecsv")
    say("\n".join(_short(catalogue).pformat(max_lines=-1, max_width=-1)))
    say(f"{pictures}: each blend, its two galaxies, and what is left")
    say(f"{stamps}: blends and galaxies, as FITS")
    say(f"{table}: the table, with fluxes and shapes")
    return results


def _catalogue(results):
    """Stack the tables of all blends, which they number from 1."""
    tables = []
    for number, result in enumerate(results, start=1):
        table = result.to_table()
        table.add_column(Column([number] * len(table), name="blend"), index=0)
        table.meta = {}
        tables.append(table)
    catalogue = vstack(tables)
    catalogue.meta = {name: results[0].meta[name] for name in ("version", "model", "sha256")}
    return catalogue


def _short(catalogue):
    """Return what of the catalogue fits on a screen, with the light of all bands together."""
    short = catalogue["blend", "component", "x_centroid", "y_centroid", "ellipticity"]
    short["flux"] = catalogue["segment_flux"].sum(axis=1)
    for name, digits in (("x_centroid", 1), ("y_centroid", 1), ("ellipticity", 2), ("flux", 0)):
        short[name].info.format = f".{digits}f"
    return short


def _cut(image, result):
    """Return the part of an image that the stamp covers."""
    box = (slice(None), *(slice(*ends) for ends in result.meta["stamp_box"]))
    part = box[-image.data.ndim :]
    uncertainty = image.uncertainty
    return NDData(
        image.data[part],
        unit=image.unit,
        mask=None if image.mask is None else image.mask[part],
        uncertainty=None if uncertainty is None else uncertainty[part],
        wcs=None if image.wcs is None else image.wcs.slice(box[1:]),
        meta=dict(image.meta),
    )


def _stamps(results):
    """Return extensions BLEND1, CENTRAL1, COMPANION1, BLEND2 and so on."""
    hdus = [fits.PrimaryHDU()]
    for number, result in enumerate(results, start=1):
        for name in ("image", "central", "companion"):
            extension = f"{'blend' if name == 'image' else name}{number}".upper()
            hdus += image_to_hdus(_cut(getattr(result, name), result), extension)
    return hdus
