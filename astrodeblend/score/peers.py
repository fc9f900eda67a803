"""Other deblenders: photutils, SEP and scarlet2."""

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from astropy.stats import mad_std
from photutils.segmentation import (
    SegmentationImage,
    SourceCatalog,
    deblend_sources,
    detect_sources,
    make_2dgaussian_kernel,
)
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage

from astrodeblend.detect import find_sources
from astrodeblend.metrics import moments
from astrodeblend.simulate import draw_psfs, get_survey

from .methods import Catalogue, Conditions, Found, Package, distortion_of, ellipticity_of

_FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations
_FREE = 2  # pixels: how far scarlet2 may move a source along each axis
_STEP = 1 / 255  # step of 8-bit pictures; rounding to it makes noise of 1 / sqrt(12) steps


def _edge(image):
    """Return the outermost pixels (..., n) of an image (..., y, x)."""
    sides = image[..., 0, :], image[..., -1, :], image[..., 1:-1, 0], image[..., 1:-1, -1]
    return np.concatenate(sides, axis=-1).astype(float)


def sky_of(blend, conditions):
    """Return the sky's level and noise (bands,): by the border, or 0 and 1 of a survey's image."""
    if conditions is None:
        edge = _edge(blend)
        return np.median(edge, axis=1), np.maximum(mad_std(edge, axis=1), _STEP / np.sqrt(12))
    return np.zeros(len(blend)), np.ones(len(blend))


class _Segments(Package):
    """A deblender by segments: each pixel belongs to one source."""

    given_of_survey: ClassVar[str] = "the blend and the noise of its sky"

    def split(self, blend, positions, conditions=None):
        """Return `Found`: to each segment the blend's light above the sky in it."""
        level, noise = sky_of(blend, conditions)
        light = blend.mean(axis=0, dtype=float) - level.mean()
        threshold = self.n_sigma * noise.min() / np.sqrt(len(blend))
        if conditions is None:
            threshold = max(threshold, self.n_sigma * mad_std(_edge(light)))
        segments, level = self._segments(light, threshold), level[:, None, None]
        labels = np.unique(segments[segments > 0])
        own = segments == labels[:, None, None, None]
        light = np.where(own, blend - level, 0).astype(np.float32)
        if self.sky == "border":
            return Found(np.broadcast_to(level, blend.shape), light)
        return Found(np.where(segments > 0, level, blend), light)


@dataclass(frozen=True)
class Photutils(_Segments):
    """Segmentation and deblending with photutils: each pixel belongs to one source.

    In blends the mean of the bands above the sky of the stamp's border (of a survey's image the sum
    of the bands, each over its noise) is smoothed, detected
    (`photutils.segmentation.detect_sources`) and separated by multi-thresholding and watershed
    (`photutils.segmentation.deblend_sources`); the parameters are for these. In fields fluxes are
    in Kron apertures, neighbours' pixels replaced.
    """

    n_sigma: float = 0.5  #: detection threshold in standard deviations of the sky before smoothing
    n_pixels: int = 5  #: smallest number of pixels of a source
    #: full width at half maximum of the Gaussian kernel, in pixels; 0 for none
    smoothing: float = 1.0
    n_levels: int = 32  #: thresholds between a source's faintest and brightest pixel
    contrast: float = 0.001  #: smallest part of the light that makes a source of its own
    #: what pixels outside all segments keep: the blend's light, or the border's median, which is
    #: also what a source has where another one is (``"border"``)
    sky: str = "blend"

    name: ClassVar[str] = "photutils"
    given_of_field: ClassVar[str] = (
        "the image and its noise; given positions divide its segments by watershed"
    )
    field_settings: ClassVar[dict] = {"n_sigma": 1.5, "n_pixels": 10, "smoothing": 3.0}
    grid: ClassVar[dict[str, tuple]] = {
        "n_sigma": (0.25, 0.5, 1.0),
        "smoothing": (0.0, 1.0, 2.0),
        "contrast": (1e-4, 1e-3, 1e-2),
        "sky": ("blend", "border"),
    }
    grid_of_survey: ClassVar[dict[str, tuple]] = {
        "n_sigma": (1.0, 2.0, 3.0, 5.0),
        "smoothing": (0.0, 2.0),
        "contrast": (1e-4, 1e-3, 1e-2),
        "sky": ("blend", "border"),
    }

    def _segments(self, light, threshold):
        """Return the segments of an image, shape (y, x), 0 outside."""
        if self.smoothing:
            light = ndimage.gaussian_filter(light, self.smoothing / _FWHM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoDetectionsWarning)
            segments = detect_sources(light, threshold, self.n_pixels)
        if segments is None:
            return np.zeros(light.shape, int)
        return deblend_sources(
            light, segments, self.n_pixels, n_levels=self.n_levels, contrast=self.contrast,
            progress_bar=False,
        ).data  # fmt: skip

    def find(self, seen, positions=None):
        """Return the `Catalogue` of what is found, or of given positions."""
        light, nowhere = seen.detection
        n_sigma, n_pixels, smoothing = self.field_settings.values()
        smooth = ndimage.convolve(light, make_2dgaussian_kernel(smoothing, size=5).array)
        if positions is None:
            segments = detect_sources(smooth, n_sigma, n_pixels, mask=nowhere)
            if segments is None:
                return Catalogue.empty(0, len(seen.data))
            segments = deblend_sources(smooth, segments, n_pixels, progress_bar=False)
            segments.relabel_consecutive()
        else:
            segments = SegmentationImage(find_sources(seen.image, positions=positions)[1])
        number = segments.max_label if positions is None else len(positions)
        found = Catalogue.empty(number, len(seen.data))
        shapes = SourceCatalog(light, segments, mask=nowhere)
        rows = np.atleast_1d(shapes.label) - 1
        found.position[rows] = shapes.centroid_win
        axes = shapes.semimajor_axis.value, shapes.semiminor_axis.value
        found.ellipticity[rows] = distortion_of(*axes, shapes.orientation.to_value("rad"))
        for band, (data, error, mask) in enumerate(
            zip(seen.data, seen.error, seen.mask, strict=True)
        ):
            measured = SourceCatalog(
                data, segments, error=error, mask=mask, detection_catalog=shapes
            )
            found.flux[rows, band] = measured.kron_flux
            found.error[rows, band] = measured.kron_flux_err
        return found


