"""Images of simulated fields, made of their random numbers: light, noise, mask and truth.

Each source is drawn in Fourier space on a stamp that ends where its light falls below 0.05 of the
sky noise; the stamps are added.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from .batched import white_noise
from .fourier import FourierRenderer
from .populations import IMAGE, STAR

__all__ = ["FieldRenderer", "Fields", "Light"]

#: Pixels: widths of stamps.
STAMPS = (32, 64, 128, 256, 512)

_FAINT = 0.05  # units of the sky noise: light at which a stamp ends
_SAMPLING = 2.4  # pixels: PSFs of smaller FWHM are drawn on finer pixels
_ELEMENTS = 2**22  # elements of spectra computed at a time


@dataclass(frozen=True, eq=False)
class Light:
    """The noiseless light of every source alone, on stamps.

    Attributes
    ----------
    shape : tuple of int
        (n, s, bands, y, x): fields, sources per field, bands, and pixels of a field.
    groups : tuple of (source, corner, stamps)
        One entry for each width h of stamps: index of the sources, (m,), s times that of the field
        plus source; x and y of the stamp's first pixel in the field, (m, 2), which may lie outside
        of it; the stamps, (m, bands, h, h).
    """

    shape: tuple
    groups: tuple

    def paint(self, chosen=None):
        """Return the summed light of sources on whole fields.

        Parameters
        ----------
        chosen : array_like, optional
            Shape (n, s): which sources, or their weights. Default: all.

        Returns
        -------
        torch.Tensor or numpy.ndarray
            Shape (n, bands, y, x).
        """
        n, s = self.shape[:2]
        weights = torch.ones(n, s) if chosen is None else torch.as_tensor(chosen)
        weights = weights.flatten().float()
        return self._paint(torch.arange(n).repeat_interleave(s), weights, n)

    def alone(self, field, sources=None):
        """Return the light of each source of one field on the whole field.

        Parameters
        ----------
        field : int
            Index of the field.
        sources : sequence of int, optional
            Indices of the sources. Default: all.

        Returns
        -------
        torch.Tensor or numpy.ndarray
            Shape (sources, bands, y, x).
        """
        n, s = self.shape[:2]
        sources = torch.arange(s) if sources is None else torch.as_tensor(sources)
        at = torch.zeros(n, s, dtype=torch.long)
        weights = torch.zeros(n, s)
        at[field, sources] = torch.arange(len(sources))
        weights[field, sources] = 1
        return self._paint(at.flatten(), weights.flatten(), len(sources))

    def windows(self, sources, corners, side):
        """Return the light of each of some sources in a window.

        Parameters
        ----------
        sources : torch.Tensor
            Shape (m,): indices, counted through all fields; -1 for none.
        corners : torch.Tensor
            Shape (m, 2): x and y of the window's first pixel.
        side : int
            Width of the windows in pixels.

        Returns
        -------
        torch.Tensor
            Shape (m, bands, side, side).
        """
        size = (len(sources), self.shape[2], side, side)
        total = torch.zeros(math.prod(size) + 1, device=corners.device)
        for source, corner, stamps in self.groups:
            row, of = (sources[:, None] == source).nonzero(as_tuple=True)
            if not len(row):
                continue
            index = _index(row, corner[of] - corners[row], stamps.shape, size)
            total[index.flatten()] = stamps[of].flatten()
        return total[:-1].view(size)

    def _paint(self, at, weights, number):
        numpy = bool(self.groups) and isinstance(self.groups[0][2], np.ndarray)
        groups = [[torch.as_tensor(part) for part in group] for group in self.groups]
        device = groups[0][2].device if groups else "cpu"
        at, weights = at.to(device), weights.to(device)
        size = (number, *self.shape[2:])
        total = torch.zeros(math.prod(size) + 1, device=device)
        for source, corner, stamps in groups:
            used = weights[source] != 0
            source, corner, stamps = source[used], corner[used], stamps[used]
            index = _index(at[source], corner, stamps.shape, size)
            stamps = stamps * weights[source].view(-1, 1, 1, 1)
            total.index_add_(0, index.flatten(), stamps.flatten())
        total = total[:-1].view(size)
        return total.numpy() if numpy else total


def _index(at, corner, stamps, size):
    """Return flat indices of stamps' pixels in the fields; pixels outside map to the end."""
    (_, bands, *width), (_, _, ny, nx) = stamps, size
    column, row = (
        corner[:, k, None] + torch.arange(width[1 - k], device=corner.device) for k in (0, 1)
    )
    inside = ((row >= 0) & (row < ny))[:, :, None] & ((column >= 0) & (column < nx))[:, None]
    pixel = torch.where(inside, row[:, :, None] * nx + column[:, None], math.prod(size))
    plane = at[:, None] * bands + torch.arange(bands, device=corner.device)
    index = pixel[:, None] + plane[..., None, None] * (ny * nx)
    return index.clamp_(max=math.prod(size))


