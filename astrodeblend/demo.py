"""The demonstration: real blends, of a picture or of a folder of them, taken apart."""

import csv
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import Column, vstack
from tqdm import tqdm

from astrodeblend.detect import find_sources, select_blends
from astrodeblend.files import atomic_paths
from astrodeblend.images import image_to_hdus, read_image, write_fits
from astrodeblend.plot import panels
from astrodeblend.simulate import find_images

__all__ = ["FILES", "PAGE", "deblend_folder", "find_candidates", "run_demo"]

#: What `run_demo` writes.
FILES = ("panels.png", "stamps.fits", "catalogue.ecsv")
#: What `deblend_folder` writes.
PAGE = ("panels.png", "catalogue.ecsv")
_CONTENTS = {
    "panels.png": "each blend, its two galaxies, and what is left",
    "stamps.fits": "blends and galaxies, as FITS",
    "catalogue.ecsv": "the table, with fluxes and shapes",
}


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

    _write(FILES, results, folder, overwrite=overwrite, say=say)
    return results


def find_candidates(folder, *, split=None):
    """List the pictures of a folder that may show a blend.

    Parameters
    ----------
    folder : str or path-like
        As `astrodeblend.simulate.find_images` takes it.
    split : str, optional
        Only this part of the pictures, by the table ``splits.csv`` of the folder.

    Returns
    -------
    list of pathlib.Path
        Those that ``splits.csv`` has with 1 in its column ``blend_candidate``; all pictures if
        there is no such table or column.

    Raises
    ------
    FileNotFoundError, ValueError
        As `astrodeblend.simulate.find_images` does, and if there is no candidate.
    """
    folder = Path(folder)
    paths = find_images(folder, split=split)
    table = folder / "splits.csv"
    if not table.is_file():
        return paths
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "blend_candidate"} <= rows[0].keys():
        return paths
    candidates = {folder / row["file"] for row in rows if row["blend_candidate"] == "1"}
    paths = [path for path in paths if path in candidates]
    if not paths:
        part = "" if split is None else f" of split {split!r}"
        raise ValueError(f"{str(table)!r} has no picture{part} with blend_candidate = 1")
    return paths


def deblend_folder(
    deblender,
    data,
    folder,
    *,
    split=None,
    number=24,
    seed=1,
    overwrite=False,
    say=lambda text: None,
    progress=False,
):
    """Take real blends out of a folder of pictures apart, and draw them on one page.

    In each picture the galaxy in the middle is the central one. Their galaxies overlap in
    truth, so that there is nothing to compare with but what one sees.

    Parameters
    ----------
    deblender : Deblender
        With a model for colour pictures.
    data : str or path-like
        Folder of pictures, of which `find_candidates` says which may show a blend.
    folder : str or path-like
        Where to write ``panels.png`` and ``catalogue.ecsv``; made if its parent exists.
    split : str, optional
        Part of the pictures, by the table ``splits.csv``.
    number : int, optional
        How many at most, drawn from the candidates.
    seed : int, optional
        Where the draw starts from.
    overwrite : bool, optional
        Replace files that are there already.
    say : callable, optional
        Is given lines of text on what goes on.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    list of Deblended
        The results, in the order of the files' names.

    Raises
    ------
    ValueError
        If there is no candidate, or ``number`` is not positive.
    FileExistsError, FileNotFoundError, PermissionError
        If a file exists, a folder does not, or nothing can be written there.
    """
    if number < 1:
        raise ValueError(f"number={number}: give at least 1")
    candidates = find_candidates(data, split=split)
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:number]
    paths = [candidates[k] for k in sorted(chosen)]
    say(f"taking {len(paths)} of {len(candidates)} pictures apart")
    results = [
        deblender(path) for path in tqdm(paths, "deblending", disable=not progress, unit="picture")
    ]
    names = [path.relative_to(data).as_posix() for path in paths]
    _write(PAGE, results, folder, names=names, overwrite=overwrite, say=say)
    return results


def _write(files, results, folder, *, overwrite, say, names=None):
    """Write files about results, which may have names, all or none, and say so."""
    folder = Path(folder)
    catalogue = _catalogue(results, names)
    across = 4 if len(results) > 12 else None  # so that a page of many is not too high
    writers = {
        "panels.png": lambda file: panels(results, across=across).savefig(file),
        "stamps.fits": lambda file: write_fits(_stamps(results), file),
        "catalogue.ecsv": lambda file: catalogue.write(file, format="ascii.ecsv"),
    }
    with atomic_paths(folder, files, overwrite=overwrite) as places:
        for name, place in zip(files, places, strict=True):
            writers[name](place)
    say("\n".join(_short(catalogue).pformat(max_lines=-1, max_width=-1)))
    for name in files:
        say(f"{folder / name}: {_CONTENTS[name]}")


def _catalogue(results, names=None):
    """Stack the tables of all blends, which they number from 1."""
    tables = []
    for number, result in enumerate(results, start=1):
        table = result.to_table()
        if names is not None:
            table.add_column(Column([names[number - 1]] * len(table), name="file"), index=0)
        table.add_column(Column([number] * len(table), name="blend"), index=0)
        table.meta = {}
        tables.append(table)
    catalogue = vstack(tables)
    catalogue.meta = {name: results[0].meta[name] for name in ("version", "model", "sha256")}
    return catalogue


def _short(catalogue):
    """Return what of the catalogue fits on a screen, with the light of all bands together."""
    names = ["blend", "file"] if "file" in catalogue.colnames else ["blend"]
    short = catalogue[[*names, "component", "x_centroid", "y_centroid", "ellipticity"]]
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
