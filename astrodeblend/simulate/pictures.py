"""Pictures of galaxies: read from a folder, and blended with known truth, one at a time.

`blend_pair` is the reference for the fast `astrodeblend.simulate.Simulator`.
"""

import csv
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.stats import median_abs_deviation
from skimage.transform import warp
from tqdm import tqdm

from .recipes import BLENDING_MODES, DENSE, Draw, get_recipe

#: Names of the rules by which galaxies become one image; see `simulate_scene`.
SCENE_MODES = ("max", "sum")

_FRAME = 0.1  # of a picture's width: border that shows the sky
_FADE = 0.05  # of a picture's width: border in which its light fades out
_MARGIN = 0.125  # of the scene's width: border without centres of galaxies
_TRIES = 1000  # draws of a scene before it is refused
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
            text = f"{str(paths[k])!r} cannot be read as an image ({error}); remove it"
            raise ValueError(text) from error
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
    except OSError as error:
        text = f"{str(path)!r} cannot be read as an image ({error}); remove it"
        raise ValueError(text) from error
    if width != height:
        raise ValueError(f"{str(path)!r} is {width} x {height} pixels; galaxy images are square")
    return width


def blend_images(central, companion, *, mode="max", sky=0.0):
    """Blend two isolated images.

    With light L = image - sky, per pixel and band:

    - ``max``: the brighter of the two (Reiman & Goehre 2019);
    - ``sum``: sky + L1 + L2, for transparent galaxies;
    - ``max_sum``: sky + the brighter L + (1 - opacity) times the fainter L. The opacity
      follows from the brighter galaxy's light in this pixel (mean over the bands): 0 below
      0.2 of full scale, 1 above 0.6, a smooth step (3 t^2 - 2 t^3) between.

    Negative fainter light counts as 0, and values saturate at full scale (1). So no galaxy is
    brighter than the blend in any mode.

    Parameters
    ----------
    central, companion : array_like
        Shape (bands, y, x), from 0 to 1.
    mode : {'max', 'sum', 'max_sum'}, optional
        The blending mode.
    sky : float or array_like, optional
        Sky level in both images; broadcast against them.

    Returns
    -------
    numpy.ndarray
        The blend, of the same shape.
    """
    if mode not in BLENDING_MODES:
        raise ValueError(f"mode={mode!r} is not known; choose one of {', '.join(BLENDING_MODES)}")
    brighter = np.maximum(central, companion)
    if mode == "max":
        return brighter
    fainter = np.clip(np.minimum(central, companion) - sky, 0, None)
    opacity = 0.0
    if mode == "max_sum":
        brightness = np.maximum(
            (np.asarray(central) - sky).mean(axis=0), (np.asarray(companion) - sky).mean(axis=0)
        )
        ramp = np.clip((brightness - DENSE[0]) / (DENSE[1] - DENSE[0]), 0, 1)
        opacity = ramp**2 * (3 - 2 * ramp)
    return np.minimum(brighter + (1 - opacity) * fainter, 1)