@dataclass(frozen=True, eq=False)
class Fields:
    """Fields with known truth: n fields of up to s sources in b bands.

    Where it is neither masked nor saturated, the image is light plus residual sky plus noise.

    Attributes
    ----------
    image : torch.Tensor or numpy.ndarray
        Shape (n, b, y, x), float32, in ``unit``; 0 where masked.
    mask : torch.Tensor or numpy.ndarray
        Shape (n, b, y, x): True where there are no data.
    saturated : torch.Tensor or numpy.ndarray
        Shape (n, b, y, x): True where the light exceeds a pixel's capacity; it may be masked.
    variance : torch.Tensor or numpy.ndarray
        Shape (n, b, y, x): variance of the noise, from sky and sources.
    sky : torch.Tensor or numpy.ndarray
        Shape (n, b, y, x): residual sky in the image.
    light : Light
        Every source alone, convolved with the PSF, without noise.
    present : torch.Tensor or numpy.ndarray
        Shape (n, s): whether the source exists; it may lie beyond the edges.
    position : torch.Tensor or numpy.ndarray
        Shape (n, s, 2): x and y in pixels.
    flux : torch.Tensor or numpy.ndarray
        Shape (n, s, b): total flux, on the stamp and beyond.
    limit : torch.Tensor or numpy.ndarray
        Shape (n, s, b): noise limit 1 / sqrt(sum p^2 / variance) over the pixels with data, p =
        light / flux, for independent noise of pixels. Infinite for a source outside the data.
    size : torch.Tensor or numpy.ndarray
        Shape (n, s): half-light radius in pixels, convolved with the PSF, of all bands together.
    kind : torch.Tensor or numpy.ndarray
        Shape (n, s): 0 galaxy, 1 star, 2 galaxy of an image; -1 for none.
    psf : torch.Tensor or numpy.ndarray
        Shape (n, b): full width at half maximum in pixels.
    stated : torch.Tensor or numpy.ndarray
        Shape (n, b): whether the width of the PSF is an input of the network.
    noise : torch.Tensor or numpy.ndarray
        Shape (n, b): standard deviation of the sky in a pixel, in nJy.
    unit : {'noise', 'nJy'}
        Unit of image, light, sky, flux and limit: each band's sky noise, or nJy.
    draw : FieldDraw
        All random numbers of the fields.
    """

    image: object
    mask: object
    saturated: object
    variance: object
    sky: object
    light: Light
    present: object
    position: object
    flux: object
    limit: object
    size: object
    kind: object
    psf: object
    stated: object
    noise: object
    unit: str
    draw: object

    def __len__(self):
        return len(self.image)

    @property
    def snr(self):
        """Flux over its noise limit, shape (n, s, b)."""
        return self.flux / self.limit

    @property
    def inside(self):
        """Whether a source exists and its position is on the field, shape (n, s)."""
        x, y = self.position[..., 0], self.position[..., 1]
        ny, nx = self.image.shape[-2:]
        return self.present & (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)


