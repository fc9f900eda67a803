"""Every source of an image alone: each in the middle of its own stamp, until all agree.

The recentring scheme of Reiman & Goehre (2019): the network is asked for the central galaxy of
one stamp after the other. It knows blends of two, so of a source's neighbours all but the one
that gives most light to its stamp are subtracted, as well as they are known, until what is
subtracted changes no more.
"""

from dataclasses import dataclass, replace

import numpy as np
from astropy.nddata import NDData
from scipy import ndimage

from astrodeblend.apportion import prepare, stamp_flags
from astrodeblend.detect import data_and_mask
from astrodeblend.places import Place
from astrodeblend.results import Flag

__all__ = ["Component", "separate", "share_out"]

_MARGIN = 6  # pixels around a stamp that support its resampling
_SMOOTH = 1.5  # pixels; a footprint is where the light, smoothed so, stands out
_SEEN = 1.0  # by so many standard deviations of the noise that is left
_GROWN = 2  # and so many pixels more
_WINGS = 0.1  # of a stamp's width, to which an isolated source's segment is grown
_AGREED = 0.5  # rms of a change over the footprint, in units of the noise, that is none
_AT_ONCE = 128  # stamps in memory
_DAMPED = 2  # after so many rounds half of each change is taken, lest light goes to and fro


@dataclass(frozen=True, eq=False)
class Component:
    """The light of one source.

    Attributes
    ----------
    box : tuple of slice
        The part (y, x) of the image it is in.
    light : numpy.ndarray, shape (bands, y, x)
        Above the sky; zero outside the source's footprint.
    variance : numpy.ndarray, shape (bands, y, x)
        Of the light.
    flags : Flag
        What there is to know about it.
    change : float
        How much the last round changed it: rms over the footprint, in units of the noise; NaN
        if it was asked for only once, 0 if it is isolated.
    """

    box: tuple[slice, slice]
    light: np.ndarray
    variance: np.ndarray
    flags: Flag
    change: float = 0.0


def separate(image, level, places, segmentation, parents, size_rule, run, *, rounds=8, watch=iter):
    """Separate the sources of an image from each other.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.
    level : numpy.ndarray
        Of the sky, of a shape that broadcasts to the image's.
    places : list of Place
        Where the sources are.
    segmentation : numpy.ndarray of int, shape (y, x)
        Which of the places, counted from 1, the source in each pixel has; 0 for the sky.
    parents : numpy.ndarray of int
        The same number for sources whose light touches.
    size_rule : dict
        Of the model's card.
    run : callable
        Takes stamps (n, bands, pixels, pixels) within [0, 1]; returns of their central
        components the light, its standard deviation (both of that shape), and flags each.
    rounds : int, optional
        The most rounds to take.
    watch : callable, optional
        Is given a range of the sources of each round, for a progress bar around it.

    Returns
    -------
    components : list of Component
        One for each place.
    taken : int
        How many rounds it took.
    """
    data, hidden = data_and_mask(image)
    light = np.where(hidden, 0, data - level)
    components = [
        _whole(image, data, hidden, place, segmentation, k) for k, place in enumerate(places, 1)
    ]
    members = np.bincount(parents, minlength=1 + max(parents, default=0))
    blended = [k for k in range(len(places)) if members[parents[k]] > 1]
    subtracted = _subtracted(light, places, components, segmentation, parents, blended)
    known = [None if members[parents[k]] > 1 else c for k, c in enumerate(components)]

    active, taken = blended, 0
    while active and taken < rounds:
        stamps, fresh = {}, {}
        for count, k in enumerate(watch(active), 1):
            others = [known[j] for j in subtracted[k] if known[j] is not None]
            try:
                stamps[k] = _prepare(image, data, places[k], others, size_rule)
            except ValueError:  # such as a band without a valid pixel
                fresh[k] = _failed(components[k])
            if stamps and (len(stamps) == _AT_ONCE or count == len(active)):
                answers = run(np.stack([prepared.blend for prepared, _ in stamps.values()]))
                for (j, stamp), *answer in zip(stamps.items(), *answers, strict=True):
                    fresh[j] = _component(*stamp, *answer, places[j]) or _failed(components[j])
                stamps = {}
        for k, component in fresh.items():
            if not taken and not component.flags & Flag.NOT_DEBLENDED:
                change = np.inf
            else:
                component, change = _moved(components[k], component, places[k], taken >= _DAMPED)
            components[k] = replace(component, change=change)
        known = share_out(light, components)
        taken += 1
        restless = {k for k in fresh if components[k].change > _AGREED}
        active = [
            k
            for k in blended
            if not components[k].flags & Flag.NOT_DEBLENDED and restless.intersection(subtracted[k])
        ]
    for k in active:
        components[k] = replace(components[k], flags=components[k].flags | Flag.NOT_CONVERGED)
    return [replace(c, change=np.nan) if np.isinf(c.change) else c for c in components], taken


def _subtracted(light, places, components, segmentation, parents, blended):
    """Return, for each blended source, which others are subtracted from its stamp.

    All that reach into it but its partner: of those that touch it, the one that gives most
    light to the stamp.
    """
    light = light.sum(axis=0)
    starts, ends = (
        np.array([[getattr(part, end) for part in c.box] for c in components])
        for end in ("start", "stop")
    )
    subtracted = {}
    for k in blended:
        box = components[k].box
        labels = segmentation[box]
        given = ndimage.sum_labels(light[box], labels, np.arange(1, len(places) + 1))
        near = ((starts < ends[k]) & (starts[k] < ends)).all(axis=1)
        near[k] = False
        touching = near & (parents == parents[k])
        partner = np.argmax(np.where(touching, given, -np.inf)) if touching.any() else k
        subtracted[k] = [j for j in np.flatnonzero(near) if j != partner]
    return subtracted


