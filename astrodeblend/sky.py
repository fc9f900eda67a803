"""The sky of an image: its level, its noise, and pixels without data."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.polynomial.polynomial import polyvander, polyvander2d
from scipy import fft, ndimage
from scipy.stats import f, norm

__all__ = ["Sky", "estimate_sky", "sky_of"]

_MAD = 1 / norm.ppf(0.75)  # standard deviation of a normal law over its median absolute deviation
_QUANTUM = 1 / np.sqrt(12)  # standard deviation of a rounding error, in steps
_SAMPLE = 30_000  # pixels used to estimate a scatter
_WINGS = 0.25  # in units of the noise: error of the level by wings in an image full of galaxies
_MUCH_SKY = 3000  # pixels without sources from which on that error falls as 1 / pixels
_LAGS = 8  # pixels: largest lag of correlated noise
_LARGE_PICTURE = 512  # pixels a side from which on a picture's sky may be a surface
_FEWEST = 64  # pixels with data: fewer tell no level and noise of a band
_REPEATED = 8  # pixels of one exact value far from the sky, from which on it may mean no data
_SURE = 5.0  # standard deviations by which a pixel is sharper than the sharpest PSF
_GAPS = 0.1  # share of pixels without data in between others from which on it is reported
_UNLIKE = 4.0  # factor between a stated noise and the image's scatter that is reported
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

    These are the pixels that are masked or not finite, or whose uncertainty is not finite or not
    above 0; in flux, blocks of one exact value (64 connected pixels, or, if many single
    pixels have that value (counts), squares too large for chance), and an exact value far from the
    sky that single pixels share without light around them; in pictures, a frame of one colour.
    Blocks of saturated light and of noiseless sky are data. So are stars, but not a pixel that
    falls to its neighbours on both sides more than any PSF does (a cosmic ray, a hot pixel): more
    than a Gaussian of half of the PSF's full width at half maximum, at most of a pixel.

    A band without data among others is hidden; its level is 0, its noise the others' median.

    The level is a constant, or, if that fits means in boxes much better, a plane (a surface of
    second order from 300 pixels a side). A constant within three errors of 0 is 0 in images with
    negative values, whose sky was subtracted. What makes level or noise doubtful is warned of.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it: data of shape (bands, y, x).

    Returns
    -------
    Sky

    Raises
    ------
    ValueError
        If each band has fewer than 64 pixels with data.
    """
    data, words = np.array(image.data, float), []
    if data.ndim != 3:
        raise ValueError(f"image has shape {data.shape}; it has to be (bands, y, x)")
    known = image.meta.get("astrodeblend", {})
    picture = known.get("kind") == "picture"
    names = [f"band {name}" for name in known.get("bands") or range(len(data))]
    hidden = ~np.isfinite(data) | (False if image.mask is None else image.mask)
    data[hidden] = 0
    told = None if image.uncertainty is None else np.asarray(image.uncertainty.array, float)
    if told is not None:
        hidden |= ~(np.isfinite(told) & (told > 0))
    white = (known.get("full_scale") or 255) if picture else None
    if picture:
        frame = _frame(data, 3 / 255 * white)
        hidden |= frame
        if frame.any():
            words.append(f"a frame of one colour, {frame.sum()} pixels: no data")
    for k, (band, out) in enumerate(zip(data, hidden, strict=True)):
        for find in () if picture else (_fills, _repeated):
            for value, filled in find(band, ~out) if np.count_nonzero(~out) >= _FEWEST else ():
                out |= filled
                words.append(f"{names[k]}: {filled.sum()} pixels are {value:g}: no data")
    there = _with_data(data, ~hidden, picture, words)
    for k in np.flatnonzero(~there):
        hidden[k] = True
        _warn(words, f"{names[k]} has no data, or one value: it is left out, its fluxes are NaN")
    names = [names[k] for k in np.flatnonzero(there)]
    data, valid, told = data[there], ~hidden[there], None if told is None else told[there]
    cut = [_cut_off(*one) and (picture or _is_real(*one)) for one in zip(data, valid, strict=True)]
    if any(cut) or (picture and min(data.shape[1:]) < _LARGE_PICTURE):
        found = [sky_of(*one, cut=any(cut)) for one in zip(data, ~valid, strict=True)]
        (levels, noises, sources), correlations = zip(*found, strict=True), np.ones(len(data))
        if not picture:
            first = cut.index(True)
            text = f"{names[first]} is cut off at {data[first].min():g}"
            _warn(words, f"{text}: level and noise come from the pixels above the median")
    else:
        levels, noises, correlations, sources = _of_flux(data, valid, names, words)
    if not picture:
        psf = np.broadcast_to(np.nan if known.get("psf") is None else known["psf"], len(there))
        type_, sharper = np.asarray(image.data).dtype, {}
        for name, band, ok, level, noise, width in zip(
            names, data, valid, levels, noises, psf[there], strict=True
        ):
            sharp = _sharper(band - level, ok, noise, width)
            ok &= ~sharp
            sharper[name] = np.count_nonzero(sharp)
            step = np.spacing(np.abs(np.median(level)).astype(type_)) if type_.kind == "f" else 0
            if step > noise:
                text = f"{name}: {type_} rounds values to steps of {step:g}, more than the noise"
                _warn(words, f"{text}: subtract the level of {np.median(level):g} before")
        hidden[there] = ~valid
        if any(sharper.values()):
            text = ", ".join(f"{number} in {name}" for name, number in sharper.items() if number)
            text = f"pixels sharper than any PSF (cosmic rays, hot pixels) are no data: {text}"
            _warn(words, f"{text}; if stars are so sharp, give psf")
        _report_gaps(names, valid, words)
    _doubt(data, valid, levels, noises, white, names, words)
    if told is not None:
        scatter = noises
        noises = [_told(*one) for one in zip(told, valid, valid & ~np.array(sources), strict=True)]
        for name, one, other in zip(names, noises, scatter, strict=True):
            if not 1 / _UNLIKE < (ratio := np.median(one) / other) < _UNLIKE:
                text = f"{name}: the uncertainty is {ratio:.3g} times the scatter of the sky"
                _warn(words, f"{text}: is it a variance, or a weight, or in another unit?")
    elif not picture:
        for name, band, ok, noise in zip(names, data, valid, noises, strict=True):
            low, high = _range_of_noise(band, ok)
            if high > 3 * low > 0.3 * noise:
                text = f"{name}: the noise varies from {low:.3g} to {high:.3g} over the image"
                _warn(words, f"{text}: give it as uncertainty or weight")
    if picture:
        noises = [np.maximum(noise, _QUANTUM * (1 if white > 1 else 1 / 255)) for noise in noises]
    levels, noises = (
        np.stack(np.broadcast_arrays(*map(np.atleast_2d, one))) for one in (levels, noises)
    )
    return Sky(
        _of_all(levels, there, 0.0),
        _of_all(noises, there, np.median(noises)),
        hidden,
        _of_all(np.array(correlations), there, 1.0),
        "image" if told is None else "uncertainty",
        tuple(words),
    )


