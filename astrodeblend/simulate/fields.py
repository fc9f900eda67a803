"""Batches of simulated fields of galaxies with known truth, to train networks for fields.

Each source is drawn in Fourier space on a stamp that ends where its light falls below 0.05 of the
sky noise; the stamps are added.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from .fourier import FourierRenderer
from .populations import IMAGE, STAR, draw_brightest, draw_sources
from .survey_batches import SurveyDraw, SurveyStream
from .surveys import AB_NANOJANSKY, get_survey

__all__ = ["FieldDraw", "FieldStream", "Fields", "Light", "simulate_fields"]

#: Pixels: widths of stamps.
STAMPS = (32, 64, 128, 256, 512)

_FAINT = 0.05  # in units of the sky noise: light at which a stamp ends
_MARGIN = 16  # pixels: sources are drawn up to so far beyond the edges
_SAMPLING = 2.4  # pixels: PSFs of smaller FWHM are drawn on finer pixels
_ELEMENTS = 2**22  # elements of spectra computed at a time
_STRIPS = 3  # largest number of strips without data
_COUNTS = (-1.2, 2.5)  # log10 of the sky's photons per pixel: range of fields of counted photons
_EVERYWHERE = 1e6


@dataclass(frozen=True, eq=False)
class FieldDraw:
    """Random numbers of n fields of up to s sources in b bands, without those of the noise.

    Attributes
    ----------
    seen : SurveyDraw
        Survey, bands, PSF and noise of each field, and its sources.
    large : numpy.ndarray
        Shape (n s,): whether a source takes its image from ``large_images``.
    star : numpy.ndarray
        Shape (n,): index of the bright star; -1 for none.
    halo, spikes : numpy.ndarray
        Shape (n, b): fraction of the bright star's light in its halo and its diffraction spikes.
    halo_radius, angle : numpy.ndarray
        Shape (n,): core radius of the halo in pixels, angle of the spikes in radians.
    spike_length, spike_width : numpy.ndarray
        Shape (n, b): scale length and standard deviation of the spikes in pixels.
    full : numpy.ndarray
        Shape (n,): light in a pixel, in units of the sky noise, at which it saturates.
    full_masked : numpy.ndarray
        Shape (n,): whether saturated pixels are masked; else they are clipped.
    kernel : numpy.ndarray
        Shape (n,): standard deviation in pixels of the Gaussian that correlates the noise.
    sky : numpy.ndarray
        Shape (n, b, 2, 2): residual sky at the corners, in units of the sky noise.
    strips : numpy.ndarray
        Shape (n, 3, 3): angle, offset from the middle and half width of strips without data.
    strip_bands : numpy.ndarray
        Shape (n, 3, b): bands without data in each strip.
    stated : numpy.ndarray
        Shape (n, b): whether the width of the PSF is stated.
    counts : numpy.ndarray
        Shape (n, b): photons of the sky in a pixel, with counted photons; else infinite.
    """

    seen: SurveyDraw
    large: np.ndarray
    star: np.ndarray
    halo: np.ndarray
    spikes: np.ndarray
    halo_radius: np.ndarray
    angle: np.ndarray
    spike_length: np.ndarray
    spike_width: np.ndarray
    full: np.ndarray
    full_masked: np.ndarray
    kernel: np.ndarray
    sky: np.ndarray
    strips: np.ndarray
    strip_bands: np.ndarray
    stated: np.ndarray
    counts: np.ndarray


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
    draw: FieldDraw

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


class FieldStream:
    """Stream of simulated fields; batch ``k`` is the same whenever it is read.

    Survey, bands, PSFs, noise and density are drawn for each field, the number of bands for each
    batch.

    Parameters
    ----------
    surveys : sequence of (str or Survey)
        Surveys to draw from, with equal probability among those with enough bands.
    images : Morphologies, optional
        Real galaxies.
    large_images : Morphologies, optional
        Well-resolved real galaxies, as `cut_large_galaxies` returns them.
    batch : int
        Fields per batch.
    seed : int
        Seed of the random numbers.
    size : int or (int, int), optional
        Size of the fields in pixels, y and x.
    bands : int, mapping of int to float, or sequence of str, optional
        Number of bands, probabilities of numbers, or names; as in `SurveyStream`.
    density : float or (float, float), optional
        Sources per square arcminute, or the range to draw from for each field.
    wider : sequence of int, optional
        Widths of a pixel in pixels of the survey, drawn with equal probability: models also search
        images on coarser pixels. At width k the density is divided by k, since faint sources
        drown in noise there.
    magnitudes : (float, float), optional
        Range of magnitudes in the reference band, relative to the 5 sigma point-source depth.
    slope : float, optional
        Slope of log10 of the number counts per magnitude.
    close : float, optional
        Least share of sources with a neighbour within two FWHM of the PSF.
    psf : (float, float), optional
        Range of FWHM of the PSF in pixels, for half of the fields; the others have the survey's.
        None: all have the survey's.
    vary : float, optional
        Scatter of ln FWHM between bands; the depth scatters by twice that, in magnitudes.
    stars : float, optional
        Share of stars among the sources.
    large, bright, gaps, edges, correlated, counted : float, optional
        Share of fields with a large galaxy, with a bright star, with gaps, with an edge of the
        data, with noise correlated between pixels, and with Poisson noise of few photons (0.06 to
        300 of the sky per pixel).
    residual : float, optional
        Largest residual sky, in units of the sky noise.
    device : str or torch.device, optional
        Device of the fields.

    Raises
    ------
    ValueError
        If a range is not in order, or a share not from 0 to 1.
    """

    def __init__(
        self, surveys, images=None, large_images=None, *, batch, seed, size=256, bands=None,
        density=(10, 120), wider=(1,), magnitudes=(-8.0, 0.0), slope=0.31, close=1 / 3,
        psf=(2.0, 8.0), vary=0.1, stars=0.1, large=0.1, bright=0.04, gaps=0.2, edges=0.1,
        correlated=0.5, counted=0.0, residual=0.5, device="cpu",
    ):  # fmt: skip
        self.size = tuple(np.broadcast_to(size, 2).tolist())
        if min(self.size) < 16:
            raise ValueError(f"size={size!r}: give at least 16 pixels")
        self.density = tuple(np.broadcast_to(density, 2).tolist())
        for name, (low, high), least in (
            ("density", self.density, 0),
            ("magnitudes", magnitudes, -math.inf),
            ("psf", psf or (1, 1), 0.5),
        ):
            if not least <= low <= high < math.inf:
                raise ValueError(f"{name}={(low, high)!r}: give two numbers, the lower one first")
        shares = {
            "close": close, "stars": stars, "large": large, "bright": bright, "gaps": gaps,
            "edges": edges, "correlated": correlated, "counted": counted, "residual": residual,
        }  # fmt: skip
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share!r}: give a number from 0 to 1")
        self.seed, self.magnitudes, self.slope, self.psf = seed, magnitudes, slope, psf
        self.shares = shares
        if not len(wider) or min(wider) < 1:
            raise ValueError(f"wider={wider!r}: give numbers from 1 on")
        surveys = [get_survey(survey) for survey in surveys]
        self.wider = np.tile(wider, len(surveys))
        surveys = [
            replace(survey, pixel_scale=times * survey.pixel_scale)
            for survey in surveys for times in wider
        ]  # fmt: skip
        self.seen = SurveyStream(
            surveys, batch=batch, seed=seed, bands=bands, sources=1, stamp=16, vary=vary
        )
        self.device = torch.device(device)
        self.images = (images, large_images)
        self.centres = [None if of is None else of.centres for of in self.images]
        self.drawn = [
            of and replace(of, maps=torch.as_tensor(of.maps, device=self.device))
            for of in self.images
        ]
        self.renderers = {}

    def draw(self, number):
        """Draw the random numbers of batch ``number``.

        Parameters
        ----------
        number : int
            Index of the batch.

        Returns
        -------
        FieldDraw
        """
        seen = self.seen.draw(number)
        rng = np.random.default_rng([self.seed, number, 1])
        shares = self.shares
        n, bands = seen.fwhm.shape
        fwhm = seen.fwhm
        if self.psf is not None:
            middle = np.exp(rng.uniform(*np.log(self.psf), n))
            middle = np.where(rng.random(n) < 0.5, middle / np.median(fwhm, axis=1), 1)
            fwhm = np.clip(fwhm * middle[:, None], *self.psf)

        surveys = [self.seen.surveys[k] for k in seen.survey]
        scale = seen.scale
        references = [survey.reference for survey in surveys]
        depth = np.array([band.point_depth for band in references])
        noise = np.array([r.sky_noise(s) for r, s in zip(references, scale, strict=True)])
        number_of, present, position = self._layout(
            rng, scale**2 / self.wider[seen.survey], fwhm.mean(axis=1)
        )
        most = present.shape[1]
        wavelength = np.array([band.wavelength for band in references])
        magnitude = draw_brightest(rng, n * most, self.magnitudes, self.slope)
        magnitude = magnitude.reshape(n, most) + depth[:, None]
        kinds = {"reference": np.repeat(wavelength, most), "stars": shares["stars"]}
        sources = draw_sources(rng, magnitude.ravel(), images=self.images[0], **kinds)

        large, star = rng.random((2, n)) < [[shares["large"]], [shares["bright"]]]
        large_at, star_at = number_of, number_of + large
        radius = np.exp(rng.uniform(math.log(10), math.log(60), n))
        brightness = 10 ** rng.uniform(-0.3, 2.3, n)  # mean within the radius, over the noise
        flux = 2 * np.pi * radius**2 * brightness * noise
        is_large = np.zeros(n * most, bool)
        for k in np.flatnonzero(large):
            real = self.images[1] is not None and rng.random() < 0.75
            one = draw_sources(
                rng, [_magnitude(flux[k])], reference=wavelength[k], stars=0,
                population="images" if real else "parametric", images=self.images[1],
            )  # fmt: skip
            if not real:
                # a knot of a large galaxy is no point source
                one.share[:, 1:] = one.share[:, 1:] @ [[1, 0], [0.9, 0.1]]
            to = radius[k] * scale[k] / (1 if real else 1.678)
            row = k * most + large_at[k]
            _put(sources, row, replace(one, radius=np.full((1, 2), to)))
            is_large[row] = real
        flux = 10 ** rng.uniform(5, 7, n) * noise
        for k in np.flatnonzero(star):
            one = draw_sources(rng, [_magnitude(flux[k])], reference=wavelength[k], stars=1)
            _put(sources, k * most + star_at[k], one)
        present |= np.arange(most) < (star_at + star)[:, None]

        fluxes = sources.fluxes(
            np.repeat(self.seen.columns["wavelength"][seen.survey[:, None], seen.band], most, 0)
        )
        fluxes = fluxes.reshape(n, most, 3, bands) * present[:, :, None, None]
        sky = rng.uniform(0, shares["residual"], (n, 1, 1, 1)) * rng.uniform(
            -1, 1, (n, bands, 2, 2)
        )
        stated = rng.random((n, bands)) < rng.choice([1, 0.5, 0], (n, 1), p=[0.6, 0.15, 0.25])
        more = np.random.default_rng([self.seed, number, 3])
        counted = more.random((n, 1)) < shares["counted"]
        counts = np.where(counted, 10 ** more.uniform(*_COUNTS, (n, bands)), np.inf)
        return FieldDraw(
            seen=replace(
                seen, fwhm=fwhm, present=present, position=position, sources=sources, fluxes=fluxes
            ),
            large=is_large,
            star=np.where(star, star_at, -1),
            halo=10 ** (rng.uniform(-2.3, -1.5, (n, 1)) + 0.1 * rng.standard_normal((n, bands))),
            spikes=10 ** (rng.uniform(-2.3, -1.5, (n, 1)) + 0.1 * rng.standard_normal((n, bands))),
            halo_radius=rng.uniform(10, 30, n),
            angle=rng.choice([0, np.pi / 4, 1], n) * rng.uniform(0.9, 1.1, n),
            spike_length=rng.uniform(10, 40, (n, 1)) * rng.uniform(0.8, 1.25, (n, bands)),
            spike_width=0.35 * fwhm,
            full=10 ** rng.uniform(3.3, 4.5, n),
            full_masked=rng.random(n) < 0.5,
            counts=counts,
            kernel=np.where(
                rng.random(n) < shares["correlated"], rng.uniform(0.4, 0.9, n), 1e-2
            ),
            sky=sky,
            **self._strips(rng, n, bands),
            stated=stated,
        )  # fmt: skip

    def _layout(self, rng, area, fwhm):
        """Draw number and positions of sources; two places of each field are filled later."""
        n, (ny, nx) = len(area), self.size
        density = rng.uniform(*self.density, n) * area / 60**2  # per pixel
        number = rng.poisson(density * (ny + 2 * _MARGIN) * (nx + 2 * _MARGIN))
        most = number.max() + 2
        low = -0.5 - _MARGIN
        position = rng.uniform(low, np.array([nx, ny]) - low - 1, (n, most, 2))
        # A share c of the sources is put near another one: (1 - c) exp(-c / (1 - c)) are in no such
        # pair, and exp(-area x density) of these have no neighbour by chance.
        c = np.linspace(0, 0.6, 601)
        chance = np.exp(-np.pi * (2 * fwhm) ** 2 * density)
        alone = (1 - self.shares["close"]) / chance
        c = np.interp(-alone, -(1 - c) * np.exp(-c / (1 - c)), c)
        first = np.ceil((1 - c) * number).astype(int)
        index = np.arange(most)
        pair = (index >= first[:, None]) & (index < number[:, None])
        host = (rng.random((n, most)) * first[:, None]).astype(int)
        away = fwhm[:, None] * rng.uniform(0.4, 2, (n, most))
        angle = rng.uniform(0, 2 * np.pi, (n, most))
        near = np.take_along_axis(position, host[..., None], axis=1)
        near = near + away[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return number, index < number[:, None], np.where(pair[..., None], near, position)

    def _strips(self, rng, n, bands):
        shares, (ny, nx) = self.shares, self.size
        shape = (n, _STRIPS)
        angle = np.where(
            rng.random(shape) < 0.7,
            rng.choice([0, np.pi / 2], shape),
            rng.uniform(0, np.pi, shape),
        ) + np.pi * rng.integers(2, size=shape)
        offset = rng.uniform(-0.5, 0.5, shape) * min(ny, nx)
        half = rng.uniform(1, 10, shape)
        offset[:, 0] = rng.uniform(0.15, 0.45, n) * min(ny, nx) + _EVERYWHERE
        half[:, 0] = _EVERYWHERE
        there = rng.random(shape) < [shares["edges"], shares["gaps"], shares["gaps"] / 3]
        everywhere = rng.random(shape) < 0.6
        of = rng.random((*shape, bands)) < np.where(everywhere, 1, 0.5)[..., None]
        return {
            "strips": np.stack([angle, offset, half], axis=-1),
            "strip_bands": of & there[..., None],
        }

    def __getitem__(self, number):
        """Return batch ``number``, a `Fields`."""
        return self.render(self.draw(number))

    def render(self, draw, light=None):
        """Make fields.

        Parameters
        ----------
        draw : FieldDraw
            Random numbers of n fields.
        light : Light, optional
            Their light, if drawn before.

        Returns
        -------
        Fields
        """
        seen = draw.seen
        light = self.light(draw) if light is None else light
        total = light.paint()
        electrons = np.minimum(seen.electrons * seen.noise, np.sqrt(draw.counts))
        variance = 1 + total.clamp(min=0) / self._tensor(electrons)[..., None, None]
        sky = torch.nn.functional.interpolate(
            self._tensor(draw.sky), self.size, mode="bilinear", align_corners=True
        )
        image = total + sky + variance.sqrt() * self._noise(draw)
        for k in np.flatnonzero(np.isfinite(draw.counts[:, 0])):
            image[k] = self._counted(draw, k, total[k] + sky[k])
        full = self._tensor(draw.full).view(-1, 1, 1, 1)
        saturated = total > full
        mask = self._mask(draw)
        mask |= saturated & self._tensor(draw.full_masked, bool).view(-1, 1, 1, 1)
        image = torch.where(saturated, torch.minimum(image, full), image).masked_fill(mask, 0)
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
        """Return every source alone.

        Parameters
        ----------
        draw : FieldDraw
            Random numbers of n fields.

        Returns
        -------
        Light
            In units of the sky noise.
        """
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
                    position[row] - corner[some] - offset[some],
                    transfer[torch.as_tensor(back, device=self.device)],
                )  # fmt: skip
                if is_star:
                    stamps = torch.nn.functional.pad(stamps, [int(halo[some[0], 0])] * 4)
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
                stamp, self.seen.profiles, self.drawn[large], fine=fine, device=self.device
            )
        return self.renderers[key]

    def _offsets(self, draw, rows):
        """Return the brightest positions of images, from the middle of their maps, in pixels."""
        sources, offset = draw.seen.sources[rows], np.zeros((len(rows), 2))
        scale = draw.seen.scale[rows // draw.seen.present.shape[1]]
        for large, images in enumerate(self.images):
            of = (sources.kind == IMAGE) & (draw.large[rows] == large)
            if of.any():
                image, code = sources.image[of], sources.symmetry[of, None]
                centre = self.centres[large][image]
                centre = np.where(code >= 4, centre[:, ::-1], centre)
                centre = centre * np.where(code // [1, 2] % 2 == 1, -1, 1)
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
        beta = np.array([p[1] if p[0] == "moffat" else 3.0 for p in self.seen.profiles])
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
        white = torch.stack(
            [
                torch.randn(
                    (bands, ny + 2 * half, nx + 2 * half),
                    generator=torch.Generator(self.device).manual_seed(int(seed)),
                    device=self.device,
                )
                for seed in draw.seen.noise_seed
            ]
        )
        t = np.arange(-half, half + 1)
        kernel = np.exp(-0.5 * (t / draw.kernel[:, None]) ** 2)
        kernel /= np.sqrt((kernel**2).sum(axis=1, keepdims=True))
        kernel = self._tensor(np.repeat(kernel, bands, axis=0))[:, None]
        noise = white.view(1, n * bands, *white.shape[2:])
        for shape in ((-1, 1), (1, -1)):
            taps = kernel.view(n * bands, 1, *shape)
            noise = torch.nn.functional.conv2d(noise, taps, groups=n * bands)
        return noise.view(n, bands, ny, nx)

    def _counted(self, draw, field, light):
        """Return one field with Poisson noise of its photons."""
        sky = self._tensor(draw.counts[field])[:, None, None]
        generator = torch.Generator(self.device).manual_seed(int(draw.seen.noise_seed[field]))
        photons = torch.poisson((sky + light * sky.sqrt()).clamp(min=0), generator=generator)
        return (photons - sky) / sky.sqrt()

    def _mask(self, draw):
        ny, nx = self.size
        x = torch.arange(nx, device=self.device) - (nx - 1) / 2
        y = torch.arange(ny, device=self.device)[:, None] - (ny - 1) / 2
        angle, offset, half = self._tensor(draw.strips, float).view(-1, _STRIPS, 3, 1, 1).unbind(2)
        strips = (x * angle.cos() + y * angle.sin() - offset).abs() < half
        of = self._tensor(draw.strip_bands, bool)[..., None, None]
        return (strips[:, :, None] & of).any(dim=1)


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


def _magnitude(flux):
    return AB_NANOJANSKY - 2.5 * math.log10(flux)


def _put(sources, row, one):
    for field in fields(sources):
        getattr(sources, field.name)[row] = getattr(one, field.name)[0]


def simulate_fields(survey, number, seed, *, images=None, large_images=None, **options):
    """Simulate fields with a survey's PSF, depth and bands, for benchmarks.

    Parameters
    ----------
    survey : str, path-like or Survey
        As `get_survey` takes it.
    number : int
        Number of fields.
    seed : int
        Seed of the random numbers.
    images, large_images : Morphologies, optional
        Real galaxies, as in `FieldStream`.
    **options
        Parameters of `FieldStream`; by default all bands in order, the survey's PSFs
        (``psf=None``, ``vary=0``), 300 x 300 pixels and 60 sources per square arcminute.

    Returns
    -------
    Fields
        In numpy arrays, in nJy.
    """
    survey = get_survey(survey)
    given = {
        "size": 300, "density": 60, "psf": None, "vary": 0.0,
        "bands": [band.name for band in survey.bands],
    }  # fmt: skip
    stream = FieldStream([survey], images, large_images, batch=number, seed=seed, **given | options)
    drawn = stream[0]
    values = {field.name: getattr(drawn, field.name) for field in fields(drawn)}
    noise = drawn.noise
    planes, rows = noise[..., None, None], noise[:, None]
    for name in ("image", "sky"):
        values[name] = values[name] * planes
    values["variance"] = drawn.variance * planes**2
    for name in ("flux", "limit"):
        values[name] = values[name] * rows
    values = {k: v.cpu().numpy() if torch.is_tensor(v) else v for k, v in values.items()}
    most = drawn.light.shape[1]
    groups = tuple(
        (*(part.cpu().numpy() for part in (source, corner)),
         (stamps * planes[source // most]).cpu().numpy())
        for source, corner, stamps in drawn.light.groups
    )  # fmt: skip
    values |= {"light": Light(drawn.light.shape, groups), "unit": "nJy"}
    return Fields(**values)