class FieldRenderer:
    """Makes fields of their random numbers.

    Parameters
    ----------
    size : (int, int)
        Size of the fields in pixels, y and x.
    profiles : sequence of (str, float)
        Profiles of PSFs by index, as in `FourierRenderer`.
    images, large_images : Morphologies or None
        Real galaxies, as in `FieldStream`.
    device : torch.device
        Device of the fields.
    """

    def __init__(self, size, profiles, images, large_images, device):
        self.size, self.profiles, self.device = size, profiles, device
        self.images = (images, large_images)
        self.drawn = [
            of and replace(of, maps=torch.as_tensor(of.maps, device=self.device))
            for of in self.images
        ]
        self.renderers = {}

    def __call__(self, draw, light=None):
        """Return the fields of a `FieldDraw`, whose light may have been drawn before."""
        seen = draw.seen
        light = self.light(draw) if light is None else light
        total = light.paint()
        electrons = np.minimum(seen.electrons * seen.noise, np.sqrt(draw.counts))
        variance = 1 + total.clamp(min=0) / self._tensor(electrons)[..., None, None]
        sky = draw.defects.sky_of(self.size, self.device)
        image = total + sky + variance.sqrt() * self._noise(draw)
        for k in np.flatnonzero(np.isfinite(draw.counts[:, 0])):
            image[k] = self._counted(draw, k, total[k] + sky[k])
        full = self._tensor(draw.full).view(-1, 1, 1, 1)
        star = seen.position[np.arange(len(draw.star)), draw.star]
        star[draw.star < 0] = np.nan
        bleeds = draw.defects.bleeding(star, self.size, self.device)
        saturated = (total > full) | bleeds
        mask = draw.defects.mask(self.size, self.device)
        mask |= saturated & self._tensor(draw.full_masked, bool).view(-1, 1, 1, 1)
        image = torch.where(saturated, torch.minimum(image, full), image)
        image = torch.where(bleeds, full, image).masked_fill(mask, 0)
        flux = self._tensor(seen.fluxes.sum(axis=2) / seen.noise[:, None])
        position = self._tensor(seen.position)
        weight = (1 / variance).masked_fill(mask | saturated, 0)
        limit, size = _measure(light, flux, position, weight)
        present = self._tensor(seen.present, bool)
        kind = self._tensor(seen.sources.kind, int).view(present.shape)
        return Fields(
            image=image,
            mask=mask,
            saturated=saturated,
            variance=variance,
            sky=sky,
            light=light,
            present=present,
            position=position,
            flux=flux,
            limit=limit,
            size=size,
            kind=torch.where(present, kind, -1),
            psf=self._tensor(seen.fwhm),
            stated=self._tensor(draw.stated, bool),
            noise=self._tensor(seen.noise),
            unit="noise",
            draw=draw,
        )

    def light(self, draw):
        """Return every source of a `FieldDraw` alone, in units of the sky noise."""
        seen = draw.seen
        n, most = seen.present.shape
        bands = seen.fwhm.shape[1]
        rows = np.flatnonzero(seen.present)
        field = rows // most
        fluxes = (seen.fluxes / seen.noise[:, None, None]).reshape(n * most, 3, bands)
        position = seen.position.reshape(n * most, 2)
        offset = self._offsets(draw, rows)
        star = rows == field * most + draw.star[field]
        reach = self._reach(draw, rows, field, fluxes)
        corner_of = np.floor(position).astype(int)
        width = np.array(STAMPS)[np.minimum(np.searchsorted(STAMPS, 2 * reach), len(STAMPS) - 1)]
        fine = np.ceil(_SAMPLING / seen.fwhm.min(axis=1)).astype(int)[field]
        fine[star] += 1  # aliasing is a small share of the light, but not small for a bright star
        halo = np.where(star, (STAMPS[-1] - width) // 2, 0)[:, None]  # around the stamp
        corner = corner_of[rows] - width[:, None] // 2
        ny, nx = self.size
        first, end = corner - halo, corner + width[:, None] + halo
        inside = ((end > 0) & (first < (nx, ny))).all(axis=1)
        classes = np.stack([width, fine, draw.large[rows], star], axis=1)
        groups = []
        for key in np.unique(classes[inside], axis=0):
            of = np.flatnonzero((classes == key).all(axis=1) & inside)
            *key, is_star = key.tolist()
            renderer = self._renderer(*key)
            elements = _ELEMENTS * (1 if self.device.type == "cpu" else 16)
            step = max(1, elements // (renderer.grid * len(renderer.kx) * bands))
            for start in range(0, len(of), step):
                some = of[start : start + step]
                row, where = rows[some], field[some]
                flux = fluxes[row]
                if is_star:
                    flux = flux * (1 - draw.halo - draw.spikes)[where, None]
                here, back = np.unique(where, return_inverse=True)
                transfer = renderer.transfer(seen.fwhm[here], seen.profile[here])
                stamps = renderer(
                    seen.sources[row], flux, seen.scale[where],
                    position[row] - corner[some],
                    transfer[torch.as_tensor(back, device=self.device)], offset[some],
                )  # fmt: skip
                if is_star:
                    stamps = F.pad(stamps, [int(halo[some[0], 0])] * 4)
                    for k, one in enumerate(some):
                        glare = (draw, where[k], fluxes[row[k], 0], position[row[k]] - first[one])
                        stamps[k] += self._glare(*glare, stamps.shape[-1])
                at = self._tensor(first[some], int)
                groups.append((self._tensor(row, int), at, stamps))
        return Light((n, most, bands, ny, nx), tuple(groups))

    def _tensor(self, values, dtype=np.float32):
        return torch.as_tensor(np.asarray(values, dtype), device=self.device)

    def _renderer(self, stamp, fine, large):
        key = (stamp, fine, large)
        if key not in self.renderers:
            self.renderers[key] = FourierRenderer(
                stamp, self.profiles, self.drawn[large], fine=fine, device=self.device
            )
        return self.renderers[key]

    def _offsets(self, draw, rows):
        """Return the brightest positions of images, from the middle of their maps, in pixels."""
        sources, offset = draw.seen.sources[rows], np.zeros((len(rows), 2))
        scale = draw.seen.scale[rows // draw.seen.present.shape[1]]
        for large, images in enumerate(self.images):
            of = (sources.kind == IMAGE) & (draw.large[rows] == large)
            if of.any():
                image = sources.image[of]
                centre = images.centres_of(image, sources.symmetry[of])
                pixel = sources.radius[of, 0] / scale[of] / images.radius[image]
                offset[of] = centre * pixel[:, None]
        return offset

    def _reach(self, draw, rows, field, fluxes):
        """Return the radius in pixels beyond which a source is fainter than `_FAINT`."""
        seen = draw.seen
        sources = seen.sources[rows]
        flux = fluxes[rows].max(axis=-1)
        total = np.maximum(flux.sum(axis=1), 1e-9)
        radius = sources.radius / seen.scale[field, None]
        squeezed = (1 - sources.ellipticity) / (1 + sources.ellipticity)
        area = radius**2 * squeezed * _FAINT
        # The wings of Gaussian and Kolmogorov PSFs are fainter than those of a Moffat of beta = 3.
        beta = np.array([p[1] if p[0] == "moffat" else 3.0 for p in self.profiles])
        beta, fwhm = beta[seen.profile[field]].min(axis=1), seen.fwhm[field].max(axis=1)
        core = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
        wings = total * (beta - 1) / (np.pi * core**2 * _FAINT)
        reach = core * np.maximum(wings, 1) ** (0.5 / beta)
        bulge = np.log(np.maximum(94.48 * flux[:, 0] / area[:, 0], 1))
        disk = np.log(np.maximum((flux[:, 1] + flux[:, 2]) / (2 * np.pi * area[:, 1]), 1))
        inner = np.maximum(radius[:, 0] * (bulge / 7.66924944) ** 4, radius[:, 1] * disk)
        for large, images in enumerate(self.images):
            of = (sources.kind == IMAGE) & (draw.large[rows] == large)
            if of.any():
                width = images.maps.shape[-1] / images.radius[sources.image[of]]
                inner[of] = radius[of, 0] * width / 2
        inner[sources.kind == STAR] = 0
        return np.maximum(reach, inner + 2 * fwhm) + 1

    def _glare(self, draw, field, flux, position, width):
        """Return halo and diffraction spikes of a bright star, shape (bands, width, width)."""
        x, y = (torch.arange(width, device=self.device) - float(p) for p in position)
        x, y = x[None], y[:, None]
        core = float(draw.halo_radius[field])
        halo = (1 + (x**2 + y**2) / core**2) ** -1.5 / (2 * math.pi * core**2)
        cos, sin = math.cos(draw.angle[field]), math.sin(draw.angle[field])
        u, v = x * cos + y * sin, y * cos - x * sin
        length, sigma, halos, spikes = (
            self._tensor(values[field])[:, None, None]
            for values in (draw.spike_length, draw.spike_width, draw.halo, draw.spikes)
        )
        cross = sum(
            torch.exp(-along.abs() / length - 0.5 * (across / sigma) ** 2)
            for along, across in ((u, v), (v, u))
        )
        cross = cross / (4 * math.sqrt(2 * math.pi) * sigma * length)
        return self._tensor(flux)[:, None, None] * (halos * halo + spikes * cross)

    def _noise(self, draw):
        """Return noise of standard deviation 1."""
        (n, bands), (ny, nx) = draw.seen.fwhm.shape, self.size
        half = 3
        shape = (bands, ny + 2 * half, nx + 2 * half)
        white = white_noise(draw.seen.noise_seed, shape, self.device)
        t = np.arange(-half, half + 1)
        kernel = np.exp(-0.5 * (t / draw.kernel[:, None]) ** 2)
        kernel /= np.sqrt((kernel**2).sum(axis=1, keepdims=True))
        kernel = self._tensor(np.repeat(kernel, bands, axis=0))[:, None]
        noise = white.view(1, n * bands, *white.shape[2:])
        for shape in ((-1, 1), (1, -1)):
            taps = kernel.view(n * bands, 1, *shape)
            noise = F.conv2d(noise, taps, groups=n * bands)
        return noise.view(n, bands, ny, nx)

    def _counted(self, draw, field, light):
        """Return one field with Poisson noise of its photons."""
        sky = self._tensor(draw.counts[field])[:, None, None]
        generator = torch.Generator(self.device).manual_seed(int(draw.seen.noise_seed[field]))
        photons = torch.poisson((sky + light * sky.sqrt()).clamp(min=0), generator=generator)
        return (photons - sky) / sky.sqrt()


def _measure(light, flux, position, weight):
    """Return noise limit (n, s, bands) and half-light radius (n, s) of sources."""
    n, s, bands = flux.shape
    squares = flux.new_zeros(n * s, bands)
    radius = flux.new_zeros(n * s)
    weight = torch.cat([weight.flatten(), weight.new_zeros(1)])
    for source, corner, stamps in light.groups:
        index = _index(source // s, corner, stamps.shape, (n, *light.shape[2:]))
        squares[source] = (stamps**2 * weight[index]).sum(dim=(2, 3))
        width = stamps.shape[-1]
        at = position.view(-1, 2)[source] - corner
        grid = torch.arange(width, device=flux.device)
        x, y = grid - at[:, :1], grid - at[:, 1:]
        ring = (2 * (x[:, None] ** 2 + y[:, :, None] ** 2).sqrt()).long().flatten(1)
        curve = flux.new_zeros(len(source), 2 * width)
        curve.scatter_add_(1, ring.clamp(max=2 * width - 1), stamps.sum(dim=1).flatten(1))
        curve = curve.cumsum(dim=1)
        half = curve[:, -1:] / 2
        outer = (curve < half).sum(dim=1, keepdim=True).clamp(max=2 * width - 1)
        before = torch.where(outer > 0, curve.gather(1, (outer - 1).clamp(min=0)), 0)
        part = (half - before) / (curve.gather(1, outer) - before).clamp(min=1e-9)
        radius[source] = (outer + part)[:, 0] / 2
    squares = squares.view(flux.shape)
    limit = torch.where(squares > 0, flux / squares.sqrt(), torch.inf)
    return limit, radius.view(n, s)
