"""Batches of simulated blends of surveys, fast enough to be made during training."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from .batched import share_of, white_noise
from .fourier import FourierRenderer
from .populations import (
    DISK_HALF_LIGHT,
    GALAXY,
    POPULATIONS,
    Sources,
    draw_brightest,
    draw_layout,
    draw_sources,
    get_chances,
)
from .surveys import get_survey

#: Pixels: default width of a stamp.
STAMP = 64

# Pixels: PSFs of smaller FWHM are drawn on finer pixels.
_SAMPLING = 2.4
# Galaxies that are enlarged: magnitude relative to the depth, and half-light radii in pixels.
_BRIGHT, _LARGE = -4.0, (4.0, 15.0)
# Exponents of the Moffat profiles of varied PSFs.
_BETAS = (2.5, 3.0, 3.5, 4.0, 4.765)


@dataclass(frozen=True)
class SurveyDraw:
    """Random numbers of n blends of up to s sources in b bands, without those of the noise.

    Parameters
    ----------
    survey : numpy.ndarray
        Shape (n,): index of the survey.
    band : numpy.ndarray
        Shape (n, b): indices of its bands.
    scale : numpy.ndarray
        Shape (n,): width of a pixel in arcsec.
    fwhm, profile : numpy.ndarray
        Shape (n, b): FWHM of the PSF in pixels, and index of its profile.
    noise, electrons : numpy.ndarray
        Shape (n, b): standard deviation of the sky in a pixel in nJy, and electrons per nJy.
    present : numpy.ndarray
        Shape (n, s): whether the source exists.
    position : numpy.ndarray
        Shape (n, s, 2): x and y in pixels.
    sources : Sources
        Parameters of the n s sources, those of a blend in sequence.
    fluxes : numpy.ndarray
        Shape (n, s, 3, b): fluxes of their components in nJy; 0 where there is no source.
    noise_seed : numpy.ndarray
        Shape (n,).
    """

    survey: np.ndarray
    band: np.ndarray
    scale: np.ndarray
    fwhm: np.ndarray
    profile: np.ndarray
    noise: np.ndarray
    electrons: np.ndarray
    present: np.ndarray
    position: np.ndarray
    sources: Sources
    fluxes: np.ndarray
    noise_seed: np.ndarray

    def __len__(self):
        return len(self.survey)

    def __getitem__(self, key):
        """Select some of the blends by a slice or an index array."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        flat = np.arange(self.present.size).reshape(self.present.shape)[key].ravel()
        values = {k: v[flat if k == "sources" else key] for k, v in values.items()}
        return SurveyDraw(**values)

    def aimed(self, target, middle, stamp):
        """Return the blends shifted, so that their target is at ``middle`` and the first source.

        Parameters
        ----------
        target : numpy.ndarray
            Shape (n,): index of the target.
        middle : numpy.ndarray
            Shape (n, 2): its new position, x and y in pixels.
        stamp : int
            Width of the stamps in pixels; sources that leave them are dropped.
        """
        n, most = self.present.shape
        order = np.argsort(np.arange(most) != target[:, None], axis=1, kind="stable")
        rows = np.arange(n)[:, None]
        position = self.position[rows, order]
        position = position + (middle - position[:, 0])[:, None]
        inside = ((position > 0) & (position < stamp - 1)).all(axis=2)
        present = self.present[rows, order] & inside
        return replace(
            self,
            present=present,
            position=position,
            sources=self.sources[(rows * most + order).ravel()],
            fluxes=self.fluxes[rows, order] * present[:, :, None, None],
        )