def _with_data(data, valid, picture, words):
    """Return which bands have data: 64 pixels, and, in flux beside others, more than one value."""
    number = np.count_nonzero(valid, axis=(1, 2))
    if number.max() < _FEWEST:
        text = f"every band has fewer than {_FEWEST} pixels with data, too few to measure its sky"
        raise ValueError("; ".join([f"image: {text}", *words]))
    there = number >= _FEWEST
    varied = there & [
        ok.any() and np.ptp(band[ok]) > 0 for band, ok in zip(data, valid, strict=True)
    ]
    if not varied.any():
        found = ", ".join(
            f"{band[ok][0]:g}" for band, ok in zip(data, valid, strict=True) if ok.any()
        )
        text = f"image has one value in every pixel with data ({found})"
        _warn(words, f"{text}: it has no sources, and its noise is not known")
    return varied if varied.any() and not picture else there


def _of_all(values, there, missing):
    """Return values of the bands with data as values of all bands."""
    result = np.full((len(there), *values.shape[1:]), missing, float)
    result[there] = values
    return result


def sky_of(band, hidden=None, *, cut=False):
    """Return level, noise and source mask of one band, by iterative masking of sources.

    With ``cut``, the noise of a sky that is cut off below is that of values above the median.
    """
    hidden = np.zeros(band.shape, bool) if hidden is None else hidden
    # smoothing by much more than a point source detects faint wings of galaxies
    smooth = ndimage.gaussian_filter(np.where(hidden, np.median(band[~hidden]), band), 3)
    sources = _standing_out(smooth, hidden, 6, 0.98)
    seen = ~(sources | hidden)
    sky = band[seen]
    if cut and _cut_off(band, seen):
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
    """Return whether a sky is cut off below: a fifth or more of it has the lowest value."""
    return np.mean(band[sky] == band[sky].min()) >= 0.2


