"""The light of every source of an image, from the network's components of stamps.

Each source is the central one of a stamp. In flux, the sum of all components is made to agree with
the image. Every component has two kinds of light: the network's, and the image's apportioned by it.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from skimage.morphology import h_maxima

from astrodeblend.flags import Flag

__all__ = ["LIGHTS", "Component", "Light", "combine", "of_stamps", "outlined", "regained"]

#: The kinds of light: the image's, apportioned among sources, and the network's.
LIGHTS = ("apportioned", "network")

_SMOOTH = 1.5  # pixels: standard deviation of the smoothing of light for footprints and peaks
_LEFT = 1 / (2 * np.sqrt(np.pi) * _SMOOTH)  # of white noise: standard deviation after smoothing
_GROWN = 2  # pixels by which footprints are dilated
_LOST = 0.1  # of a source's light: residual in its footprint that is flagged
_DOUBT = 5.0  # standard deviations of the noise of a significant residual or peak
_PEAK = 0.2  # of the highest peak: height above the saddle of a further one
_CORE = 1 / 30  # of a stamp's width: radius of the core, a fifth of a Petrosian radius
_BRIGHT = 1000.0  # standard deviations of the noise: brighter pixels are flagged

_STEPS = 2
_WIDTH = 2.0  # pixels: standard deviation of the smoothing of residuals, about that of a PSF
_FLOOR = 0.5  # standard deviations of the noise: fainter components gain less of the residual


@dataclass(frozen=True, eq=False)
class Component:
    """The light of one source in a part of an image."""

    box: tuple[slice, slice]  # its part (y, x) of the image
    position: tuple[float, float]  # of the source in the image, (x, y) in pixels
    width: float  # of its stamp, in pixels of the image
    scale: float  # width of a pixel of the stamp, in pixels of the image
    light: np.ndarray  # (bands, y, x), sky-subtracted
    sky: np.ndarray  # (bands, 1, 1): the component's sky level
    deblending: np.ndarray  # (bands, y, x): deviation of the light by deblending
    noise: np.ndarray  # (bands, y, x): deviation by the noise of the image
    sky_noise: np.ndarray  # (bands, 1, 1): standard deviation of the sky's noise
    hidden: np.ndarray  # (bands, y, x): no data, the light is unknown
    # (y, x): its connected light above the scaling's ``seen`` standard deviations of the smoothed
    # noise, dilated by two pixels
    footprint: np.ndarray
    flags: Flag
    # maximum of its smoothed light, (x, y) in pixels of the image; its position if hidden there
    peak: tuple[float, float]
    blend_score: float = np.nan  # probability that the stamp shows more than one galaxy
    flux_std: np.ndarray | None = None  # (bands,), by deblending; None: that of the pixels

    @property
    def seen(self):
        """The light in the footprint; 0 elsewhere and in pixels without data."""
        return np.where(self.footprint & ~self.hidden, self.light, 0)


@dataclass(frozen=True, eq=False)
class Light:
    """The light of an image by source."""

    components: list  # the `Component` of each source, with the network's light
    rest: Component | None  # all other light in the stamp of a single source
    unclaimed: np.ndarray  # (bands, y, x): the network's light that belongs to no source
    scaling: object  # Picture or Flux

    def apportioned(self, above, stated):
        """Return components with the image's light in place of the network's.

        Every pixel is apportioned in proportion to the network's light of each source and of no
        source (Bosch et al. 2018, PASJ 70, S5, section 4.9.8). ``above`` is the sky-subtracted
        image (bands, y, x), 0 without data; ``stated`` the standard deviation of its noise.
        """
        scaling = self.scaling
        claims = [scaling.claims(c.seen, above[:, *c.box]) for c in self.components]
        claimed = self.unclaimed.copy()
        for component, claim in zip(self.components, claims, strict=True):
            claimed[:, *component.box] += claim
        share = np.divide(above, claimed, out=np.zeros(above.shape), where=claimed > 0)
        shared = []
        for component, claim in zip(self.components, claims, strict=True):
            part = share[:, *component.box]
            noise = component.noise * np.minimum(np.abs(part), 1)
            if scaling.adds:  # the network's light is noiseless, apportioned light is not
                whole = np.maximum(claimed[:, *component.box], np.finfo(float).tiny)
                spread = np.broadcast_to(stated, above.shape)[:, *component.box]
                noise = spread * (claim / whole)
            shared.append(
                replace(component, light=claim * part, noise=np.where(claim > 0, noise, 0))
            )
        return shared


def of_stamps(image, sky, scaling, stamps, answers, *, complete):
    """Return the components of sources on the image's pixels, from the network's of stamps.

    ``stamps`` and ``answers`` are in the order of the sources, each centred on its own;
    ``complete`` says that the image has no other sources, so that all light belongs to these.
    Returned are the components, all other light in the stamp of a single source or None, and the
    network's light that belongs to no source, (bands, y, x).
    """
    shape = image.data.shape
    own, rest, seen, times = [], None, np.zeros(shape), np.zeros(shape[1:])
    for stamp, answer in zip(stamps, answers, strict=True):
        own.append(_component(stamp, answer, 0))
        if complete:
            continue
        rest = _component(stamp, answer, 1)
        core = stamp.core
        inner = tuple(
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(core, stamp.slices, strict=True)
        )
        seen[:, *core] += (own[-1].light + rest.light)[:, *inner]
        times[core] += 1
    unclaimed = np.zeros(shape)
    if not complete:
        total = _sum(own, shape)
        unclaimed = np.where(times > 0, np.maximum(seen / np.maximum(times, 1) - total, 0), 0)
        unclaimed *= _stands_out(_smoothed(unclaimed, sky.noise), shape[0], scaling.seen)
    return own, rest if len(own) == 1 else None, unclaimed


def combine(image, sky, scaling, own, rest, unclaimed):
    """Return the `Light` of what `of_stamps` returns, with footprints.

    In flux, the sum of components is made to agree with the image.
    """
    above = np.where(sky.hidden, 0, image.data - sky.level)
    if scaling.adds:
        total = _sum(own, above.shape)
        factor = regained(above, total + unclaimed, sky.noise, valid=~sky.hidden)
        own = [replace(c, light=c.light * factor[:, *c.box]) for c in own]
        unclaimed = unclaimed * factor
        if rest is not None:
            rest = replace(rest, light=rest.light * factor[:, *rest.box])
    own = _flagged([_outlined(c, scaling) for c in own], unclaimed, above, scaling)
    return Light(own, rest, unclaimed, scaling)


def _component(stamp, answer, k):
    """Return the component k of a stamp on the image's pixels; without light if not finite."""
    light, std = answer.light[k], answer.std[k]
    flags = stamp.flags | answer.flags
    if not (np.isfinite(light).all() and np.isfinite(std).all()):
        light, std, flags = np.zeros_like(light), np.zeros_like(std), flags | Flag.NOT_DEBLENDED
    light, level, *deviations = stamp.component(light, std)
    light, deblending, noise = (x.astype(stamp.data.dtype) for x in (light, *deviations))
    hidden = stamp.hidden | ~stamp.known[:, None, None]
    return Component(
        stamp.slices, answer.position, stamp.width, stamp.scale, light, level, deblending, noise,
        stamp.noise, hidden, np.ones(light.shape[1:], bool), flags, answer.position,
        answer.blend_score,
    )  # fmt: skip


