"""The sky of an image: its level, its noise, and pixels without data."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.polynomial.polynomial import polygrid2d, polyvander2d
from scipy import fft, ndimage
from scipy.stats import f, median_abs_deviation, norm

__all__ = ["Sky", "estimate_sky", "sky_of"]

mad_std = partial(median_abs_deviation, axis=None, scale="normal")

_QUANTUM = 1 / np.sqrt(12)  # standard deviation of a rounding error, in steps
_SAMPLE = 30_000  # pixels used to estimate a scatter
_WINGS = 0.25  # in units of the noise: error of the level by wings in an image full of galaxies
_MUCH_SKY = 3000  # pixels without sources from which on that error falls as 1 / pixels
_LAGS = 8  # pixels: largest lag of correlated noise
_LARGE_PICTURE = 512  # pixels a side from which on a picture's sky may be a surface
_CURVED = 300  # pixels a side from which on that is of second order; else galaxies are fitted


@dataclass(frozen=True, eq=False)
class Sky:
    """Level and noise of an image's sky, and its pixels without data.

    Attributes
    ----------
    level : numpy.ndarray, shape (bands, 1, 1) or (bands, y, x)
        Sky level per pixel, in the image's unit; a map if it is uneven.
    noise : numpy.ndarray, shape (bands, 1, 1) or (bands, y, x)
        Standard deviation of the sky noise in a pixel, positive.
    hidden : numpy.ndarray of bool, shape (bands, y, x)
        Pixels without data.
    correlation : numpy.ndarray, shape (bands,)
        Standard deviation of means over many pixels, over that for white noise.
    noise_from : {'uncertainty', 'image'}
        Origin of the noise.
    words : tuple of str
        Sentences on what was decided.
    """

    level: np.ndarray
    noise: np.ndarray
    hidden: np.ndarray
    correlation: np.ndarray
    noise_from: str
    words: tuple[str, ...]


def estimate_sky(image):
    """Estimate the sky of an image, and find the pixels without data.

    These are the pixels that are masked or not finite, whose uncertainty is not finite or is 0
    throughout a block, or, in flux, that belong to a block of one exact value: 64 connected
    pixels, or, if many single pixels have that value (counts), squares too large for chance.
    Blocks of saturated light and of noiseless sky are data.

    The level is a constant, or, if that fits means in boxes much better, a plane (a surface of
    second order from 300 pixels a side). A constant within three errors of 0 is 0 in images with
    negative values, whose sky was subtracted.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it: data of shape (bands, y, x).

    Returns
    -------
    Sky
    """
    data, words = np.array(image.data, float), []
    if data.ndim != 3:
        raise ValueError(f"image has shape {data.shape}; it has to be (bands, y, x)")
    known = image.meta.get("astrodeblend", {})
    picture = known.get("kind") == "picture"
    hidden = ~np.isfinite(data) | (False if image.mask is None else image.mask)
    data[hidden] = 0
    told = None if image.uncertainty is None else np.asarray(image.uncertainty.array, float)
    if told is not None:
        hidden |= ~np.isfinite(told)
        if not (~hidden & (told > 0)).any(axis=(1, 2)).all():
            raise ValueError("image: uncertainty of 0 in every valid pixel of a band; omit it")
        hidden |= [_filled(*one) for one in zip(told, [0.0] * len(data), ~hidden, strict=True)]
    for k, (band, out) in enumerate(zip(data, hidden, strict=True)):
        for value, filled in () if picture else _fills(band, ~out):
            out |= filled
            words.append(f"band {k}: {filled.sum()} pixels are {value:g}: no data")
    valid = ~hidden
    if not valid.any(axis=(1, 2)).all():
        raise ValueError("image has a band without a single valid pixel; leave that band out")
    if picture and (min(data.shape[1:]) < _LARGE_PICTURE or any(map(_cut_off, data, valid))):
        found = [sky_of(*one, picture=True) for one in zip(data, hidden, strict=True)]
        (levels, noises, sources), correlations = zip(*found, strict=True), np.ones(len(data))
    else:
        levels, noises, correlations, sources, told_by = _of_flux(data, valid)
        words += told_by
    if told is not None:
        valid &= told > 0
        noises = [_told(*one) for one in zip(told, valid, valid & ~np.array(sources), strict=True)]
    if picture:
        step = 1 if (known.get("full_scale") or 255) > 1 else 1 / 255
        noises = [np.maximum(noise, _QUANTUM * step) for noise in noises]
    return Sky(
        *(np.stack(np.broadcast_arrays(*map(np.atleast_2d, one))) for one in (levels, noises)),
        *(hidden, np.array(correlations), "image" if told is None else "uncertainty"),
        tuple(words),
    )


def sky_of(band, hidden=None, *, picture=False):
    """Return level, noise and source mask of one band, by iterative masking of sources.

    The noise of a picture whose sky is clipped at black is that of values above the median.
    """
    hidden = np.zeros(band.shape, bool) if hidden is None else hidden
    # smoothing by much more than a point source detects faint wings of galaxies
    smooth = ndimage.gaussian_filter(np.where(hidden, np.median(band[~hidden]), band), 3)
    sources = _standing_out(smooth, hidden, 6, 0.98)
    seen = ~(sources | hidden)
    sky = band[seen]
    if picture and _cut_off(band, seen):
        return np.median(sky), np.subtract(*np.quantile(sky, norm.cdf((2, 1)))), sources
    return np.median(sky), mad_std(sky), sources


def _standing_out(smooth, hidden, reach, most):
    """Return the mask of a smoothed image's bright pixels, dilated by ``reach`` pixels."""
    sources = np.zeros_like(hidden)
    for _ in range(12):
        sky = smooth[~(sources | hidden)]
        bright = smooth > np.median(sky) + 3 * mad_std(sky)
        found = ndimage.binary_dilation(bright, iterations=reach)
        if (found == sources).all() or (found | hidden).mean() > most:
            break
        sources = found
    return sources


