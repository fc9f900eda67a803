"""Galaxy images for the simulator, from a folder of JPEGs or PNGs."""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

_SUFFIXES = {".jpg", ".jpeg", ".png"}


def find_images(folder, *, split=None, isolated=False):
    """List the galaxy images of a folder.

    Parameters
    ----------
    folder : str or path-like
        A folder with JPEG or PNG images, also in subfolders.
    split : str, optional
        Only images of this split, by the folder's table ``splits.csv`` with the columns ``file``
        (relative to the folder) and ``split`` (``train``, ``val``, ``test``). Default: all.
    isolated : bool, optional
        Leave out images with 0 in the column ``isolated`` of that table, if it has one.

    Returns
    -------
    list of pathlib.Path
        In a fixed order.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, split or table, or no image remains.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"images={str(folder)!r} is not a folder; give one with JPEGs or PNGs"
        )
    table = folder / "splits.csv"
    if split is None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not paths:
            raise ValueError(f"images={str(folder)!r} holds no JPEG or PNG images")
    elif not table.is_file():
        raise FileNotFoundError(
            f"split={split!r} takes a table {str(table)!r} with the columns file and split; "
            "write one, or leave split out to take all images"
        )
    else:
        rows = _read_splits(folder)
        if not rows or not {"file", "split"} <= rows[0].keys():
            raise ValueError(f"{str(table)!r} lacks rows, or a column: it takes file and split")
        paths = [folder / row["file"] for row in rows if row["split"] == split]
        if not paths:
            known = ", ".join(sorted({row["split"] for row in rows}))
            raise ValueError(f"split={split!r} is not in {str(table)!r}; it has {known}")
    if isolated:
        blended = blended_images(folder)
        paths = [path for path in paths if path not in blended]
        if not paths:
            raise ValueError(f"isolated: the table in {str(folder)!r} has none that is")
    return paths


def share_out(images, split=None, validation_images=None, validation_split=None):
    """List the galaxy images for training and those for validation.

    Parameters
    ----------
    images : str or path-like
        Folder, as in `find_images`.
    split : str, optional
        Split for training. Default: ``train`` if there is a table ``splits.csv``, else all.
    validation_images : str or path-like, optional
        Folder for validation. Default: the same; without a table every tenth image, which is then
        left out of training.
    validation_split : str, optional
        Split for validation. Default: ``val`` if there is a table, else all.

    Returns
    -------
    learn, judge : list of pathlib.Path
        Images for training and for validation; the latter may be empty.
    """
    has_table = (Path(images) / "splits.csv").is_file()
    if split is None and has_table:
        split = "train"
    learn = find_images(images, split=split)
    if validation_images is not None:
        return learn, find_images(validation_images, split=validation_split)
    if has_table or validation_split is not None:
        return learn, find_images(images, split=validation_split or "val")
    if len(learn) < 4:  # a blend takes two galaxies, on either side
        return learn, []
    step = min(10, len(learn) // 2)
    return [path for k, path in enumerate(learn) if k % step], learn[::step]


def blended_images(folder):
    """Return the set of images with 0 in the column ``isolated`` of a folder's ``splits.csv``.

    It is empty where there is no such table or column.
    """
    folder = Path(folder)
    rows = _read_splits(folder) if (folder / "splits.csv").is_file() else []
    return {folder / row["file"] for row in rows if row.get("isolated") == "0" and row.get("file")}


def _read_splits(folder):
    """Return the rows of a folder's table, as dictionaries."""
    with (folder / "splits.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_images(paths, *, width=None, progress=False):
    """Read galaxy images into one array.

    Images are centred on one grid, so that the middle crop of each is unchanged; pixels beyond an
    image are 0.

    Parameters
    ----------
    paths : sequence of path-like
        JPEG or PNG files, square.
    width : int, optional
        Width of the grid in pixels, by default that of the largest image.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    numpy.ndarray
        uint8, shape (n, 3, y, x). The bands of a pixel are adjacent in memory.
    """
    paths = list(paths)
    widths = [image_width(path) for path in paths]
    size = max(widths) if width is None else width
    if size < max(widths):
        widest = paths[widths.index(max(widths))]
        raise ValueError(
            f"{str(widest)!r} is {max(widths)} pixels wide; width={width} is too small"
        )
    images = np.zeros((len(paths), size, size, 3), np.uint8)

    def read(k):
        try:
            with Image.open(paths[k]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"{str(paths[k])!r} cannot be read as an image: {error}") from error
        start = size // 2 - len(pixels) // 2
        images[k, start : start + len(pixels), start : start + len(pixels)] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(read, range(len(paths)))
        for _ in tqdm(done, "reading images", len(paths), disable=not progress, unit="image"):
            pass
    return np.moveaxis(images, -1, 1)


def image_width(path):
    """Return the width in pixels of a square JPEG or PNG file, from its header alone.

    Parameters
    ----------
    path : path-like
        The file.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as an image: {error}") from error
    if width != height:
        raise ValueError(f"{str(path)!r} is {width} x {height} pixels; galaxy images are square")
    return width