class SurveyStream:
    """Stream of simulated blends of surveys; batch ``k`` is the same whenever it is read.

    Survey, bands and their order are drawn for each blend, the number of bands for each batch.
    `astrodeblend.simulate.simulate_blends` is the reference.

    Parameters
    ----------
    surveys : sequence of (str or Survey)
        Surveys to draw from, with equal probability among those with enough bands.
    images : Morphologies, optional
        Real galaxies.
    batch : int
        Blends per batch, over all processes.
    seed : int
        Seed of the random numbers.
    stamp : int, optional
        Width of a stamp in pixels.
    sources : int, sequence of int, or mapping of int to float, optional
        Sources per blend: a number, several of equal probability, or their probabilities.
    bands : int, mapping of int to float, or sequence of str, optional
        Number of bands, or probabilities of numbers; bands are drawn without replacement, in
        random order. Or names of bands that all surveys have, in this order. Default: any number,
        with equal probability.
    magnitudes : tuple of float, optional
        Range of the magnitude of a blend's brightest source in the survey's reference band,
        relative to the 5 sigma point-source depth.
    slope : float, optional
        Draw it from number counts of this slope, with no source fainter than the range, as in
        `astrodeblend.simulate.simulate_blends`. Default: uniform, and no limit for the others.
    contrast : float, optional
        Largest difference in magnitude between the brightest source and the others; uniform.
    separations : tuple of float, optional
        Range of the distance from the first source, in FWHM of the reference band's PSF; uniform.
    offset : float, optional
        Largest offset of the first source from the middle of the stamp in pixels, in x and y.
    chain : float, optional
        Probability that a source has this distance from a source other than the first.
    large : float, optional
        Share of the bright galaxies that are enlarged to half-light radii of 4 to 15 pixels.
    vary : float, optional
        Scatter of ln FWHM. The depth scatters by twice that, in magnitudes, and half of the PSFs
        are Moffat profiles of a random exponent. 0: the survey's values.
    population : {'mixed', 'parametric', 'images'}, optional
        Galaxies, as in `astrodeblend.simulate.simulate_blends`.
    stars : float, optional
        Share of stars among the sources.
    device : str or torch.device, optional
        Device of the blends.
    rank, world : int, optional
        Index of this process and number of processes; each makes its part of the batch.
    """

    def __init__(
        self, surveys, images=None, *, batch, seed, stamp=STAMP, sources=2, bands=None,
        magnitudes=(-7.5, -1.5), slope=None, contrast=2.0, separations=(0.5, 4.0), offset=0.5,
        chain=0.0, large=0.0, vary=0.1, population="mixed", stars=0.1, device="cpu", rank=0,
        world=1,
    ):  # fmt: skip
        self.surveys = [get_survey(survey) for survey in surveys]
        if not self.surveys:
            raise ValueError("surveys holds none; give at least one")
        if population not in POPULATIONS:
            raise ValueError(
                f"population={population!r} is not known; choose one of {', '.join(POPULATIONS)}"
            )
        self.numbers = get_chances(sources, "sources")
        largest = max(len(survey.bands) for survey in self.surveys)
        if bands is None:
            bands = range(1, largest + 1)
        self.named = not isinstance(bands, int | dict | range)
        if self.named:
            self.surveys = [survey.select(bands) for survey in self.surveys]
            bands = len(bands)
        self.bands = get_chances(bands, "bands")
        if self.bands[0].max() > largest:
            raise ValueError(f"bands={bands!r}: no survey has more than {largest}")
        self.images = images
        self.batch, self.seed, self.stamp = batch, seed, stamp
        self.magnitudes, self.slope = magnitudes, slope
        self.contrast, self.separations = contrast, separations
        self.chain, self.large = chain, large
        self.offset, self.vary, self.population, self.stars = offset, vary, population, stars
        self.share = share_of(batch, rank, world)

        every = [band for survey in self.surveys for band in survey.bands]
        self.profiles = list(dict.fromkeys((band.psf, band.beta) for band in every))
        known = len(self.profiles)
        self.profiles += [("moffat", beta) for beta in _BETAS]
        self.varied = np.arange(known, len(self.profiles))
        narrowest = min(b.psf_fwhm / s.pixel_scale for s in self.surveys for b in s.bands)
        fine = max(1, math.ceil(_SAMPLING / narrowest))
        self.smallest = _SAMPLING / fine
        self.renderer = FourierRenderer(stamp, self.profiles, images, fine=fine, device=device)
        # One row per survey, padded: (surveys, most bands).
        self.columns = {
            "wavelength": self._column(lambda survey, band: band.wavelength),
            "fwhm": self._column(lambda survey, band: band.psf_fwhm / survey.pixel_scale),
            "noise": self._column(lambda survey, band: band.sky_noise(survey.pixel_scale)),
            "electrons": self._column(lambda survey, band: band.electrons),
            "profile": self._column(
                lambda survey, band: self.profiles.index((band.psf, band.beta))
            ).astype(int),
        }

    def _column(self, value):
        most = max(len(survey.bands) for survey in self.surveys)
        rows = [[value(survey, band) for band in survey.bands] for survey in self.surveys]
        return np.array([row + [0.0] * (most - len(row)) for row in rows])

    def draw(self, number):
        """Draw the random numbers of batch ``number``.

        Parameters
        ----------
        number : int
            Index of the batch.

        Returns
        -------
        SurveyDraw
            The whole batch, of all processes.
        """
        rng = np.random.default_rng([self.seed, number])
        n = self.batch
        count = rng.choice(self.bands[0], p=self.bands[1])
        enough = [k for k, survey in enumerate(self.surveys) if len(survey.bands) >= count]
        survey = rng.choice(enough, n)
        own = np.array([len(s.bands) for s in self.surveys])[survey]
        order = rng.random((n, max(own)))
        order[np.arange(max(own)) >= own[:, None]] = np.inf
        band = np.tile(np.arange(count), (n, 1)) if self.named else order.argsort(1)[:, :count]
        of = {name: column[survey[:, None], band] for name, column in self.columns.items()}

        shape = (n, count)
        spread = rng.standard_normal((2, *shape)) * self.vary
        fwhm = np.maximum(of["fwhm"] * np.exp(spread[0]), self.smallest)
        noise = of["noise"] * 10 ** (0.4 * 2 * spread[1])
        other = rng.random(shape) < (0.5 if self.vary else 0.0)
        profile = np.where(other, rng.choice(self.varied, shape), of["profile"])

        total = rng.choice(self.numbers[0], n, p=self.numbers[1])
        most = self.numbers[0].max()
        present = np.arange(most) < total[:, None]
        references = [s.reference for s in self.surveys]
        depth = np.array([band.point_depth for band in references])
        if self.slope is None:
            above, faintest = rng.uniform(*self.magnitudes, n), np.inf
        else:
            above = draw_brightest(rng, n, self.magnitudes, self.slope)
            faintest = depth[survey] + self.magnitudes[1]
        brightest = depth[survey] + above
        scale = np.array([s.pixel_scale for s in self.surveys])[survey]
        width = np.array([r.psf_fwhm for r in references])[survey] / scale
        magnitude, position = draw_layout(
            rng, present, brightest, faintest, self.contrast,
            [limit * width for limit in self.separations], self.stamp, self.offset,
        )  # fmt: skip
        more = np.random.default_rng([self.seed, number, 2])
        for k in range(2, most if self.chain else 0):
            near = more.integers(k, size=n) * (more.random(n) < self.chain)
            position[:, k] += position[np.arange(n), near] - position[:, 0]
        wavelength = np.array([r.wavelength for r in references])[survey]
        sources = draw_sources(
            rng, magnitude.ravel(), reference=np.repeat(wavelength, most),
            population=self.population, images=self.images, stars=self.stars,
        )  # fmt: skip
        if self.large:
            bright = (magnitude - depth[survey][:, None] < _BRIGHT).ravel()
            radius = np.exp(more.uniform(*np.log(_LARGE), len(bright))) * np.repeat(scale, most)
            radius /= np.where(sources.kind == GALAXY, DISK_HALF_LIGHT, 1)
            chosen = bright & (more.random(len(bright)) < self.large)
            radius = np.where(chosen[:, None], radius[:, None], 0)
            sources = replace(sources, radius=np.maximum(sources.radius, radius))
        fluxes = sources.fluxes(np.repeat(of["wavelength"], most, axis=0))
        fluxes = fluxes.reshape(n, most, *fluxes.shape[1:]) * present[:, :, None, None]

        seeds = rng.integers(2**62, size=n)
        return SurveyDraw(
            survey, band, scale, fwhm, profile, noise, of["electrons"], present, position, sources,
            fluxes, seeds,
        )  # fmt: skip

    def __getitem__(self, number):
        """Return batch ``number``, as `render` does."""
        return self.render(self.draw(number)[self.share])

    def render(self, draw):
        """Make blends.

        Parameters
        ----------
        draw : SurveyDraw
            Random numbers of n blends of up to s sources in b bands.

        Returns
        -------
        blend, isolated : torch.Tensor
            Shapes (n, b, y, x) and (n, s, b, y, x), in nJy per pixel, float32. The blend is the
            sum of the isolated sources plus Gaussian noise, of the sky and of photons; isolated
            sources are without noise, the one in the middle first, 0 where there is none.
        noise : torch.Tensor
            Shape (n, b): standard deviation of the sky in a pixel.
        """
        n, most = draw.present.shape
        flat = draw.present.ravel()
        blend_of = np.repeat(np.arange(n), most)[flat]
        transfer = self.renderer.transfer(draw.fwhm, draw.profile)
        drawn = self.renderer(
            draw.sources[flat],
            draw.fluxes[draw.present],
            draw.scale[blend_of],
            draw.position[draw.present],
            transfer[torch.as_tensor(blend_of, device=transfer.device)],
        )
        isolated = drawn.new_zeros(n * most, *drawn.shape[1:])
        isolated[torch.as_tensor(np.flatnonzero(flat), device=drawn.device)] = drawn
        isolated = isolated.unflatten(0, (n, most))
        total = isolated.sum(dim=1)
        noise, electrons = (
            torch.as_tensor(a, dtype=torch.float32, device=drawn.device)
            for a in (draw.noise, draw.electrons)
        )
        variance = noise[..., None, None] ** 2 + total.clamp(min=0) / electrons[..., None, None]
        random = white_noise(draw.noise_seed, total.shape[1:], drawn.device)
        return total + variance.sqrt() * random, isolated, noise