def _cut_off(band, sky):
    """Return whether a sky is clipped at black: a fifth or more of it has the lowest value."""
    return np.mean(band[sky] == band[sky].min()) >= 0.2


def _fills(band, valid):
    """Yield the values that fill blocks of a band without being data, and masks of the blocks."""
    same = (np.diff(band, axis=axis, prepend=np.nan) == 0 for axis in (0, 1))
    runs = [ndimage.minimum_filter1d(one, 5, axis) for axis, one in enumerate(same)]
    values, number = np.unique(band[valid & (runs[0] | runs[1])], return_counts=True)
    for value in values[np.argsort(-number, kind="stable")[:6]]:
        filled = _filled(band, value, valid)
        rest = valid & ~filled
        if filled.any() and rest.any():
            ring = band[ndimage.binary_dilation(filled, iterations=2) & rest]
            near = np.median(ring) if len(ring) else np.nan
            lowest, middle, high, top = np.quantile(band[rest], (0, 0.5, 0.84, 0.99))
            rises = value >= top and near - middle > 0.25 * (value - middle)
            fades = value <= lowest and near - value < high - middle and value not in ring
            if not (rises or fades):
                yield value, filled


def _filled(band, value, valid):
    """Return the mask of blocks of a value: connected pixels, or squares if chance makes these."""
    equal = (band == value) & valid
    others = valid & ~equal  # hidden pixels neither join nor separate blocks
    labels, _ = ndimage.label(equal, np.ones((3, 3)))
    filled = equal & (np.bincount(labels.ravel()) >= 64)[labels]
    # isolated: pixels of the value among others, and other ones among pixels of the value
    lone = others & (ndimage.uniform_filter(equal.astype(np.float32), 3) > 5.5 / 9)
    alone = np.count_nonzero(equal & ~filled) + 0.1 * np.count_nonzero(lone)
    half, needed = 0, 5
    while half < needed and filled.any() and alone > 1e-3 * np.count_nonzero(others):
        half = int(np.ceil(needed))
        cores = ndimage.distance_transform_cdt(~others, "chessboard") >= half
        filled = equal & ndimage.maximum_filter(cores, 2 * half - 1)
        share = np.count_nonzero(others) / np.count_nonzero(valid & ~filled)
        needed = (np.sqrt((400 * (1 - share) + 60) / share) + 1) / 2
    return filled


