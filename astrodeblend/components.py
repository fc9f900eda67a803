"""The light of each source of an image, and what the light of all of them is together."""

from dataclasses import dataclass, replace

import numpy as np

from astrodeblend.joint import regained
from astrodeblend.results import Flag

__all__ = ["Component", "flag_lost_light", "regain", "share_out", "trimmed"]

_LOST = 0.1  # of a source's light, that its surroundings may have too little or too much
_DOUBT = 5.0  # standard deviations of their noise by which they have so for certain


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
        How much the last time it was asked for changed it: rms over the footprint, in units of
        the noise; NaN if it was asked for only once, 0 if it is isolated.
    blend_score : float
        The probability that its stamp shows more than one galaxy: of an isolated source, without
        the segments of others; NaN if that is not known.
    deblending : numpy.ndarray, shape (bands, y, x), or float
        The part of the variance that deblending makes, not the noise of the image.
    """

    box: tuple[slice, slice]
    light: np.ndarray
    variance: np.ndarray
    flags: Flag
    change: float = 0.0
    blend_score: float = np.nan
    deblending: np.ndarray | float = 0.0


def flag_lost_light(light, components, places, *, adds):
    """Flag the sources in whose footprints components do not make up the light of the image.

    Where light adds, that is what their sum lacks; where it does not, the brightest of them.

    Parameters
    ----------
    light : numpy.ndarray, shape (bands, y, x)
        Of the image, above the sky.
    components : list of Component
        The network's own.
    places : list of Place
        Where the sources are.
    adds : bool
        Whether light adds, or the brightest source hides the others.

    Returns
    -------
    list of Component
    """
    # where the brightest shows, it may be negative by noise
    together = np.full(light.shape, 0.0 if adds else -np.inf)
    for component in components:
        part = together[:, *component.box]
        (np.add if adds else np.maximum)(part, component.light, out=part)
    left, flagged = light - together, []
    for component, place in zip(components, places, strict=True):
        footprint = (component.light != 0).any(axis=0)
        lost = abs(left[:, *component.box][:, footprint].sum())
        noise = np.sqrt((place.noise**2).sum() * footprint.sum())
        if lost > max(_LOST * component.light.sum(), _DOUBT * noise):
            component = replace(component, flags=component.flags | Flag.FLUX_NOT_CONSERVED)
        flagged.append(component)
    return flagged


def regain(light, components, noise, valid):
    """Give blended sources what the sum of all components lacks of the light, where light adds.

    Parameters
    ----------
    light : numpy.ndarray, shape (bands, y, x)
        Of the image, above the sky.
    components : list of Component
        The network's own; isolated ones, which have no variance of deblending, stay as they are.
    noise : numpy.ndarray
        Of the sky, of a shape that broadcasts to ``light``.
    valid : numpy.ndarray of bool, shape (bands, y, x)
        Which pixels are not masked.

    Returns
    -------
    list of Component
    """
    total = np.zeros(light.shape)
    for component in components:
        total[:, *component.box] += component.light
    factor = regained(light, total, noise, valid=valid)
    return [
        replace(c, light=c.light * factor[:, *c.box]) if np.any(c.deblending) else c
        for c in components
    ]


def trimmed(component):
    """Return a component on the part of the image alone that has any of its light or variance.

    Parameters
    ----------
    component : Component

    Returns
    -------
    Component
        The same if it has none.
    """
    seen = ((component.light != 0) | (component.variance > 0)).any(axis=0)
    if not seen.any():
        return component
    inner = tuple(
        slice(int(np.argmax(line)), len(line) - int(np.argmax(line[::-1])))
        for line in (seen.any(axis=1), seen.any(axis=0))
    )
    deblending = np.broadcast_to(component.deblending, component.light.shape)
    return replace(
        component,
        box=tuple(
            slice(part.start + cut.start, part.start + cut.stop)
            for part, cut in zip(component.box, inner, strict=True)
        ),
        light=component.light[:, *inner],
        variance=component.variance[:, *inner],
        deblending=deblending[:, *inner],
    )


def share_out(light, components, *, fill=False, noise=None):
    """Share the light of an image out among components that may claim more than there is.

    Where noise has made the light negative, it is shared out among those that are negative there,
    so that no flux is made of noise; if components come without noise, among all, as elsewhere.

    Parameters
    ----------
    light : numpy.ndarray, shape (bands, y, x)
        Of the image, above the sky.
    components : list of Component
    fill : bool, optional
        Also give what nobody claims to those whose footprints it is in, so that the sum is the
        light (Bosch et al. 2018, PASJ 70, S5, section 4.9.8). Otherwise a component keeps what it
        claims where there is as much.
    noise : numpy.ndarray, shape (bands, y, x), optional
        Standard deviation of the light, if blended components come without noise: they get it
        with their share of the light.

    Returns
    -------
    list of Component
    """
    sign = np.sign(light)
    if noise is None:
        claims = [np.maximum(c.light * sign[:, *c.box], 0) for c in components]
    else:
        claims = [np.abs(c.light) for c in components]
    claimed = np.zeros(light.shape)
    for component, claim in zip(components, claims, strict=True):
        claimed[:, *component.box] += claim
    given = light if fill else sign * np.minimum(np.abs(light), claimed)
    share = np.divide(given, claimed, out=np.zeros(light.shape), where=claimed > 0)
    shared = []
    for component, claim in zip(components, claims, strict=True):
        part = share[:, *component.box]
        own = (component.variance - component.deblending) * np.minimum(part**2, 1)
        if noise is not None and np.any(component.deblending):
            whole = np.maximum(claimed[:, *component.box], np.finfo(float).tiny)
            own = own + (noise[:, *component.box] * claim / whole) ** 2
        variance = component.deblending + np.where(claim > 0, own, 0)
        shared.append(replace(component, light=claim * part, variance=variance))
    return shared
