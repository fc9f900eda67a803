"""What is wrong with images of fields: residual sky, trails, bleeding, and pixels without data."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

__all__ = ["Defects"]

_STRIPS = 3  # largest number of strips without data
_EVERYWHERE = 1e6  # pixels: half width of the strip beyond an edge of the data
_HOLES = 5  # largest number of sources with a hole in the data
_CLOUD = 32  # pixels between the nodes of uneven sky


@dataclass(frozen=True, eq=False)
class Defects:
    """Random numbers of the defects of n fields in b bands.

    Attributes
    ----------
    sky : numpy.ndarray
        Shape (n, b, m, m): residual sky at nodes from edge to edge, in units of the sky noise.
    trails : numpy.ndarray
        Shape (n, 2, 3): angle, offset from the middle and standard deviation in pixels of trails.
    trail_light : numpy.ndarray
        Shape (n, 2, b): light of trails in a pixel, in units of the sky noise.
    bleeds : numpy.ndarray
        Shape (n, 2): half width and half length in pixels of what runs over from the bright star.
    strips : numpy.ndarray
        Shape (n, 3, 3): angle, offset from the middle and half width of strips without data.
    strip_bands : numpy.ndarray
        Shape (n, 3, b): bands without data in each strip.
    holes : numpy.ndarray
        Shape (n, 5, 3): x and y of disks without data in any band, and their radii in pixels.
    """

    sky: np.ndarray
    trails: np.ndarray
    trail_light: np.ndarray
    bleeds: np.ndarray
    strips: np.ndarray
    strip_bands: np.ndarray
    holes: np.ndarray

    @classmethod
    def draw(cls, rng, more, shares, *, size, fwhm, sky, present, position):
        """Draw defects.

        Parameters
        ----------
        rng, more : numpy.random.Generator
            Generators of random numbers: of strips, and of all others.
        shares : dict
            Shares of fields, as `FieldStream` takes them.
        size : (int, int)
            Size of the fields in pixels, y and x.
        fwhm : numpy.ndarray
            Shape (n, b): full width at half maximum of the PSF in pixels.
        sky : numpy.ndarray
            Shape (n, b, 2, 2): residual sky at the corners, in units of the noise.
        present, position : numpy.ndarray
            Shapes (n, s) and (n, s, 2): which sources exist, and x and y in pixels.

        Returns
        -------
        Defects
        """
        sky = _uneven(more, sky, size, shares["uneven"])
        return cls(
            sky=sky,
            **_trails(more, fwhm, size, shares),
            **_strips(rng, fwhm.shape, size, shares),
            holes=_holes(more, present, position, shares["holes"]),
        )

    def sky_of(self, size, device):
        """Return residual sky and trails, shape (n, b, y, x).

        Parameters
        ----------
        size : (int, int)
            Size of the fields in pixels, y and x.
        device : torch.device
            Device of the result.
        """
        nodes, light = (
            torch.as_tensor(each, dtype=torch.float32, device=device)
            for each in (self.sky, self.trail_light)
        )
        angle, offset, sigma = torch.as_tensor(self.trails, device=device)[..., None, None].unbind(
            2
        )
        profile = torch.exp(-0.5 * (_across(angle, offset, size) / sigma) ** 2).float()
        sky = F.interpolate(nodes, size, mode="bilinear", align_corners=True)
        return sky + (light[..., None, None] * profile[:, :, None]).sum(dim=1)

    def bleeding(self, star, size, device):
        """Return the pixels over which light of bright stars runs, shape (n, 1, y, x).

        Parameters
        ----------
        star : numpy.ndarray
            Shape (n, 2): x and y of the bright star in pixels; NaN for none.
        size : (int, int)
            As for `sky_of`.
        device : torch.device
            As for `sky_of`.
        """
        numbers = np.concatenate([star, self.bleeds], axis=1).astype(np.float32)
        x, y, width, length = torch.as_tensor(numbers, device=device)[..., None, None].unbind(1)
        row, column = (torch.arange(side, device=device) for side in size)
        return (((column - x).abs() < width) & ((row[:, None] - y).abs() < length))[:, None]

    def mask(self, size, device):
        """Return the pixels without data, shape (n, b, y, x).

        Parameters
        ----------
        size : (int, int)
            As for `sky_of`.
        device : torch.device
            As for `sky_of`.
        """
        angle, offset, half = torch.as_tensor(self.strips, device=device)[..., None, None].unbind(2)
        inside = _across(angle, offset, size) < half
        of = torch.as_tensor(self.strip_bands, device=device)[..., None, None]
        mask = (inside[:, :, None] & of).any(dim=1)
        holes = torch.as_tensor(self.holes.astype(np.float32), device=device)
        x, y, radius = holes[..., None, None].unbind(2)
        row, column = (torch.arange(side, device=device) for side in size)
        return mask | (torch.hypot(column - x, row[:, None] - y) <= radius).any(dim=1)[:, None]


def _across(angle, offset, size):
    """Return the distances of pixels from lines, in pixels."""
    row, column = (torch.arange(side, device=angle.device) - (side - 1) / 2 for side in size)
    return (column * angle.cos() + row[:, None] * angle.sin() - offset).abs()


def _strips(rng, of, size, shares):
    """Draw strips without data; the first is the part beyond an edge."""
    n, bands = of
    shape = (n, _STRIPS)
    angle = np.where(
        rng.random(shape) < 0.7,
        rng.choice([0, np.pi / 2], shape),
        rng.uniform(0, np.pi, shape),
    ) + np.pi * rng.integers(2, size=shape)
    offset = rng.uniform(-0.5, 0.5, shape) * min(size)
    half = rng.uniform(1, 10, shape)
    offset[:, 0] = rng.uniform(0.15, 0.45, n) * min(size) + _EVERYWHERE
    half[:, 0] = _EVERYWHERE
    there = rng.random(shape) < [shares["edges"], shares["gaps"], shares["gaps"] / 3]
    everywhere = rng.random(shape) < 0.6
    of = rng.random((*shape, bands)) < np.where(everywhere, 1, 0.5)[..., None]
    return {
        "strips": np.stack([angle, offset, half], axis=-1),
        "strip_bands": of & there[..., None],
    }


def _uneven(rng, sky, size, share):
    """Return residual sky at more nodes, uneven in some of the fields."""
    if not share:
        return sky
    n, bands = sky.shape[:2]
    nodes = max(2, round(max(size) / _CLOUD)) + 1
    along = np.linspace([1, 0], [0, 1], nodes)
    height = np.where(rng.random(n) < share, 10 ** rng.uniform(-1, 0.3, n), 0)
    height = height[:, None] * rng.uniform(0.5, 1.5, (n, bands))
    uneven = rng.standard_normal((n, 1, nodes, nodes))
    return along @ sky @ along.T + height[..., None, None] * uneven


def _trails(rng, fwhm, size, shares):
    """Draw trails, and what runs over from bright stars."""
    n, bands = fwhm.shape
    shape = (n, 2)
    there = (rng.random((n, 1)) < shares["trails"]) & (rng.random(shape) < [1, 0.3])
    lines = [
        rng.uniform(0, np.pi, shape), rng.uniform(-0.5, 0.5, shape) * min(size),
        fwhm.mean(axis=1, keepdims=True) / 2.355 * rng.uniform(1, 3, shape),
    ]  # fmt: skip
    one = np.arange(bands) == rng.integers(bands, size=(*shape, 1))
    light = 10 ** (rng.uniform(-0.5, 2, shape)[..., None] + 0.1 * rng.normal(size=(*shape, bands)))
    of = there[..., None] & (one | (rng.random(shape) < 0.5)[..., None])
    bleeds = np.exp(rng.uniform((-0.7, 2), (1.5, 4.5), shape))
    bleeds *= rng.random((n, 1)) < shares["bleeds"]
    return {"trails": np.stack(lines, axis=-1), "trail_light": light * of, "bleeds": bleeds}


def _holes(rng, present, position, share):
    """Draw disks without data at the middle of sources."""
    n, most = present.shape
    shape = (n, min(_HOLES, most))
    of = np.argsort(rng.random((n, most)), axis=1)[:, : shape[1]]
    there = np.take_along_axis(present, of, axis=1) & (
        np.arange(shape[1]) < rng.integers(1, _HOLES + 1, n)[:, None]
    )
    there &= rng.random((n, 1)) < share
    at = np.take_along_axis(position, of[..., None], axis=1) + rng.normal(0, 0.7, (*shape, 2))
    radius = np.exp(rng.uniform(np.log(0.5), np.log(4), shape))
    return np.concatenate([at, np.where(there, radius, -1)[..., None]], axis=2)