def _of_flux(data, valid):
    """Return level, noise and correlation of bands, the mask of sources, and words."""
    steps, quanta = zip(*map(_step_noise, data, valid), strict=True)
    tails = (0.01, 0.99)  # quantiles at which outliers are clipped
    tame = [np.clip(b, *np.quantile(b[ok][::7], tails)) for b, ok in zip(data, valid, strict=True)]
    levels, _ = zip(*map(_level, tame, valid, steps), strict=True)
    for _ in range(2):
        light = sum(
            ok * np.clip((band - level) / step, -20, 40)
            for band, ok, level, step in zip(data, valid, levels, steps, strict=True)
        )
        sources = _sources(light / np.sqrt(valid.sum(axis=0).clip(1)), ~valid.any(axis=0))
        skies = [ok & ~sources if (ok & ~sources).any() else ok for ok in valid]
        levels, excesses = zip(*map(_level, tame, skies, steps), strict=True)
    found, words = [], []
    for k, (sky, level, excess) in enumerate(zip(skies, levels, excesses, strict=True)):
        noise = _scatter((data[k] - level)[sky], quanta[k])
        noise = max(noise, 1e-5 * np.ptp(tame[k])) or 1.0
        # unmasked wings of galaxies: brighter where less sky is left
        covered = 1 - sky.sum() / valid[k].sum()
        wings = _WINGS * noise * covered * min(_MUCH_SKY / sky.sum(), 1)
        excess = np.hypot(excess, wings)
        crowded = excess > 0.3 * noise or wings > 0.1 * noise
        noise = min(noise, _step_noise(data[k], sky)[0]) if crowded else noise
        correlation = 1.0 if crowded else _correlation((data[k] - level) / noise, sky)
        error = np.hypot(noise * correlation / np.sqrt(sky.sum()), excess)
        zero = np.ndim(level) == 0 and abs(level) < 3 * error and tame[k].min() < 0
        told = f"{level:.4g}" if np.ndim(level) == 0 else f"{level.min():.4g} to {level.max():.4g}"
        told += ", within 3 errors of 0, so 0" if zero else ""
        told += f"; means scatter {correlation:.3g} times as white noise" if correlation > 1 else ""
        words.append(f"band {k}: the level is {told}; its error is {error:.2g}")
        found.append((0.0 if zero else level, noise, correlation))
    return *zip(*found, strict=True), sources, words


