"""Sources drawn in Fourier space, many at once, in torch.

Each shape has an analytic transform, or a small matrix product for a real image; PSF, pixel and
position are factors; one inverse transform per source and band gives the image. Convention: F(k) =
integral of f(x) exp(-i k x), lengths in pixels of the grid.
"""

import math

import numpy as np
import torch
from scipy import fft, special

from .populations import GALAXY, IMAGE, STAR
from .surveys import KOLMOGOROV_K0

__all__ = ["FourierRenderer", "transfer_function"]

_TABLE = torch.linspace(0, 100, 8192)  # k x FWHM of the tabulated PSFs
_BULGE = (math.log(1e-3), math.log(1e4), 4096)  # ln(k x half-light radius): low, high, number


def transfer_function(x, psf, beta):
    """Return the Fourier transform of a PSF.

    Parameters
    ----------
    x : array_like
        Wave number times full width at half maximum.
    psf : {'moffat', 'gaussian', 'kolmogorov'}
        Profile.
    beta : float
        Exponent of the Moffat profile.

    Returns
    -------
    numpy.ndarray
        1 at 0. Gaussian: exp(-k^2 sigma^2 / 2). Moffat of core radius a:
        (k a)^(beta - 1) K_(beta - 1)(k a) / (2^(beta - 2) Gamma(beta - 1)). Kolmogorov:
        exp(-(k / k0)^(5/3)).
    """
    x = np.asarray(x, float)
    if psf == "gaussian":
        return np.exp(-(x**2) / (16 * math.log(2)))
    if psf == "kolmogorov":
        return np.exp(-((x / KOLMOGOROV_K0) ** (5 / 3)))
    t = np.maximum(x / (2 * math.sqrt(2 ** (1 / beta) - 1)), 1e-6)
    return t ** (beta - 1) * special.kv(beta - 1, t) / (2 ** (beta - 2) * math.gamma(beta - 1))


def _bulge_table():
    """Tabulate the transform of a de Vaucouleurs profile of half-light radius 1, by ln k."""
    n = 8192
    step = (math.log(1e5) - math.log(1e-7)) / n
    radius = np.exp(math.log(1e-7) + step * (np.arange(n) + 0.5))
    profile = np.exp(-7.66924944 * radius**0.25)
    offset = fft.fhtoffset(step, mu=0)
    wave = np.exp(offset) / radius[::-1]
    transform = fft.fht(radius * profile, step, mu=0, offset=offset) / wave
    transform /= 4 * math.gamma(8) / 7.66924944**8  # integral of r times the profile
    return np.interp(np.linspace(*_BULGE), np.log(wave), transform)