@dataclass(frozen=True)
class SEP(_Segments):
    """Segmentation and deblending as in SExtractor, with SEP (Barbary 2016, JOSS 1, 58).

    In blends ``sep.extract`` works on the same image as `Photutils`, with its own filter, and each
    pixel belongs to one source; the parameters are for these. In fields fluxes are in SExtractor's
    automatic apertures, neighbours masked.
    """

    n_sigma: float = 0.25  #: detection threshold in standard deviations of the sky
    n_pixels: int = 5  #: smallest number of pixels of a source (``minarea``)
    n_levels: int = 128  #: thresholds of the deblending (``deblend_nthresh``)
    contrast: float = 1e-5  #: smallest part of the light that makes a source (``deblend_cont``)
    clean: bool = False  #: whether to drop sources that may come from the wings of brighter ones
    sky: str = "blend"  #: as for `Photutils`

    name: ClassVar[str] = "sep"
    takes_positions: ClassVar[bool] = False
    field_settings: ClassVar[dict] = {
        "n_sigma": 2.0, "n_pixels": 5, "kron": 2.5, "least_radius": 1.75,
    }  # fmt: skip
    grid: ClassVar[dict[str, tuple]] = {
        "n_sigma": (0.25, 0.5, 1.0),
        "n_levels": (32, 64, 128),
        "contrast": (1e-5, 1e-4, 1e-3),
        "sky": ("blend", "border"),
    }
    grid_of_survey: ClassVar[dict[str, tuple]] = {
        "n_sigma": (1.0, 2.0, 3.0, 5.0),
        "n_levels": (32, 128),
        "contrast": (1e-5, 1e-4, 1e-3, 1e-2),
        "sky": ("blend", "border"),
    }

    def _segments(self, light, threshold):
        """Return the segments of an image, shape (y, x), 0 outside."""
        import sep

        return sep.extract(
            np.ascontiguousarray(light), threshold, minarea=self.n_pixels,
            deblend_nthresh=self.n_levels, deblend_cont=self.contrast, clean=self.clean,
            segmentation_map=True,
        )[1]  # fmt: skip

    def find(self, seen, positions=None):
        """Return the `Catalogue` of what is found."""
        import sep

        light, nowhere = seen.detection
        n_sigma, n_pixels, factor, least = self.field_settings.values()
        found, segments = sep.extract(
            light, n_sigma, mask=nowhere, minarea=n_pixels, segmentation_map=True
        )
        x, y, major, minor = (found[name] for name in ("x", "y", "a", "b"))
        angle = found["theta"].clip(-np.pi / 2, np.pi / 2)
        own = {"seg_id": np.arange(1, len(found) + 1), "segmap": segments}
        radius = sep.kron_radius(light, x, y, major, minor, angle, 6.0, mask=nowhere, **own)[0]
        # as SExtractor, a circle where the ellipse would be too small
        radius = factor * np.nan_to_num(radius).clip(min=0)
        small = radius * np.sqrt(major * minor) < factor * least
        axes = [np.where(small, least, radius * axis) for axis in (major, minor)]
        sums = [
            sep.sum_ellipse(
                np.ascontiguousarray(data, float), x, y, *axes, angle, 1.0, mask=mask, subpix=1,
                err=np.ascontiguousarray(error, float), **own,
            )[:2]
            for data, error, mask in zip(seen.data, seen.error, seen.mask, strict=True)
        ]  # fmt: skip
        flux, error = np.moveaxis(np.reshape(sums, (len(sums), 2, -1)), 0, -1)
        return Catalogue(np.stack([x, y], axis=1), flux, error, distortion_of(major, minor, angle))