def outlined(rest, scaling):
    """Return the rest of a stamp with position and footprint of its brightest source."""
    smooth = _smoothed(rest.seen, rest.sky_noise)
    rest = _outlined(replace(rest, position=_peak(smooth, rest.box)), scaling)
    return rest if rest.seen.any() else replace(rest, flags=rest.flags | Flag.EMPTY)


def _outlined(component, scaling):
    """Return a component with its footprint: its light above the noise around its position."""
    smooth = _smoothed(np.where(component.hidden, 0, component.light), component.sky_noise)
    seen = _stands_out(smooth, len(component.light), scaling.seen)
    regions, _ = ndimage.label(seen)
    rows, columns = np.indices(regions.shape)
    (x, y), (row, column) = component.position, (part.start for part in component.box)
    distance = np.where(seen, np.hypot(columns + column - x, rows + row - y), np.inf)
    nearest = np.unravel_index(np.argmin(distance), distance.shape)
    if distance[nearest] > max(3, component.width / 10):
        return replace(component, footprint=np.zeros(regions.shape, bool))
    region = regions == regions[nearest]
    flags, own = component.flags, region
    peaks, number = _peaks(np.where(region, smooth, 0), len(component.light))
    if number > 1:  # take the nearest one
        flags |= Flag.SEVERAL_PEAKS
        own = peaks == peaks.flat[np.argmin(np.where(peaks > 0, distance, np.inf))]
    footprint = ndimage.binary_dilation(region, iterations=_GROWN)
    at = np.argmin(np.hypot(columns + column - x, rows + row - y))
    unknown = component.hidden.reshape(len(component.light), -1)[:, at].all()
    peak = component.position if unknown else _peak(smooth, component.box, own)
    return replace(component, footprint=footprint, flags=flags, peak=peak)