class FourierRenderer:
    """Draws sources convolved with PSF and pixel, without noise.

    Parameters
    ----------
    stamp : int
        Width of the stamps in pixels.
    profiles : sequence of (str, float)
        PSFs by index: profile and beta, as `transfer_function` takes them.
    images : Morphologies, optional
        The real galaxies that sources refer to.
    fine : int, optional
        Grid pixels per pixel, for PSFs too narrow for their pixels.
    device : str or torch.device, optional
        Device of the images.
    """

    def __init__(self, stamp, profiles, images=None, *, fine=1, device="cpu"):
        self.stamp, self.fine, self.device = stamp, fine, torch.device(device)
        # Half as wide again: light that leaves at one side re-enters at the other, off the stamp.
        self.grid = 16 * math.ceil(1.5 * stamp / 16) * fine
        self.ky = 2 * torch.pi * torch.fft.fftfreq(self.grid, device=self.device)
        self.kx = 2 * torch.pi * torch.fft.rfftfreq(self.grid, device=self.device)
        kx, ky = self.kx[None, :], self.ky[:, None]
        self.kxx, self.kxy, self.kyy = (
            (a * b).expand(len(self.ky), len(self.kx)).flatten()
            for a, b in ((kx, kx), (kx, ky), (ky, ky))
        )
        self.k = (self.kxx + self.kyy).sqrt()
        width = self.fine / (2 * torch.pi)
        self.pixel = (torch.sinc(width * kx) * torch.sinc(width * ky)).flatten()
        tables = [transfer_function(_TABLE.numpy(), *profile) for profile in profiles]
        self.tables = self._tensor(np.array(tables))
        self.bulge = self._tensor(_bulge_table())
        if images is not None:
            self.maps = torch.as_tensor(images.maps, device=self.device)
            self.radius = np.asarray(images.radius)

    def _tensor(self, values):
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def transfer(self, fwhm, profile):
        """Return the transfer function of PSF and pixel.

        Parameters
        ----------
        fwhm : array_like
            Shape (n, bands): full width at half maximum, in pixels.
        profile : array_like
            Shape (n, bands): index of the profile.

        Returns
        -------
        torch.Tensor
            Shape (n, bands, k).
        """
        step = float(_TABLE[1])
        t = self._tensor(fwhm)[..., None] * (self.fine / step) * self.k
        t = t.clamp(max=len(_TABLE) - 1.001)
        low = t.long()
        start = torch.as_tensor(profile, device=self.device)[..., None] * len(_TABLE)
        table = self.tables.flatten()
        left, right = table[start + low], table[start + low + 1]
        return (left + (t - low) * (right - left)) * self.pixel

    def __call__(self, sources, fluxes, scale, position, transfer, centre=0.0):
        """Draw sources.

        Parameters
        ----------
        sources : Sources
            The m sources.
        fluxes : array_like
            Shape (m, 3, bands): fluxes of the components.
        scale : array_like
            Shape (m,): width of a pixel in arcsec.
        position : array_like
            Shape (m, 2): x and y in pixels.
        transfer : torch.Tensor
            Shape (m, bands, k), from `transfer`.
        centre : array_like, optional
            Shape (m, 2): x and y, from the middle of a real image's map, of the point that lies at
            the position, in pixels. Default: the middle.

        Returns
        -------
        torch.Tensor
            Shape (m, bands, stamp, stamp), in the unit of the fluxes.
        """
        per_arcsec = self.fine / np.asarray(scale, float)
        shapes = torch.zeros(len(sources), 3, len(self.k), dtype=torch.complex64)
        shapes = shapes.to(self.device)
        centre = np.broadcast_to(centre, (len(sources), 2)) * self.fine
        galaxies, stars, images = (
            np.flatnonzero(sources.kind == kind) for kind in (GALAXY, STAR, IMAGE)
        )
        shapes[stars, 0] = 1
        if len(galaxies):
            shapes[galaxies] = self._galaxy(sources[galaxies], per_arcsec[galaxies])
        if len(images):
            shapes[images] = self._image(sources[images], per_arcsec[images], centre[images])
        x, y = self._tensor(position).T * self.fine
        there = _wave(self.ky, y)[:, :, None] * _wave(self.kx, x)[:, None]
        weights = self._tensor(fluxes).mT.to(shapes.dtype)
        spectrum = (weights @ shapes) * transfer * there.flatten(1)[:, None]
        spectrum = spectrum.unflatten(-1, (len(self.ky), len(self.kx)))
        images = torch.fft.irfft2(spectrum, s=(self.grid, self.grid))
        end = self.stamp * self.fine
        return images[..., : end : self.fine, : end : self.fine] * self.fine**2

    def _squared(self, major, minor, angle):
        """Return (k radius)^2 of ellipses, shape (m, k)."""
        cos, sin = np.cos(angle), np.sin(angle)
        xx = (major * cos) ** 2 + (minor * sin) ** 2
        yy = (major * sin) ** 2 + (minor * cos) ** 2
        xy = 2 * cos * sin * (major**2 - minor**2)
        xx, xy, yy = (self._tensor(a)[:, None] for a in (xx, xy, yy))
        return xx * self.kxx + xy * self.kxy + yy * self.kyy

    def _bulge(self, sources, radius):
        e = sources.ellipticity[:, 0]
        squared = self._squared(radius, radius * (1 - e) / (1 + e), sources.angle)
        low, high, number = _BULGE
        t = (0.5 * torch.log(squared.clamp(min=1e-12)) - low) * ((number - 1) / (high - low))
        t = t.clamp(0, number - 1.001)
        index = t.long()
        left, right = self.bulge[index], self.bulge[index + 1]
        return left + (t - index) * (right - left)

    def _galaxy(self, sources, per_arcsec):
        major = sources.radius * per_arcsec[:, None]
        minor = major * (1 - sources.ellipticity) / (1 + sources.ellipticity)
        bulge = self._bulge(sources, major[:, 0])
        disk = (1 + self._squared(major[:, 1], minor[:, 1], sources.angle)).pow(-1.5)
        u, v = (sources.knots[..., k] * (major, minor)[k][:, 1:] for k in (0, 1))
        cos, sin = np.cos(sources.angle)[:, None], np.sin(sources.angle)[:, None]
        x, y = self._tensor(u * cos - v * sin), self._tensor(u * sin + v * cos)
        share = self._tensor(sources.knots[..., 2])[..., None]
        knots = (share * _wave(self.ky, y)).mT @ _wave(self.kx, x)
        return torch.stack([bulge + 0j, disk + 0j, knots.flatten(1)], dim=1)

    def _image(self, sources, per_arcsec, centre):
        """Transform maps by matrices (Soummer et al. 2007, Opt. Express 15, 15935)."""
        maps = self.maps[sources.image].float()
        code = torch.as_tensor(sources.symmetry, device=self.device)
        shape = (-1, 1, 1, 1)
        maps = torch.where((code >= 4).view(shape), maps.mT, maps)
        maps = torch.where((code % 2 == 1).view(shape), maps.flip(-1), maps)
        maps = torch.where((code // 2 % 2 == 1).view(shape), maps.flip(-2), maps)
        width = maps.shape[-1]
        pixel = sources.radius[:, 0] * per_arcsec / self.radius[sources.image]
        pixel = self._tensor(pixel)[:, None]
        middle = torch.arange(width, device=self.device) - (width - 1) / 2
        x, y = (pixel * middle - self._tensor(from_middle)[:, None] for from_middle in centre.T)
        # light is interpolated linearly between the map's pixels
        rows, columns = (
            _wave(k, at) * (torch.sinc(pixel * k / (2 * torch.pi)) ** 2)[:, None] / width
            for k, at in ((self.ky, y), (self.kx, x))
        )
        shapes = rows.mT[:, None] @ (maps + 0j) @ columns[:, None]
        nucleus = self._bulge(sources, sources.radius[:, 1] * per_arcsec)[:, None] + 0j
        return torch.cat([shapes.flatten(2), nucleus], dim=1)


def _wave(k, x):
    """Return exp(-i k x), shape (*x.shape, k)."""
    phase = -x[..., None] * k
    return torch.complex(phase.cos(), phase.sin())
