"""Late-type galaxies of sharp structure: disks with arms, a bar, a ring, knots and a bulge."""

import numpy as np
from scipy import ndimage

from .morphology import LARGE_WIDTH, Morphologies, half_light_radius

__all__ = ["draw_spirals"]

_COLOURS = (  # flux in g, r, i relative to i of redder and bluer light: ranges
    ((0.3, 0.65, 1.0), (0.6, 0.85, 1.0)),
    ((0.6, 0.8, 1.0), (1.2, 1.05, 1.0)),
)


def draw_spirals(number, seed):
    """Draw disk galaxies in maps of light, as `cut_large_galaxies` cuts them out of pictures.

    Pictures show no arms sharper than their PSF, and of large galaxies only few. Here an
    exponential disk is modulated along logarithmic spirals, with knots of star formation and
    irregular light; a part of the galaxies has a bar, a ring, or no arms. Inclinations are up to
    nearly edge-on.

    Parameters
    ----------
    number : int
        Number of galaxies.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    Morphologies
        With maps 288 pixels wide.
    """
    rng = np.random.default_rng(seed)
    maps = np.stack([_maps(rng) for _ in range(number)])
    shares = rng.uniform(0.1, 0.6, number)
    shares = np.stack([1 - shares, shares], axis=1)
    light = (maps * shares[..., None, None]).sum(axis=1)
    return Morphologies(
        maps=maps.astype(np.float16),
        spectra=rng.uniform(*np.swapaxes(_COLOURS, 0, 1), (number, 2, 3)),
        shares=shares,
        radius=np.array([*map(half_light_radius, light)]),
    )


def _maps(rng):
    """Return redder and bluer light of one galaxy, each of mean 1."""
    side = np.arange(LARGE_WIDTH) - (LARGE_WIDTH - 1) / 2
    x, y = np.meshgrid(side, side)
    angle, scale = rng.uniform(0, np.pi), rng.uniform(15, 30)
    q = max(rng.uniform(0, 1), rng.uniform(0.08, 0.25))  # inclination at random, and thickness
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    r, theta = np.hypot(along, across / q) / scale, np.arctan2(across / q, along)
    disk = np.exp(-r)

    arms, pitch = rng.integers(1, 5), np.tan(np.radians(rng.uniform(8, 40)))
    wave = np.cos(arms * (theta - np.log(r + 0.1) / pitch))
    contrast = rng.uniform(0, 4) * (1 - np.exp(-4 * r**2))
    young = np.exp(-r / rng.uniform(0.9, 1.4) + contrast * (wave - 1))
    rough = ndimage.gaussian_filter(rng.standard_normal(x.shape), scale / rng.uniform(4, 12))
    young *= np.exp(rng.uniform(0, 0.7) * rough / rough.std())
    if rng.random() < 0.2:
        ring = rng.uniform(0.6, 2)
        young += rng.uniform(0.2, 1) * np.exp(-0.5 * ((r - ring) / (0.15 * ring)) ** 2)

    number, weight = rng.integers(10, 80), young.ravel()
    at = rng.choice(weight.size, number, p=weight / weight.sum())
    light = rng.exponential(size=number) * np.sqrt(weight[at])  # none outshines its surroundings
    knots = np.bincount(at, light, weight.size).reshape(x.shape)
    knots = ndimage.gaussian_filter(knots, rng.uniform(0.7, 3))
    young += rng.uniform(0, 0.4) * young.sum() * knots / knots.sum()

    old = disk * (1 + rng.uniform(0, 0.5) * (np.exp(contrast * (wave - 1)) - 1))
    if rng.random() < 0.35:
        length, turn = rng.uniform(0.4, 1.2), rng.uniform(0, np.pi)
        u, v = r * np.cos(theta - turn) / length, r * np.sin(theta - turn) / length
        bar = np.exp(-(u**4) - (v / rng.uniform(0.2, 0.4)) ** 2)
        old += rng.uniform(0.1, 0.5) * disk.sum() * bar / bar.sum()
    size, index = scale * rng.uniform(0.05, 0.4), rng.uniform(1, 4)
    from_middle = np.hypot(along, across / max(q, 0.7)) / size
    bulge = np.exp(-(2 * index - 1 / 3) * (from_middle**2 + 0.01) ** (0.5 / index))
    old += rng.uniform(0.02, 0.6) * disk.sum() * bulge / bulge.sum()

    from_middle = np.hypot(x, y) / (LARGE_WIDTH / 2)
    fade = np.clip(3 - 3 * from_middle, 0, 1)
    maps = np.stack([old, young]) * fade**2 * (3 - 2 * fade)
    return maps / maps.mean(axis=(1, 2), keepdims=True)