def _box(place, shape, margin=0):
    """Return the part of the image that a stamp covers."""
    half = place.width / 2 + margin
    box = []
    for at, side in zip(place.position[::-1], shape, strict=True):
        low, high = int(np.floor(at - half + 0.5)), int(np.ceil(at + half + 0.5))
        box.append(slice(max(low, 0), min(high, side)))
    return tuple(box)


def _whole(image, data, hidden, place, segmentation, number):
    """Return all the light around a source that is not in another one's segment."""
    box = _box(place, segmentation.shape)
    labels = segmentation[box]
    grown = ndimage.distance_transform_edt(labels != number) <= _WINGS * place.width
    footprint = grown & ((labels == 0) | (labels == number)) & (labels == number).any()
    seen = footprint & ~hidden[:, *box]
    light = np.where(seen, data[:, *box] - place.level, 0)
    variance = np.where(seen, _variance(image, place, box), 0)
    flags = place.flags | stamp_flags(image, box, place.width)
    return Component(box, light, variance, flags)


def _variance(image, place, box):
    if image.uncertainty is None:
        return np.broadcast_to(place.noise**2, (len(image.data), *(s.stop - s.start for s in box)))
    return image.uncertainty.array[:, *box].astype(float) ** 2


def _prepare(image, data, place, others, size_rule):
    """Prepare a source's stamp with the light of others taken out; and where its corner is."""
    box = _box(place, data.shape[1:], _MARGIN)
    corner = tuple(part.start for part in box)
    local = data[:, *box].astype(np.float32)
    for other in others:
        inner, outer = _shared(box, other.box)
        local[:, *inner] -= other.light[:, *outer]
    mask = None if image.mask is None else image.mask[:, *box]
    local = NDData(local, mask=mask, unit=image.unit, meta=image.meta)
    if image.uncertainty is not None:
        local.uncertainty = image.uncertainty[:, *box]
    x, y = place.position
    moved = Place(
        (x - corner[1], y - corner[0]), place.width, place.level, place.noise, place.flags
    )
    return prepare(local, moved, size_rule), corner


def _shared(a, b):
    """Return what two boxes share, as slices of the one and of the other."""
    low = [max(p.start, q.start) for p, q in zip(a, b, strict=True)]
    high = [max(min(p.stop, q.stop), start) for p, q, start in zip(a, b, low, strict=True)]
    return tuple(
        tuple(slice(lo - p.start, hi - p.start) for lo, hi, p in zip(low, high, box, strict=True))
        for box in (a, b)
    )


def _component(prepared, corner, answer, std, flags, place):
    """Turn the network's answer into light in the image; None if it is not finite."""
    if not (np.isfinite(answer).all() and np.isfinite(std).all()):
        return None
    light, _, variance = prepared.light(answer, std)
    box = tuple(
        slice(part.start + start, part.stop + start)
        for part, start in zip(prepared.stamp.slices, corner, strict=True)
    )
    footprint = _footprint(light, place, box)
    return Component(box, light * footprint, variance * footprint, flags | prepared.flags)


def _footprint(light, place, box):
    """Return where a source's light stands out, around its position, shape (y, x)."""
    summed = (light / place.noise).sum(axis=0)
    smooth = ndimage.gaussian_filter(summed, _SMOOTH)
    left = np.sqrt(len(light)) / (2 * np.sqrt(np.pi) * _SMOOTH)
    regions, _ = ndimage.label(smooth > _SEEN * left)
    rows, columns = np.indices(regions.shape)
    distance = np.hypot(
        columns + box[1].start - place.position[0], rows + box[0].start - place.position[1]
    )
    distance[regions == 0] = np.inf
    nearest = np.unravel_index(np.argmin(distance), distance.shape)
    if distance[nearest] > max(3, place.width / 10):
        return np.zeros(regions.shape, bool)
    return ndimage.binary_dilation(regions == regions[nearest], iterations=_GROWN)


def _failed(component):
    """Keep the light where a source was detected, and say that it was not deblended."""
    return replace(component, flags=component.flags | Flag.NOT_DEBLENDED)


def _moved(old, new, place, damped):
    """Return the new component, or one half the way to it, and how much it is changed."""
    light = (old.light + new.light) / 2 if damped else new.light
    footprint = (old.light != 0) | (light != 0)
    change = ((light - old.light) / place.noise)[footprint]
    change = float(np.sqrt(np.mean(change**2))) if change.size else 0.0
    return replace(new, light=light), change


def share_out(light, components, *, fill=False):
    """Share the light of an image out among components that may claim more than there is.

    Where noise has made the light negative, it is shared out among those that are negative there,
    so that no flux is made of noise.

    Parameters
    ----------
    light : numpy.ndarray, shape (bands, y, x)
        Of the image, above the sky.
    components : list of Component
    fill : bool, optional
        Also give what nobody claims to those whose footprints it is in, so that the sum is the
        light (Bosch et al. 2018, PASJ 70, S5, section 4.9.8). Otherwise a component keeps what it
        claims where there is as much.

    Returns
    -------
    list of Component
    """
    sign = np.sign(light)
    claims = [np.maximum(c.light * sign[:, *c.box], 0) for c in components]
    claimed = np.zeros(light.shape)
    for component, claim in zip(components, claims, strict=True):
        claimed[:, *component.box] += claim
    given = light if fill else sign * np.minimum(np.abs(light), claimed)
    share = np.divide(given, claimed, out=np.zeros(light.shape), where=claimed > 0)
    shared = []
    for component, claim in zip(components, claims, strict=True):
        part = share[:, *component.box]
        variance = np.where(claim > 0, component.variance * np.minimum(part**2, 1), 0)
        shared.append(replace(component, light=claim * part, variance=variance))
    return shared