@dataclass(frozen=True)
class Scarlet2(Package):
    """A model of the scene, fitted to the blend, with scarlet2.

    Sources are at the true positions, free by 2 pixels, and their light adds.

    A picture has the noise of the stamp's border, and no PSF. What each pixel has above the sky
    goes to the galaxies in proportion to their models, as survey pipelines do; where these are
    below the noise, to both. A survey's image has its variance in every pixel, and the PSF of each
    band, to which the models are convolved.
    """

    #: Sérsic profiles, elliptical; or ``"pixels"``: any positive image, which begins as the
    #: Gaussian of scarlet2's quick start
    morphology: str = "sersic"
    steps: int = 300  #: largest number of steps of the optimiser
    tolerance: float = 1e-4  #: relative change of the parameters below which it stops
    light: str = "apportioned"  #: the blend's in proportion to the models, or ``"model"``
    reach: int | None = None  #: largest distance of a source's light from its position, in pixels

    name: ClassVar[str] = "scarlet2"
    given: ClassVar[str] = (
        "the blend, its noise and the true positions, no PSF; it models linear flux in which light "
        "adds, and pictures are neither"
    )
    given_of_survey: ClassVar[str] = "the blend, its variance, the PSFs and the true positions"
    given_of_field: ClassVar[str] = (
        "the image, its noise, the PSFs, and positions: the first deblender's detections"
    )
    slow: ClassVar[bool] = True
    detects: ClassVar[bool] = False
    for_survey: ClassVar[dict] = {"steps": 1000, "light": "model"}
    grid: ClassVar[dict[str, tuple]] = {"morphology": ("sersic", "pixels")}
    grid_of_survey: ClassVar[dict[str, tuple]] = {
        "morphology": ("sersic", "pixels"),
        "steps": (300, 1000),
    }

    def split(self, blend, positions, conditions=None):
        """Return `Found`: the light of the fitted models, or in proportion to them."""
        import jax
        import jax.numpy as jnp
        import scarlet2

        scarlet2.set_validation(False)  # its checks print, and change nothing
        level, noise = (each[:, None, None] for each in sky_of(blend, conditions))
        light = blend - level
        if conditions is None:
            variance, psf = np.broadcast_to(noise**2, blend.shape), None
            channels = [str(band) for band in range(len(blend))]
        else:
            variance, channels = conditions.variance, list(conditions.bands)
            psf = scarlet2.ArrayPSF(jnp.asarray(conditions.psfs, "float32"))
        observation = scarlet2.Observation(
            jnp.asarray(light, "float32"),
            jnp.asarray(1 / variance, "float32"),
            psf=psf,
            channels=channels,
        )
        if psf is None:
            frame = scarlet2.Frame(scarlet2.Box(blend.shape), channels=channels)
        else:
            frame = scarlet2.Frame.from_observations(observation)
        with scarlet2.Scene(frame) as scene:
            for x, y in positions:
                self._add_source(observation, light, jnp.array([y, x], "float32"))
        with scarlet2.Parameters(scene):
            for number, source in enumerate(scene.sources):
                self._free(source, number)
        fitted = scene.fit(
            observation, max_iter=self.steps, e_rel=self.tolerance, progress_bar=False
        )
        models = np.stack(
            [
                np.asarray(observation.render(fitted.evaluate_source(source)))
                for source in fitted.sources
            ]
        )
        # every fit is compiled anew, and what was compiled for it would stay in memory
        jax.clear_caches()
        if self.light == "model":
            return Found(np.broadcast_to(level, blend.shape), models)
        parts = models.clip(0) / (models.clip(0).sum(axis=0) + noise)
        sky = level + light * (1 - parts.sum(axis=0))
        return Found(sky, light * parts)

    def _add_source(self, observation, light, center):
        """Add a source to the scene that is open, with a first guess."""
        import jax.numpy as jnp
        import scarlet2

        peak = _around(light, np.asarray(center)).clip(1e-3)
        # covers the image from where the source may go
        reach = max(max(at, side - at) for at, side in zip(center, light.shape[1:], strict=True))
        reach = reach if self.reach is None else min(reach, self.reach)
        size = 2 * int(np.ceil(reach + _FREE)) + 1
        if self.morphology == "sersic":
            profile = scarlet2.SersicMorphology(
                n=jnp.array(1.0), size=jnp.array(5.0), ellipticity=jnp.array([1e-3, 1e-3]),
                shape=(size, size),
            )  # fmt: skip
            # such a profile is 1 at its half-light radius, and some five times that within
            scarlet2.Source(center, jnp.asarray(peak / 5, "float32"), profile)
            return
        try:
            spectrum, image = scarlet2.init.from_gaussian_moments(observation, center)
        except (ValueError, IndexError):  # no Gaussian has such moments: they see the other galaxy
            spectrum, image = peak, scarlet2.GaussianMorphology(3.0)()
        odd = len(image) - 1 + len(image) % 2  # so that a pixel is in the middle
        image = np.asarray(image)[:odd, :odd]
        image = np.pad(image, max(0, (size - odd) // 2), constant_values=1e-6)
        spectrum = jnp.maximum(jnp.asarray(spectrum, "float32"), 1e-3)
        scarlet2.Source(center, spectrum, jnp.asarray(image, "float32").clip(1e-6))

    def _free(self, source, number):
        """Name what is to be fitted of a source, with step sizes for a picture."""
        import scarlet2
        from numpyro.distributions import constraints

        positive = constraints.positive
        relative = partial(scarlet2.relative_step, factor=0.05)
        if self.morphology == "pixels":
            scarlet2.Parameter(source.spectrum, f"spectrum{number}", positive, stepsize=relative)
            scarlet2.Parameter(source.morphology, f"image{number}", positive, stepsize=0.1)
            return
        profile, center = source.morphology, source.center
        near = constraints.interval(center - _FREE, center + _FREE)
        for node, name, constraint, step in (
            (source.spectrum, "spectrum", positive, 0.05),
            (profile.size, "size", positive, 0.05),
            (profile.ellipticity, "ellipticity", scarlet2.constraint.unit_disk, 0.03),
            (profile.n, "n", constraints.interval(0.4, 6.0), 0.03),
            (center, "center", near, 0.03),
        ):
            scarlet2.Parameter(node, f"{name}{number}", constraint, stepsize=step)

    @property
    def _of_field(self):
        return replace(self, **self.for_survey, reach=32)

    @property
    def field_settings(self):
        """Settings of `find`."""
        return self._of_field.settings

    def find(self, seen, positions):
        """Return the `Catalogue` of the fitted models."""
        noise = np.median(seen.error, axis=(1, 2))
        planes = noise[:, None, None]
        every = [band.name for band in get_survey(seen.survey).bands]
        psfs = draw_psfs(seen.survey)[[every.index(band) for band in seen.bands]]
        variance = np.where(seen.mask, np.inf, (seen.error / planes) ** 2)
        conditions = Conditions(variance, psfs, seen.bands)
        light = self._of_field.split(seen.data / planes, positions, conditions).light
        found = Catalogue.empty(len(light), len(noise))
        found.flux[:] = light.sum(axis=(2, 3)) * noise
        whole = np.ones(light.shape[2:], bool)
        for k, one in enumerate(light):
            found.position[k] = moments(one, whole).centroid
        found.ellipticity[:] = ellipticity_of(light, np.ones(len(noise)))
        return found


def _around(light, center):
    """Mean of the 3x3 pixels around a position (y, x), shape (bands,)."""
    y, x = (int(np.clip(round(c), 1, n - 2)) for c, n in zip(center, light.shape[1:], strict=True))
    return light[:, y - 1 : y + 2, x - 1 : x + 2].mean(axis=(1, 2))


#: Classes of other deblenders by name, in the order of the tables. Defaults are the settings of
#: the highest mean PSNR that `tune` finds on blends of the ``val`` split.
PEERS = {peer.name: peer for peer in (Photutils, SEP, Scarlet2)}
#: Instances with settings for blends of surveys: those of the lowest mean error of the flux that
#: `tune` finds, on other blends than those of the benchmark.
SURVEY_PEERS = {name: peer(**peer.for_survey) for name, peer in PEERS.items()}