def _is_real(band, valid):
    """Return whether a band that is cut off has real values above, with noise: no counts."""
    values = band[valid][:: valid.sum() // _SAMPLE + 1]
    above = values[values > values.min()]
    return len(np.unique(above)) > 0.5 * len(above) and sky_of(band, ~valid, cut=True)[1] > 0


def _frame(picture, tolerance):
    """Return the mask of rows and columns at the edges of a picture that have its corner's colour.

    A side counts if most pixels of the next line have another colour; else it is dark sky.
    """
    frame = np.zeros(picture.shape[1:], bool)
    for corner in ((0, 0), (-1, -1)):
        other = (np.abs(picture - picture[:, *corner][:, None, None]) > tolerance).any(axis=0)
        if not other.any():
            continue
        (top, *_, bottom), (left, *_, right) = (
            (*np.flatnonzero(other.any(axis=axis))[[0, -1]],) for axis in (1, 0)
        )
        for line, beyond in (
            (other[top, left : right + 1], np.s_[:top]),
            (other[bottom, left : right + 1], np.s_[bottom + 1 :]),
            (other[top : bottom + 1, left], np.s_[:, :left]),
            (other[top : bottom + 1, right], np.s_[:, right + 1 :]),
        ):
            frame[beyond] |= line.mean() > 0.5
    return frame


def _warn(words, text):
    from astropy.utils.exceptions import AstropyUserWarning  # not needed by training

    words.append(text)
    warnings.warn(text, AstropyUserWarning, stacklevel=3)


def _doubt(data, valid, levels, noises, white, names, words):
    """Warn of an image whose sources are darker than its sky."""
    if white is not None:
        if min(np.median(level) for level in levels) > white / 2:
            _warn(words, f"the sky is brighter than half of white ({white:g}): a negative?")
        return
    for name, band, ok, level, noise in zip(names, data, valid, levels, noises, strict=True):
        above = (band - level)[ok]
        low, high = np.quantile(above[:: len(above) // _SAMPLE + 1], (0.002, 0.998)) / noise
        if -low > max(8, 3 * high):
            text = f"{name}: pixels are up to {-low:.3g} noises below the sky, {high:.3g} above"
            _warn(words, f"{text}: a negative, or bad pixels without a mask?")


def _sharper(above, valid, noise, psf):
    """Return the mask of pixels that are sharper than any PSF, as `estimate_sky` defines it."""
    fall = 0.5 ** ((2 / np.fmin(psf / 2, 1)) ** 2)  # of a Gaussian, a pixel from its middle
    light = np.pad(np.where(valid, above, np.nan), 3, constant_values=np.nan)
    size = np.abs(light)
    y, x = np.nonzero(fall * size > _SURE * noise / np.sqrt(2))
    size, sign = size[y, x], np.sign(light[y, x])
    excess = np.zeros(len(y))  # over the mean of two neighbours, which is uncertain by the noise
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        pair = sign * (light[y + dy, x + dx] + light[y - dy, x - dx]) / 2
        excess = np.fmax(excess, fall ** (dy**2 + dx**2) * size - np.maximum(pair, 0))
    sharp = np.zeros(above.shape, bool)
    some = excess > _SURE * noise / np.sqrt(2)
    if some.any():
        y, x, size, excess = y[some] - 3, x[some] - 3, size[some], excess[some]
        around = np.abs(sliding_window_view(light, (7, 7))[y, x])
        photons = _step_noise(above, valid)[1] * fall * size  # variance of counts
        noise = np.hypot(np.maximum(noise, _MAD * np.nanmedian(around, axis=(1, 2))), photons**0.5)
        some = excess > _SURE * noise / np.sqrt(2)
        sharp[y[some], x[some]] = True
    return sharp


def _report_gaps(names, valid, words):
    """Warn of many pixels without data in between others: fluxes lack the light there."""
    for name, ok in zip(names, valid, strict=True):
        if ok.all():
            continue
        closed = ok | ndimage.binary_closing(ok, np.ones((3, 3)))
        share = 1 - np.count_nonzero(ok) / np.count_nonzero(closed)
        if share > _GAPS:
            text = f"{name}: {share:.0%} of the pixels in between others have no data"
            _warn(words, f"{text}: fluxes lack their light; interpolate before")


def _range_of_noise(band, valid):
    """Return low and high noise among sixteenths of a band: those of 15 % are below and above.

    It is the scatter of second differences along y, in which gradients of light cancel.
    """
    second = (band[4:] - 2 * band[2:-2] + band[:-4]) / np.sqrt(6)
    known = valid[4:] & valid[2:-2] & valid[:-4]
    noises = [
        _MAD * np.median(np.abs(one[ok]))
        for rows in zip(np.array_split(second, 4), np.array_split(known, 4), strict=True)
        for one, ok in zip(*(np.array_split(each, 4, axis=1) for each in rows), strict=True)
        if ok.sum() > 500
    ]
    return np.quantile(noises or [1.0], (0.15, 0.85))


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


def _repeated(band, valid):
    """Yield values far from the sky that pixels without light around them share, and their masks.

    Such a value has most of the pixels in a range of 20 % about it: no count of photons has.
    """
    middle, step = np.median(band[valid]), max(_step_noise(band, valid))
    values = band[valid & (np.abs(band - middle) > 8 * step)]
    values, number = np.unique(values, return_counts=True)
    edges = np.sort(middle + np.multiply.outer((0.8, 1.25), values - middle), axis=0)
    low, high = (np.searchsorted(values, edge) for edge in edges)
    total = np.append(0, np.cumsum(number))
    often = (number >= _REPEATED) & (number > 0.5 * (total[high] - total[low]))
    for value in values[often & (np.abs(values - middle) > 10 * step)]:
        equal = valid & (band == value)
        ring = band[ndimage.binary_dilation(equal, np.ones((3, 3))) & valid & ~equal]
        if len(ring) and abs(np.median(ring) - middle) < 0.25 * abs(value - middle):
            yield value, equal


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


def _of_flux(data, valid, names, words):
    """Return level, noise and correlation of bands, and the mask of sources; append words."""
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
    found = []
    for k, (sky, level, excess) in enumerate(zip(skies, levels, excesses, strict=True)):
        noise = _scatter((data[k] - level)[sky], quanta[k])
        noiseless = 1e-5 * np.ptp(tame[k])
        noise = max(noise, noiseless) or 1.0
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
        words.append(f"{names[k]}: the level is {told}; its error is {error:.2g}")
        if noise > noiseless and (error > 2 * noise or noise > 5 * steps[k]):
            text = f"{names[k]}: the sky is uneven by {max(error, noise):.3g}, more than a surface"
            _warn(words, f"{text} of second order follows, or full of light; subtract it before")
        found.append((0.0 if zero else level, noise, correlation))
    return *zip(*found, strict=True), sources


def _sources(light, hidden):
    """Return the mask of small and large sources in light in units of its noise."""
    shape, times = light.shape, 1 + (min(light.shape) >= 96) + 2 * (min(light.shape) >= 400)
    nodes = np.s_[times // 2 :: times, times // 2 :: times]
    seen = ndimage.uniform_filter(1.0 - hidden, times)[nodes]
    hidden = seen < 0.5 / times**2
    light = ndimage.uniform_filter(light, times)[nodes] / np.where(hidden, 1, seen)
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
    largest = np.zeros(number + 1)
    np.maximum.at(largest, labels, radius)
    radius = largest[labels[tuple(nearest)]]
    grown = sources | (away < 0.66 * (radius - 20 / times))
    sources = grown if np.mean(grown | hidden) < 1 - 0.15 * visible else sources
    index = [np.arange(side) // times for side in shape]
    return sources[np.ix_(*map(np.minimum, index, np.array(sources.shape) - 1))]


def mad_std(values):
    """Return the standard deviation that the median absolute deviation means for normal values."""
    return _MAD * np.median(np.abs(values - np.median(values)))


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
    if 0.97 * len(away) >= len(other) > 0:  # ties make medians unreliable
        quantum = np.median(np.diff(np.unique(other[other <= 4 * np.median(other)]), prepend=0))
    both = (band, valid), (band.T, valid.T)
    steps = np.concatenate([(b[2:] - b[:-2])[ok[2:] & ok[:-2]] for b, ok in both])
    noise = _scatter(steps, quantum) / np.sqrt(2) if len(steps) else 0.0
    return noise or _scatter(values) or np.ptp(values) or 1.0, quantum


def _level(band, sky, noise):
    """Return the level from means in boxes, and their scatter in excess of their errors."""
    shape = band.shape
    size = int(np.ceil(max(np.clip(min(shape) / 8, 4, 64), max(shape) / 20)))
    starts = [np.arange(0, side, size) for side in shape]
    y, x = np.ogrid[: shape[0], : shape[1]]
    number, y, x, value = (
        np.add.reduceat(np.add.reduceat(sky * one, starts[0], 0), starts[1], 1).ravel()
        for one in (1.0, y, x, band)
    )
    used = number >= min(0.1 * size**2, number.max())
    number, y, x, value = number[used], *(one[used] / number[used] for one in (y, x, value))
    error = noise / np.sqrt(number)
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
        along, across = (polyvander(np.arange(side) / side, 2) for side in shape)
        return along @ surface @ across.T, 0.0
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
    values = (values - sky * (values.sum() / sky.sum())).astype(np.float32)
    shape = [fft.next_fast_len(side + _LAGS, real=True) for side in rest.shape]
    power = [np.abs(fft.rfft2(one, shape)) ** 2 for one in (values, sky.astype(np.float32))]
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
