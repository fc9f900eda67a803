"""Streams of simulated fields of galaxies with known truth, to train networks for fields."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from .defects import Defects
from .field_images import FieldRenderer, Fields, Light
from .populations import draw_brightest, draw_sources
from .survey_batches import SurveyDraw, SurveyStream
from .surveys import AB_NANOJANSKY, get_survey

__all__ = ["FieldDraw", "FieldStream", "simulate_fields"]

_MARGIN = 16  # pixels: largest distance of sources beyond the edges
_THIN = 3  # largest number of thin disks
_FRONT = 6  # largest number of bright sources in front of a large galaxy
_COUNTS = (-1.2, 2.5)  # log10 of the sky's photons per pixel: range of fields of counted photons


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
    defects : Defects
        Residual sky, and what is wrong with the data.
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
    defects: Defects
    stated: np.ndarray
    counts: np.ndarray


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
    alike : float, optional
        Share of these neighbours whose magnitude differs by less than 2 from that of the source.
    growth : float, optional
        Largest factor of the radii of galaxies: half of the fields have a factor from 1 to this.
        The density is divided by its square, and neighbours are up to so many times further away.
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
    front : float, optional
        Share of large galaxies with up to six stars and galaxies in front whose peaks are 0.2 to 20
        times as bright as the large galaxy there.
    trails : float, optional
        Share of fields with one or two straight trails, of satellites, in one or in all bands.
    uneven : float, optional
        Share of fields whose sky varies by 0.1 to 2 noises over 32 pixels.
    bleeds : float, optional
        Share of bright stars whose light runs over along y.
    thin : float, optional
        Share of fields with up to three thin disks of a half-light radius of 2 to 40 pixels along
        the major axis, 1 to 300 times as bright as the noise, two thirds of them without a bulge.
    holes : float, optional
        Share of fields with up to five sources whose middle has no data, in disks of radius 0.5 to
        4 pixels.
    device : str or torch.device, optional
        Device of the fields.
    """

    def __init__(
        self, surveys, images=None, large_images=None, *, batch, seed, size=256, bands=None,
        density=(10, 120), wider=(1,), magnitudes=(-8.0, 0.0), slope=0.31, close=1 / 3,
        alike=0.0, growth=1.0, psf=(2.0, 8.0), vary=0.1, stars=0.1, large=0.1, bright=0.04,
        gaps=0.2, edges=0.1, correlated=0.5, counted=0.0, residual=0.5, front=0.0,
        trails=0.0, uneven=0.0, bleeds=0.0, thin=0.0, holes=0.0, device="cpu",
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
            "close": close, "alike": alike, "stars": stars, "large": large, "bright": bright,
            "gaps": gaps, "edges": edges, "correlated": correlated, "counted": counted,
            "residual": residual, "front": front, "thin": thin, "holes": holes,
            "trails": trails, "uneven": uneven, "bleeds": bleeds,
        }  # fmt: skip
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share!r}: give a number from 0 to 1")
        self.seed, self.magnitudes, self.slope, self.psf = seed, magnitudes, slope, psf
        self.shares = shares
        if not 1 <= growth < math.inf:
            raise ValueError(f"growth={growth!r}: give a number from 1 on")
        self.growth = growth
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
        self.images = (images, large_images)
        self.renderer = FieldRenderer(
            self.size, self.seen.profiles, *self.images, torch.device(device)
        )

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
        later = np.random.default_rng([self.seed, number, 5])
        growth = self.growth ** np.where(later.random(n) < 0.5, later.random(n), 0)
        number_of, present, position, pair, host = self._layout(
            rng, scale**2 / self.wider[seen.survey] / growth**2, fwhm.mean(axis=1), later, growth
        )
        most = present.shape[1]
        wavelength = np.array([band.wavelength for band in references])
        magnitude = draw_brightest(rng, n * most, self.magnitudes, self.slope)
        magnitude = magnitude.reshape(n, most)
        alike = pair & (later.random((n, most)) < shares["alike"])
        like = np.take_along_axis(magnitude, host, axis=1) + later.uniform(-2, 2, (n, most))
        magnitude = np.where(alike, like.clip(*self.magnitudes), magnitude) + depth[:, None]
        sources = draw_sources(
            rng, magnitude.ravel(), reference=np.repeat(wavelength, most), images=self.images[0],
            stars=shares["stars"],
        )  # fmt: skip
        sources.radius[:] *= np.repeat(growth, most)[:, None]

        large, star = rng.random((2, n)) < [[shares["large"]], [shares["bright"]]]
        large_at, star_at = number_of, number_of + large
        times = self.wider[seen.survey]  # what is large on pixels of the survey is so on wider ones
        radius = np.exp(rng.uniform(np.log(10 / times), math.log(60), n))
        # mean within the radius, over the noise
        brightness = 10 ** rng.uniform(-0.3, 2.3 + np.log10(times), n)
        flux = 2 * np.pi * radius**2 * brightness * noise
        nuclei = np.random.default_rng([self.seed, number, 4])
        extra = np.random.default_rng([self.seed, number, 6])
        is_large = np.zeros(n * most, bool)
        for k in np.flatnonzero(large):
            real = self.images[1] is not None and rng.random() < 0.6
            one = draw_sources(
                rng, [_magnitude(flux[k])], reference=wavelength[k], stars=0,
                population="images" if real else "parametric", images=self.images[1],
            )  # fmt: skip
            to, edge_on = radius[k] * scale[k], False
            one = replace(one, radius=np.full((1, 2), to if real else to / 1.678))
            if not real:
                # a knot of a large galaxy is no point source
                one.share[:, 1:] = one.share[:, 1:] @ [[1, 0], [0.9, 0.1]]
                if nuclei.random() < 1 / 3:  # an elliptical galaxy
                    one.share[:] = 1, 0, 0
                elif edge_on := later.random() < 0.4:
                    one.share[:, :2] = 0, one.share[:, :2].sum()
                    one.ellipticity[:, 1] = later.uniform(0.6, 0.8)
            part, size = 10 ** nuclei.uniform((-1.7, -2), (-0.3, -0.5))
            if nuclei.random() < (0.25 if edge_on else 0.75) and one.share[0, 0] < 1:
                # pictures lack bright nuclei: those that saturate are left out
                nucleus, radius_of = (2, 1) if real else (0, 0)
                one.share[0, nucleus] = 0
                one.share[:] *= (1 - part) / one.share.sum()
                one.share[0, nucleus] = part
                one.spectrum[0, nucleus] = one.spectrum[0, 0]
                one.radius[0, radius_of] = size * to
            row = k * most + large_at[k]
            _put(sources, row, one)
            is_large[row] = real
            if extra.random() < shares["front"]:
                place, peak = self._in_front(extra, radius[k], brightness[k])
                some = extra.permutation(number_of[k])[: len(place)]
                flux_of = peak[: len(some)] * noise[k] * fwhm[k].mean() ** 2
                those = draw_sources(
                    extra, [*map(_magnitude, flux_of)], reference=wavelength[k], stars=0.5,
                    images=self.images[0],
                )  # fmt: skip
                for j, r in enumerate(some):
                    _put(sources, k * most + r, those[[j]])
                position[k, some] = position[k, large_at[k]] + place[: len(some)]
        for k in np.flatnonzero(extra.random(n) < shares["thin"]):
            some = extra.permutation(number_of[k])[: extra.integers(1, _THIN + 1)]
            those = self._thin(extra, len(some), noise[k], scale[k], wavelength[k])
            for j, r in enumerate(some):
                _put(sources, k * most + r, those[[j]])
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
            kernel=np.where(rng.random(n) < shares["correlated"], rng.uniform(0.4, 0.9, n), 1e-2),
            defects=Defects.draw(
                rng,
                extra,
                shares,
                size=self.size,
                fwhm=fwhm,
                sky=sky,
                present=present,
                position=position,
            ),
            stated=stated,
        )

    def _layout(self, rng, area, fwhm, later, growth):
        """Draw number and positions of sources; two places of each field are filled later.

        Return numbers (n,), which exist, positions, which are put near a host, and their hosts.
        """
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
        away *= growth[:, None] ** later.random((n, most))
        angle = rng.uniform(0, 2 * np.pi, (n, most))
        near = np.take_along_axis(position, host[..., None], axis=1)
        near = near + away[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        position = np.where(pair[..., None], near, position)
        return number, index < number[:, None], position, pair, host

    def _in_front(self, rng, radius, brightness):
        """Draw places around a large galaxy, and peaks of sources there in units of the noise."""
        number = rng.integers(1, _FRONT + 1)
        away, angle = rng.uniform(0.15, 2.5, number), rng.uniform(0, 2 * np.pi, number)
        place = radius * away[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        there = brightness * np.exp(-1.678 * (away - 1))  # of an exponential disk
        return place, (there + 1) * 10 ** rng.uniform(-0.7, 1.3, number)

    def _thin(self, rng, number, noise, scale, wavelength):
        """Draw thin disks."""
        radius = np.exp(rng.uniform(np.log(2), np.log(40), number))
        ellipticity = rng.uniform(0.5, 0.85, number)
        area = 2 * np.pi * radius**2 * (1 - ellipticity) / (1 + ellipticity)
        flux = noise * area * 10 ** rng.uniform(0, 2.5, number)
        those = draw_sources(
            rng, [*map(_magnitude, flux)], reference=wavelength, stars=0, population="parametric"
        )
        bulge = np.where(rng.random(number) < 1 / 3, rng.uniform(0, 0.3, number), 0)
        those.share[:] = np.stack([bulge, 1 - bulge, 0 * bulge], axis=1)
        those.ellipticity[:, 1] = ellipticity
        those.radius[:] = scale * radius[:, None] / [4, 1.678]
        return those

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
        return self.renderer(draw, light)

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
        return self.renderer.light(draw)


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