def _peak(smooth, box, where=True):
    """Return the position (x, y) of the maximum of light in a part of an image, to sub-pixels."""
    at = np.unravel_index(np.argmax(np.where(where, smooth, -np.inf)), smooth.shape)
    place = np.array(at, float)
    for axis, (k, side) in enumerate(zip(at, smooth.shape, strict=True)):
        if 0 < k < side - 1:  # the maximum of a parabola through three pixels
            low, middle, high = smooth.take((k - 1, k, k + 1), axis).take(at[1 - axis], axis - 1)
            bend = low + high - 2 * middle
            place[axis] += (low - high) / (2 * bend) if bend < 0 else 0
    y, x = place
    return float(x + box[1].start), float(y + box[0].start)


def _smoothed(light, noise):
    """Return the sum of the bands in units of their noise, smoothed, shape (y, x)."""
    return ndimage.gaussian_filter((light / noise).sum(axis=0), _SMOOTH)


def _stands_out(smooth, bands, seen):
    return smooth > seen * np.sqrt(bands) * _LEFT


def _peaks(smooth, bands):
    """Label and count the significant peaks of light."""
    rise = max(_PEAK * smooth.max(), _DOUBT * np.sqrt(bands) * _LEFT)
    peaks = (smooth == ndimage.maximum_filter(smooth, 3)) & (smooth > rise)
    if np.count_nonzero(peaks) < 2:
        return peaks.astype(int), np.count_nonzero(peaks)
    return ndimage.label(h_maxima(smooth, rise), np.ones((3, 3)))


def _flagged(components, unclaimed, above, scaling):
    """Return components with the flags that follow from their light and the residual."""
    everything = _sum(components, above.shape) + unclaimed
    # In pictures the brightest component shows; it may be negative by noise.
    together = everything
    if not scaling.adds:
        together = np.where(unclaimed > 0, unclaimed, -np.inf)
        for component in components:
            part = together[:, *component.box]
            np.maximum(part, component.seen, out=part)
    left, flagged = above - together, []
    for component in components:
        flags, box, inside = component.flags, component.box, component.footprint
        lost = abs(np.where(component.hidden, 0, left[:, *box])[:, inside].sum())
        noise = np.sqrt((component.sky_noise**2).sum() * inside.sum())
        if lost > max(_LOST * component.seen.sum(), _DOUBT * noise):
            flags |= Flag.FLUX_NOT_CONSERVED
        if (component.seen > _BRIGHT * component.sky_noise).any():
            flags |= Flag.BRIGHT
        rows, columns = np.indices(inside.shape)
        away = np.hypot(
            columns + box[1].start - component.position[0],
            rows + box[0].start - component.position[1],
        )
        core = away <= max(_CORE * component.width, 1.5)
        if 2 * component.seen[:, core].sum() < np.maximum(everything[:, *box], 0)[:, core].sum():
            flags |= Flag.MINOR_SHARE
        if not component.seen.any():
            flags |= Flag.EMPTY
        flagged.append(replace(component, flags=flags))
    return flagged


def _sum(components, shape):
    """Return the sum of components."""
    total = np.zeros(shape)
    for component in components:
        total[:, *component.box] += component.seen
    return total


def regained(light, total, noise, *, valid=True):
    """Return the factor, not negative, by which a sum of components agrees with an image.

    The smoothed residual is distributed in proportion to the components, twice, similar to the
    iterations of Richardson (1972, JOSA 62, 55) and Lucy (1974, AJ 79, 745). The shares of the
    components in a pixel do not change. ``light`` is the sky-subtracted image and ``total`` the
    sum, both (..., y, x); the sky's ``noise`` and ``valid``, where there are data, broadcast to
    them.
    """
    known = np.broadcast_to(np.asarray(valid, np.float32), light.shape)
    sigma = (light.ndim - 2) * (0.0,) + (_WIDTH, _WIDTH)  # images of a stack are separate

    def smoothed(images):
        return ndimage.gaussian_filter(images, sigma, mode="nearest")

    weight = np.maximum(smoothed(known), 1e-6)
    factor = np.ones(light.shape, np.float32)
    for _ in range(_STEPS):
        now = factor * total
        missing = smoothed(known * (light - now)) / weight
        factor *= np.maximum(1 + missing / (np.maximum(now, 0) + _FLOOR * noise), 0)
    return factor
