"""Survey blends by the batch, fast enough to train on as they are made."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

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

__all__ = ["STAMP", "SurveyDraw", "SurveyStream"]

#: Width of a stamp in pixels, if nothing else is said.
STAMP = 64

# Narrower PSFs, in pixels at half maximum, are drawn on finer pixels.
_SAMPLING = 2.4
# Of galaxies that are made large: magnitudes above the depth, and half-light radii in pixels.
_BRIGHT, _LARGE = -4.0, (4.0, 15.0)
# Moffat exponents of varied PSFs.
_BETAS = (2.5, 3.0, 3.5, 4.0, 4.765)


@dataclass(frozen=True)
class SurveyDraw:
    """The random part of n blends of up to s sources in b bands, but for the noise.

    Parameters
    ----------
    survey : numpy.ndarray
        Shape (n,): which survey, as an index.
    band : numpy.ndarray
        Shape (n, b): which of its bands.
    scale : numpy.ndarray
        Shape (n,): width of a pixel in arcsec.
    fwhm, profile : numpy.ndarray
        Shape (n, b): of the PSF; width in pixels, and index of the profile.
    noise, electrons : numpy.ndarray
        Shape (n, b): standard deviation of the sky in nJy, electrons per nJy.
    present : numpy.ndarray
        Shape (n, s): whether there is such a source.
    position : numpy.ndarray
        Shape (n, s, 2): x and y in pixels.
    sources : Sources
        What they are: n s of them, those of a blend in sequence.
    fluxes : numpy.ndarray
        Shape (n, s, 3, b): of their components, in nJy; 0 where there is no source.
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
        """Return the same blends, all moved alike, with one source first.

        Parameters
        ----------
        target : numpy.ndarray
            Shape (n,): which of the sources.
        middle : numpy.ndarray
            Shape (n, 2): where it goes, x and y in pixels.
        stamp : int
            Width of the stamps; sources that leave them are left out.
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
    """Blends as surveys would show them, the same whenever batch ``k`` is asked for.

    Every blend has a survey, bands and an order of bands of its own; the number of bands is
    that of the batch. Light adds; see `astrodeblend.simulate.simulate_blends`.

    Parameters
    ----------
    surveys : sequence of (str or Survey)
        Drawn from with equal chances, as far as they have enough bands.
    images : Morphologies, optional
        Real galaxies.
    batch : int
        Blends per batch, over all processes.
    seed : int
        Where the randomness starts from.
    stamp : int, optional
        Width of a stamp in pixels.
    sources : int, sequence of int, or mapping of int to float, optional
        How many sources a blend has: a number, some with equal chances, or their chances.
    bands : int, mapping of int to float, or sequence of str, optional
        How many bands, or the chances of numbers of them; they are drawn without replacement, in
        random order. Or names of bands, which all surveys need to have, in the order given.
        Default: any number, with equal chances.
    magnitudes : tuple of float, optional
        Range of the magnitude of a blend's brightest source less the depth of a point source at 5
        sigma, in the survey's reference band.
    slope : float, optional
        Draw it by number counts of this slope, and no source fainter than the limit, as
        `astrodeblend.simulate.simulate_blends` does. Default: uniformly, others as faint as may be.
    contrast : float, optional
        How many magnitudes fainter the others are at most; drawn uniformly.
    separations : tuple of float, optional
        Range of the distance from the first source, in widths (FWHM) of the reference band's
        PSF; drawn uniformly.
    offset : float, optional
        How far the first source is at most from the middle of the stamp, in pixels, in x and y.
    chain : float, optional
        Chance that a source is at such a distance from another one than the first.
    large : float, optional
        Share of the bright galaxies that are made as large as 4 to 15 pixels, half-light radius.
    vary : float, optional
        Scatter of ln FWHM. The depth then scatters by twice that, in magnitudes, and half of the
        PSFs are Moffat profiles of any exponent. 0: all as the survey has it.
    population : {'mixed', 'parametric', 'images'}, optional
        What sources; ``mixed`` without ``images`` is parametric.
    stars : float, optional
        Share of stars among them.
    device : str or torch.device, optional
        Where the blends are made and stay.
    rank, world : int, optional
        Which process this is, out of how many; each makes its part of the batch.

    Raises
    ------
    ValueError
        If there are no surveys, or bands or numbers that they do not have, or the batch cannot be
        shared out evenly.
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
        if batch % world:
            raise ValueError(
                f"batch={batch} cannot be shared by {world} processes; give a multiple of {world}"
            )
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
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)

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
        """Draw the random part of batch ``number``.

        Parameters
        ----------
        number : int
            Which batch.

        Returns
        -------
        SurveyDraw
            Of the whole batch, all processes'.
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

        return SurveyDraw(
            survey=survey,
            band=band,
            scale=scale,
            fwhm=fwhm,
            profile=profile,
            noise=noise,
            electrons=of["electrons"],
            present=present,
            position=position,
            sources=sources,
            fluxes=fluxes,
            noise_seed=rng.integers(2**62, size=n),
        )

    def __getitem__(self, number):
        """Return batch ``number`` as `render` does."""
        return self.render(self.draw(number)[self.share])

    def render(self, draw):
        """Make blends.

        Parameters
        ----------
        draw : SurveyDraw
            Of n blends of up to s sources in b bands.

        Returns
        -------
        blend, isolated : torch.Tensor
            Shapes (n, b, y, x) and (n, s, b, y, x), in nJy per pixel, float32. The blend is
            the sum of the isolated sources, and noise, that of the photons Gaussian as well;
            isolated sources are without noise, the one in the middle first, zero where there is
            none.
        noise : torch.Tensor
            Shape (n, b): standard deviation of the sky.
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
        random = torch.stack(
            [
                torch.randn(
                    total.shape[1:],
                    generator=torch.Generator(drawn.device).manual_seed(int(seed)),
                    device=drawn.device,
                )
                for seed in draw.noise_seed
            ]
        )
        return total + variance.sqrt() * random, isolated, noise
