"""The reference simulator of pictures: one blend at a time, step by step."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.transform import warp

from .recipes import BLENDING_MODES, DENSE, get_recipe

__all__ = ["blend_images", "blend_pair", "reduce_image"]


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

    Raises
    ------
    ValueError
        If there is no such mode.
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
    sigma, saturation, exponent, pedestal, noise, quality = (
        float(values[0])
        for values in (
            draw.seeing,
            draw.saturation,
            draw.exponent,
            draw.pedestal,
            draw.noise,
            draw.quality,
        )
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