def reduce_image(image, *, crop=240, factor=3):
    """Crop the middle of an image and keep the middle pixel of each cell.

    Parameters
    ----------
    image : array_like
        Shape (bands, y, x).
    crop : int, optional
        Width of the crop in pixels.
    factor : int, optional
        Width of a cell in pixels.

    Returns
    -------
    numpy.ndarray
        Shape (bands, crop // factor, crop // factor).
    """
    y, x = ((length - crop) // 2 + factor // 2 for length in np.shape(image)[1:])
    return np.asarray(image)[:, y : y + crop : factor, x : x + crop : factor]


def blend_pair(images, draw, recipe="reiman2019"):
    """Make one blend, step by step.

    Parameters
    ----------
    images : array_like
        Shape (n, bands, y, x), y = x, uint8 (0 to 255) or float (0 to 1).
    draw : Draw
        Random numbers of one blend (length 1), from ``recipe.draw``.
    recipe : str or Recipe, optional
        The recipe that ``draw`` is from.

    Returns
    -------
    blend, isolated : numpy.ndarray
        Shapes (bands, s, s) and (2, bands, s, s), from 0 to 1; ``isolated`` holds the truth: the
        target (the central galaxy, unless ``draw`` names another), then the blend of all others;
        the sky if there are none.
    """
    recipe, images = get_recipe(recipe), np.asarray(images)
    full_scale = 255.0 if images.dtype == np.uint8 else 1.0
    rng = np.random.default_rng(draw.noise_seed[0])
    sky = draw.sky[0][:, None, None]
    how = {"mode": recipe.modes[draw.mode[0]], "sky": sky}
    index, matrices = draw.galaxies(images.shape[-1])
    galaxies = []
    for k in draw.order()[0]:
        if index[0, k] < 0:
            continue
        image = np.moveaxis(images[index[0, k]] / full_scale, 0, -1)
        image = warp(image, matrices[0, k], order=1, mode="constant", cval=0)
        image = np.moveaxis(image, -1, 0)
        image = reduce_image(image, crop=recipe.crop, factor=recipe.factor)
        if draw.seeing is not None:
            image = _render(image, draw, draw.gain[0][:, None, None], rng)
        galaxies.append(image)
    target, *others = galaxies
    if not others:
        return target, np.stack([target, sky + np.zeros_like(target)])
    rest = others[0]
    for other in others[1:]:
        rest = blend_images(rest, other, **how)
    return blend_images(target, rest, **how), np.stack([target, rest])


def _render(image, draw, gain, rng):
    """Re-render a galaxy as from another survey."""
    names = ("seeing", "saturation", "exponent", "pedestal", "noise", "quality")
    sigma, saturation, exponent, pedestal, noise, quality = (
        float(getattr(draw, name)[0]) for name in names
    )
    if sigma > 0:
        image = ndimage.gaussian_filter(image, sigma, axes=(1, 2), radius=4, mode="nearest")
    grey = image.mean(axis=0)
    image = np.clip(grey + saturation * (image - grey), 0, None) ** exponent
    image = gain * ((1 - pedestal) * image + pedestal)
    image = np.clip(image + noise * rng.standard_normal(image.shape), 0, 1)
    if quality == 100:
        return image
    file = io.BytesIO()
    pixels = np.moveaxis((255 * image).round().astype(np.uint8), 0, -1)
    Image.fromarray(pixels).save(file, "JPEG", quality=round(quality), subsampling=0)
    return np.moveaxis(np.asarray(Image.open(file)), -1, 0) / 255


@dataclass(frozen=True, eq=False)
class SimulatedScene:
    """A simulated scene with known truth; levels and light are fractions of full scale.

    Attributes
    ----------
    blend : numpy.ndarray, shape (bands, y, x)
        The observed image, float32 from 0 to 1.
    isolated : numpy.ndarray, shape (n, bands, y, x)
        Every galaxy alone on the scene's sky, float32; noise may make it slightly negative.
    positions : numpy.ndarray, shape (n, 2)
        The middle of each picture, (x, y) in pixels of the scene.
    sky : numpy.ndarray, shape (bands,)
        Sky level.
    draw : Draw
        The perturbation of the galaxies, as ``companion`` of a recipe's draw; ``shift`` is from
        the middle of the scene, in pixels of the pictures.
    """

    blend: np.ndarray
    isolated: np.ndarray
    positions: np.ndarray
    sky: np.ndarray
    draw: Draw

    @property
    def light(self):
        """Sky-subtracted light of every galaxy, shape (n, bands, y, x)."""
        return self.isolated - self.sky[:, None, None]


def simulate_scene(images, *, mode="max", size=160, recipe="reiman2019", rng=None):
    """Simulate a scene of overlapping galaxies.

    The first galaxy is in the middle, unchanged. Each other one is perturbed like the companion of
    a recipe (mirrored, rotated, scaled) and displaced by the recipe's distance from one of the
    galaxies before it, chosen at random. No two are nearer than the recipe's least distance, and
    none has its middle in the outermost eighth of the scene. So a scene of two is a blend of the
    recipe with more of its surroundings.

    The sky of every picture, the median in a border of a tenth of its width, is subtracted; L is
    the rest. Over the outermost twentieth of the picture L fades into noise, drawn from pixels of
    its sky, which continues beyond the picture; so there are neither edges nor patches without
    noise. The scene's sky is the mean of theirs, per band. Per pixel and band it is

    - ``max``: sky + the largest L;
    - ``sum``: sky + the sum of all L, for transparent galaxies.

    If that exceeds full scale, as most sums do, all L are dimmed by one factor, so that nothing
    saturates; negative values are clipped, as in pictures. In a ``sum`` the noise of all n pictures
    adds, the skies do not; L may be negative, unlike in `blend_images`. In a ``max`` the brightest
    noise is taken: without galaxies the scene is brighter than ``sky`` by about the standard
    deviation of the noise.

    Parameters
    ----------
    images : sequence of array_like
        Pictures of galaxies, shape (bands, y, x) each, y = x, uint8 (0 to 255) or float (0 to 1).
    mode : {'max', 'sum'}, optional
        The blending mode.
    size : int, optional
        Width of the scene, in the recipe's stamp pixels.
    recipe : str or Recipe, optional
        The recipe of perturbation and reduction.
    rng : int or numpy.random.Generator, optional
        Seed or generator of random numbers.

    Returns
    -------
    SimulatedScene

    Raises
    ------
    ValueError
        If there are fewer than two pictures, one is not square or has other bands, there is no
        such mode, or the scene is too small for so many galaxies.
    """
    recipe = get_recipe(recipe)
    if mode not in SCENE_MODES:
        raise ValueError(f"mode={mode!r} is not known; choose {' or '.join(SCENE_MODES)}")
    images = [np.asarray(image) for image in images]
    if len(images) < 2:
        raise ValueError(f"images holds {len(images)}; a scene takes at least two galaxies")
    shapes = {image.shape for image in images}
    for image in images:
        if image.ndim != 3 or image.shape[1] != image.shape[2] or image.shape[0] != len(images[0]):
            raise ValueError(f"images has shapes {sorted(shapes)}; give (bands, y, x), y = x")
    rng = np.random.default_rng(rng)
    draw = _draw(rng, len(images), size, recipe)

    light, skies, positions = [], [], []
    for k, image in enumerate(images):
        image = image / (255.0 if image.dtype == np.uint8 else 1.0)
        width = image.shape[-1]
        edge = np.minimum(np.arange(width), np.arange(width)[::-1])
        depth = np.minimum.outer(edge, edge)
        sky, noise = _sky(image[:, depth < _FRAME * width])
        seen = np.clip((depth + 0.5) / (_FADE * width), 0, 1)
        # as reduce_image crops the middle, but here the crop may exceed the picture
        start = (width - recipe.factor * size) // 2 + recipe.factor // 2
        to_image = np.diag([recipe.factor, recipe.factor, 1.0])
        to_image[:2, 2] = start
        _, (matrix,) = draw[k : k + 1].matrices(width)
        layers = np.concatenate([(image - sky[:, None, None]) * seen, seen[None]])
        layers = warp(
            np.moveaxis(layers, 0, -1),
            matrix @ to_image,
            order=1,
            mode="constant",
            cval=0,
            output_shape=(size, size),
        )
        unseen = 1 - layers[..., -1:]
        layers = layers[..., :-1] + unseen * rng.choice(noise, (size, size))
        light.append(np.moveaxis(layers, -1, 0))
        skies.append(sky)
        positions.append(((width - 1) / 2 + draw.shift[k] - start) / recipe.factor)
    light, sky = np.array(light), np.mean(skies, axis=0)
    blended = light.max(axis=0) if mode == "max" else light.sum(axis=0)
    level = sky[:, None, None]
    gain = np.min((1 - level) / np.maximum(blended, 1e-9), initial=1)
    return SimulatedScene(
        np.clip(level + gain * blended, 0, 1).astype(np.float32),
        (level + gain * light).astype(np.float32),
        np.array(positions),
        sky,
        draw,
    )


def _sky(pixels):
    """Return sky level and noise samples (n, bands) of pixels (bands, n), stars left out."""
    level = np.median(pixels, axis=1)
    noise = pixels - level[:, None]
    spread = median_abs_deviation(pixels, axis=1, scale="normal")
    return level, noise[:, (np.abs(noise) <= 3 * spread[:, None]).all(axis=0)].T


def _draw(rng, number, size, recipe):
    """Draw the perturbations of a scene's galaxies, until all have a place."""
    nearest = np.sqrt(2) * recipe.displacement[0]
    farthest = (0.5 - _MARGIN) * size * recipe.factor
    for _ in range(_TRIES):
        draw = recipe.draw(rng, number, number)
        shift = np.zeros((number, 2))
        for k in range(1, number):
            shift[k] = shift[rng.integers(k)] + draw.shift[k]
        apart = np.hypot(*(shift[:, None] - shift).T)[np.triu_indices(number, 1)]
        if apart.min() >= nearest and np.abs(shift).max() <= farthest:
            first = np.arange(number) == 0  # not perturbed
            return replace(
                draw,
                central=np.zeros(number, int),
                companion=np.arange(number),
                flip_x=draw.flip_x & ~first,
                flip_y=draw.flip_y & ~first,
                angle=np.where(first, 0, draw.angle),
                scale=np.where(first, 1, draw.scale),
                shift=shift,
            )
    raise ValueError(
        f"size={size}: {number} galaxies found no place in {size} x {size} pixels; give more "
        "pixels or fewer galaxies"
    )