def _sources(light, hidden):
    """Return the mask of small and large sources in light in units of its noise."""
    shape, times = light.shape, 1 + (min(light.shape) >= 96) + 2 * (min(light.shape) >= 400)
    nodes = np.s_[times // 2 :: times, times // 2 :: times]
    light, hidden = ndimage.uniform_filter(light, times)[nodes], hidden[nodes]
    sources, visible = np.zeros_like(hidden), 1 - hidden.mean()
    for sigma, least in ((3, 0.1), (9, 0.3)):  # pixels, much wider than a point source
        out = hidden | sources
        weight = np.maximum(ndimage.gaussian_filter(1.0 - out, sigma / times), 0.1)
        smooth = ndimage.gaussian_filter(np.where(out, 0, light), sigma / times) / weight
        sources |= _standing_out(smooth, out, -(-6 // times), 1 - least * visible)
    # masks of large sources grow with their radius
    radius = ndimage.distance_transform_edt(sources)
    labels, number = ndimage.label(sources)
    away, nearest = ndimage.distance_transform_edt(~sources, return_indices=True)
    radius = ndimage.maximum(radius, labels, np.arange(number + 1))[labels[tuple(nearest)]]
    grown = sources | (away < 0.66 * (radius - 20 / times))
    sources = grown if np.mean(grown | hidden) < 1 - 0.15 * visible else sources
    index = [np.arange(side) // times for side in shape]
    return sources[np.ix_(*map(np.minimum, index, np.array(sources.shape) - 1))]


def _scatter(values, quantum=0.0):
    """Return a standard deviation that is robust to outliers and ties; 0 without any scatter."""
    values = values[:: len(values) // _SAMPLE + 1]
    deviation = mad_std(values)
    for _ in range(4 if quantum else 0):  # the median absolute deviation is quantised
        near = np.abs(values - np.median(values)) <= 5 * max(deviation, quantum)
        deviation = max(np.std(values[near]), _QUANTUM * quantum)
    return deviation


def _step_noise(band, valid):
    """Return the noise from differences of pixels two apart, and the step of counts, or 0."""
    values = band[valid][:: valid.sum() // _SAMPLE + 1]
    away = np.abs(values - np.median(values))
    quantum, other = 0.0, away[away > 0]
    if 0.9 * len(away) >= len(other) > 0:  # ties make medians unreliable
        quantum = np.median(np.diff(np.unique(other[other <= 4 * np.median(other)]), prepend=0))
    both = (band, valid), (band.T, valid.T)
    steps = np.concatenate([(b[2:] - b[:-2])[ok[2:] & ok[:-2]] for b, ok in both])
    noise = _scatter(steps, quantum) / np.sqrt(2) if len(steps) else 0.0
    return noise or _scatter(values) or np.ptp(values) or 1.0, quantum


def _level(band, sky, noise):
    """Return the level from means in boxes, and their scatter in excess of their errors."""
    shape = band.shape
    size = int(np.ceil(max(np.clip(min(shape) / 8, 4, 64), max(shape) / 20)))
    y, x = np.nonzero(sky)
    box = y // size * (shape[1] // size + 1) + x // size
    number = np.bincount(box)
    used = number >= min(0.1 * size**2, number.max())
    y, x, value = (np.bincount(box, one)[used] / number[used] for one in (y, x, band[sky]))
    error = noise / np.sqrt(number[used])
    order = np.add.outer(np.arange(3), np.arange(3)) <= 1 + (min(shape) >= _CURVED)
    terms = polyvander2d(y / shape[0], x / shape[1], (2, 2))[:, order.ravel()]
    surface, kept = np.zeros((3, 3)), np.ones(len(value), bool)
    for _ in range(12):  # clip outlying boxes, more strictly above, where light is left in them
        root = kept / error
        surface[order] = np.linalg.lstsq(root[:, None] * terms, root * value, rcond=1e-9)[0]
        off = (value - terms @ surface[order]) / error
        typical = max(mad_std(off[kept]), 1)
        now = (off < 3 * typical) & (off > -6 * typical)
        if (now == kept).all() or np.count_nonzero(now) < 8:
            break
        kept = now
    value, error, off = value[kept], error[kept], off[kept]
    mean = np.average(value, weights=error**-2)
    more, free, squares = order.sum() - 1, len(value) - order.sum(), np.sum(off**2)
    needed = more * f.isf(1e-4, more, free) * max(squares / free, 1) if free > 0 else np.inf
    if np.sum(((value - mean) / error) ** 2) - squares > needed:
        return polygrid2d(*(np.arange(side) / side for side in shape), surface), 0.0
    typical = np.median(error)
    excess = np.sqrt(max(mad_std(value) ** 2 - typical**2, 0)) if len(value) > 8 else 0.0
    if excess > 2 * typical:  # light is left in most boxes
        mean = min(mean, np.quantile(value, 0.1) + norm.isf(0.1) * typical)
    return mean, excess


def _told(deviation, told, sky):
    """Return the sky noise that an uncertainty states: a map if it varies."""
    from photutils.background import Background2D, MedianBackground  # not needed by training

    sky = sky if sky.any() else told
    if not _varies(deviation[sky]):
        return np.quantile(deviation[told], 0.25)
    size = max(min(deviation.shape) // 32, 4)
    options = {"mask": ~sky, "exclude_percentile": 90, "sigma_clip": None}
    noise = Background2D(deviation, size, bkg_estimator=MedianBackground(), **options).background
    return noise if _varies(noise) else np.quantile(deviation[told], 0.25)


def _varies(noise):
    low, high = np.quantile(noise, (0.02, 0.98))
    return high > 1.1 * low


def _correlation(rest, sky):
    """Return `Sky.correlation` from the autocorrelation, less that of light at large lags."""
    middle = tuple(slice(max(side // 2 - 300, 0), side // 2 + 300) for side in rest.shape)
    if sky[middle].sum() > 1000:
        rest, sky = rest[middle], sky[middle]
    values = np.where(sky, np.clip(rest, -5, 5), 0)
    values -= sky * values.sum() / sky.sum()
    shape = [fft.next_fast_len(side + _LAGS, real=True) for side in rest.shape]
    power = [np.abs(fft.rfft2(one, shape)) ** 2 for one in (values, sky.astype(float))]
    power, pairs = (fft.irfft2(one, shape) for one in power)
    lags = np.arange(-_LAGS, _LAGS + 1)
    alike = (power / np.maximum(pairs, 0.5))[np.ix_(lags, lags)]
    alike /= alike[_LAGS, _LAGS] or 1
    ring = np.maximum(*np.abs(np.meshgrid(lags, lags)))
    light = max(alike[ring == _LAGS].mean(), 0)
    if light > 0.5:
        return 1.0
    alike = (alike - light) / (1 - light)
    least = max(5 / np.sqrt(2 * sky.sum()), 0.03)
    reach = np.argmax([alike[ring == k].mean() <= least for k in range(1, _LAGS + 1)])
    return float(np.sqrt(max(alike[ring <= reach].sum(), 1)))
