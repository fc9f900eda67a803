"""How much of a large galaxy's light comes out as one source, by its kind.

    python examples/galaxy_kinds.py
    python examples/galaxy_kinds.py MODEL.safetensors [KIND ...]

Each galaxy is alone in three bands of 301 x 301 pixels with noise of 1 and a Gaussian PSF of 4.2
pixels. Printed are its half-light radius in pixels and, for mean surface brightnesses within it of
1, 5 and 30 noises, the share of its light in the brightest source, and the number of sources.
"""

import sys

import numpy as np
from scipy import ndimage

from astrodeblend import Deblender

SIDE, FINE = 301, 4  # pixels; finer pixels along each side of one
BRIGHTNESSES = (1, 5, 30)
Y, X = (np.mgrid[: FINE * SIDE, : FINE * SIDE] - (FINE - 1) / 2) / FINE - 150.3


def polar(q=1.0, angle=0.0):
    """Return radius and azimuth in the plane of an inclined disk."""
    along = X * np.cos(angle) + Y * np.sin(angle)
    across = (Y * np.cos(angle) - X * np.sin(angle)) / q
    return np.hypot(along, across), np.arctan2(across, along)


def sersic(index, radius, q=1.0, angle=0.0):
    """Return a Sersic profile of a half-light radius along the major axis."""
    r = polar(q, angle)[0] / radius
    return whole(np.exp(-(2 * index - 1 / 3) * (r**2 + 1e-4) ** (0.5 / index)))


def spiral(radius, arms, q=0.7):
    """Return an exponential disk with logarithmic arms."""
    r, theta = polar(q)
    return whole(
        np.exp(-1.678 * r / radius) * (1 + 0.9 * np.cos(arms * (theta - np.log(r + 1) / 0.35)))
    )


def ring(radius):
    """Return a ring."""
    return whole(np.exp(-0.5 * ((polar(0.8)[0] - radius) / 5) ** 2))


def bar(length):
    """Return a bar along x."""
    return whole(np.exp(-((X / length) ** 4) - (Y / (0.25 * length)) ** 4))


def knots(radius, number=40, q=0.7):
    """Return knots of a standard deviation of 1.25 pixels in an inclined exponential disk."""
    rng = np.random.default_rng(5)
    r, theta = radius / 1.678 * rng.gamma(2, size=number), rng.uniform(0, 2 * np.pi, number)
    at = np.stack([q * r * np.sin(theta), r * np.cos(theta)]) + 150.3
    light = np.zeros_like(X)
    np.add.at(light, tuple((FINE * at).astype(int)), rng.exponential(size=number))
    return whole(ndimage.gaussian_filter(light, 5))


def whole(light):
    """Return light whose sum is 1."""
    return light / light.sum()


KINDS = {
    "disk": lambda: sersic(1, 30),
    "disk and bulge": lambda: 0.85 * sersic(1, 30, 0.8) + 0.15 * sersic(4, 5),
    "disk, half of it bulge": lambda: 0.5 * sersic(1, 25, 0.7) + 0.5 * sersic(4, 6),
    "disk and nucleus": lambda: 0.95 * sersic(1, 40, 0.6) + 0.05 * sersic(1, 1),
    "smaller disk": lambda: sersic(1, 8, 0.7),
    "smaller disk and bulge": lambda: 0.7 * sersic(1, 8, 0.7) + 0.3 * sersic(4, 2),
    "middle disk and bulge": lambda: 0.8 * sersic(1, 15, 0.7) + 0.2 * sersic(4, 3),
    "elliptical": lambda: sersic(4, 25, 0.7),
    "smaller elliptical": lambda: sersic(4, 10, 0.8),
    "edge-on": lambda: sersic(1, 30, 0.12, 0.6),
    "edge-on with a bulge": lambda: 0.8 * sersic(1, 30, 0.12, 0.6) + 0.2 * sersic(4, 5),
    "spiral of two arms": lambda: 0.9 * spiral(30, 2) + 0.1 * sersic(4, 4),
    "spiral of four arms": lambda: 0.9 * spiral(45, 4, 0.8) + 0.1 * sersic(4, 5),
    "barred spiral": lambda: 0.6 * spiral(40, 2) + 0.3 * bar(15) + 0.1 * sersic(4, 4),
    "knotty spiral": lambda: 0.7 * spiral(35, 2) + 0.2 * knots(35) + 0.1 * sersic(4, 4),
    "ring": lambda: 0.6 * ring(30) + 0.4 * sersic(2, 8),
}


def main():
    """Run the example."""
    name = sys.argv[1] if sys.argv[1:] else None
    deblender = Deblender.load(name) if name else Deblender.from_pretrained("field")
    rng = np.random.default_rng(0)
    away = np.hypot(*(np.indices((SIDE, SIDE)) - 150.3)).astype(int)
    rows = []
    for kind in sys.argv[2:] or KINDS:
        light = KINDS[kind]().reshape(SIDE, FINE, SIDE, FINE).sum(axis=(1, 3))
        light = ndimage.gaussian_filter(light, 1.8)
        curve = np.cumsum(np.bincount(away.ravel(), light.ravel()))
        radius = np.interp(0.5, curve, np.arange(len(curve)) + 0.5)
        cells = []
        for brightness in BRIGHTNESSES:
            flux = brightness * 2 * np.pi * radius**2
            image = np.multiply.outer([0.5 * flux, flux, 1.2 * flux], light)
            catalog = deblender.deblend_scene(image + rng.standard_normal(image.shape)).catalog
            fluxes = np.nan_to_num(catalog["segment_flux"][:, 1]) if len(catalog) else np.zeros(1)
            rows.append((fluxes.max() / flux, len(catalog)))
            cells.append("{:6.2f} ({})".format(*rows[-1]))
        print(f"{kind:24}{radius:4.0f}", *cells, flush=True)
    share, number = np.transpose(rows)
    print(f"mean share {share.clip(max=1).mean():.3f}, above 0.9 in {(share > 0.9).mean():.0%}; "
          f"sources {number.mean():.1f}, one in {(number == 1).mean():.0%}")  # fmt: skip


if __name__ == "__main__":
    main()
