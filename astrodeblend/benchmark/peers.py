"""Other deblenders behind one call: a blend goes in, the light of every source comes out."""

import warnings
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata, util
from typing import ClassVar, NamedTuple

import numpy as np
from astropy.stats import mad_std
from photutils.segmentation import deblend_sources, detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage

__all__ = ["PEERS", "SEP", "SURVEY_PEERS", "Conditions", "Found", "Peer", "Photutils", "Scarlet2"]

_STEP = 1 / 255  # of a picture: there is no less noise than its rounding
_FREE = 2  # pixels, by which scarlet2 may move a source
_FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations


class Found(NamedTuple):
    """Sources that were found in a blend.

    The image of a source is ``sky`` plus its ``light``; of several sources taken for one
    galaxy, ``sky`` plus the sum of theirs.

    Attributes
    ----------
    sky : numpy.ndarray
        Shape (bands, y, x).
    light : numpy.ndarray
        Of each source, shape (sources, bands, y, x).
    """

    sky: np.ndarray
    light: np.ndarray


class Conditions(NamedTuple):
    """What is known of an image of a survey, in units of the sky's noise in each band.

    Attributes
    ----------
    variance : numpy.ndarray
        Of every pixel, shape (bands, y, x): 1 from the sky, and that of the photons; infinite
        where a pixel is masked.
    psfs : numpy.ndarray
        Shape (bands, width, width).
    bands : tuple of str
        Their names.
    """

    variance: np.ndarray
    psfs: np.ndarray
    bands: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """A deblender from another package; its fields are its settings.

    The defaults are the settings of the highest mean PSNR that `astrodeblend.benchmark.tune`
    finds on blends of the ``val`` split. To compare with one more deblender, derive a class,
    give it the attributes and ``__call__``, and hand it to `astrodeblend.benchmark.benchmark`.

    Attributes
    ----------
    name : str
        Of the package, as it is imported and installed.
    given, given_of_survey : str
        What it is told of a picture, and of a survey's image.
    slow : bool
        Whether it is to be tried on some of the blends only.
    grid, grid_of_survey : dict of str to tuple
        Values of the settings to choose from, for pictures and for surveys.
    """

    name: ClassVar[str]
    given: ClassVar[str]
    given_of_survey: ClassVar[str] = "the blend"
    slow: ClassVar[bool] = False
    grid: ClassVar[dict[str, tuple]] = {}
    grid_of_survey: ClassVar[dict[str, tuple]] = {}

    def __call__(self, blend, positions, conditions=None):
        """Deblend.

        Parameters
        ----------
        blend : numpy.ndarray
            Shape (bands, y, x): a picture, from 0 to 1; of a survey flux above the sky, in units
            of the sky's noise in each band.
        positions : numpy.ndarray
            Where the galaxies truly are, shape (n, 2): x and y in pixels, central first.
        conditions : Conditions, optional
            Of a survey's image; a peer that is only for pictures does without this parameter.

        Returns
        -------
        Found
        """
        raise NotImplementedError

    def deblend_image(self, data, weights, psfs, bands, positions):
        """Deblend a real image of any number of sources.

        Parameters
        ----------
        data : numpy.ndarray
            Flux above the sky in any unit, shape (bands, y, x).
        weights : numpy.ndarray
            Inverse variances of every pixel, 0 where it is masked. A band's noise is that of the
            quartile with the least.
        psfs : numpy.ndarray
            Shape (bands, width, width).
        bands : sequence of str
            Their names.
        positions : numpy.ndarray
            Of the sources, shape (n, 2): x and y in pixels.

        Returns
        -------
        numpy.ndarray
            All their light, shape (bands, y, x).
        """
        seen = weights > 0
        variance = np.divide(1, weights, out=np.full(weights.shape, np.inf), where=seen)
        noise = np.sqrt([np.quantile(v[s], 0.25) for v, s in zip(variance, seen, strict=True)])
        noise = noise[:, None, None]
        conditions = Conditions(variance / noise**2, psfs, tuple(bands))
        found = self(np.where(seen, data / noise, 0), positions, conditions)
        return found.light.sum(axis=0) * noise

    @property
    def installed(self):
        """Whether the package can be imported."""
        return util.find_spec(self.name) is not None

    @property
    def hint(self):
        """What to say where it is not installed."""
        return f"{self.name} is not installed: pip install astrodeblend[{self.name}]"

    @property
    def version(self):
        """Of the package that is installed."""
        return metadata.version(self.name)

    @property
    def settings(self):
        """All settings, by name."""
        return asdict(self)


@dataclass(frozen=True)
class Photutils(Peer):
    """Segmentation and deblending with photutils: each pixel belongs to one source.

    The mean of the bands above the sky of the stamp's border (of a survey's image the sum of the
    bands, each over its noise) is smoothed, detected (`photutils.segmentation.detect_sources`)
    and separated by multi-thresholding and watershed (`photutils.segmentation.deblend_sources`).

    Parameters
    ----------
    n_sigma : float
        Detection threshold in standard deviations of the sky before smoothing.
    n_pixels : int
        Smallest number of pixels of a source.
    smoothing : float
        Full width at half maximum of the Gaussian kernel, in pixels; 0 for none.
    n_levels : int
        Thresholds between a source's faintest and brightest pixel.
    contrast : float
        Smallest part of the light that makes a source of its own.
    sky : {"blend", "border"}
        What pixels outside all segments keep: the blend's light, or the border's median, which
        is also what a source has where another one is.
    """

    n_sigma: float = 0.5
    n_pixels: int = 5
    smoothing: float = 1.0
    n_levels: int = 32
    contrast: float = 0.001
    sky: str = "blend"

    name: ClassVar[str] = "photutils"
    given: ClassVar[str] = "the blend"
    given_of_survey: ClassVar[str] = "the blend and the noise of its sky"
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

    def __call__(self, blend, positions, conditions=None):
        """Deblend; see `Peer`."""
        level, light, threshold = _grey(blend, self.n_sigma, conditions)
        if self.smoothing:
            light = ndimage.gaussian_filter(light, self.smoothing / _FWHM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoDetectionsWarning)
            segments = detect_sources(light, threshold, self.n_pixels)
        if segments is None:
            return _cut(blend, np.zeros(light.shape, int), level, self.sky)
        segments = deblend_sources(
            light, segments, self.n_pixels, n_levels=self.n_levels, contrast=self.contrast,
            progress_bar=False,
        )  # fmt: skip
        return _cut(blend, segments.data, level, self.sky)


@dataclass(frozen=True)
class SEP(Peer):
    """Segmentation and deblending as in SExtractor, with SEP (Barbary 2016, JOSS 1, 58).

    ``sep.extract`` on the same image as `Photutils`, with its own filter. Each pixel belongs to
    one source.

    Parameters
    ----------
    n_sigma : float
        Detection threshold in standard deviations of the sky.
    n_pixels : int
        Smallest number of pixels of a source (``minarea``).
    n_levels : int
        Thresholds of the deblending (``deblend_nthresh``).
    contrast : float
        Smallest part of the light that makes a source of its own (``deblend_cont``).
    clean : bool
        Whether to drop sources that may come from the wings of brighter ones.
    sky : {"blend", "border"}
        As for `Photutils`.
    """

    n_sigma: float = 0.25
    n_pixels: int = 5
    n_levels: int = 128
    contrast: float = 1e-5
    clean: bool = False
    sky: str = "blend"

    name: ClassVar[str] = "sep"
    given: ClassVar[str] = "the blend"
    given_of_survey: ClassVar[str] = "the blend and the noise of its sky"
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

    def __call__(self, blend, positions, conditions=None):
        """Deblend; see `Peer`."""
        import sep

        level, light, threshold = _grey(blend, self.n_sigma, conditions)
        _, segments = sep.extract(
            np.ascontiguousarray(light), threshold, minarea=self.n_pixels,
            deblend_nthresh=self.n_levels, deblend_cont=self.contrast, clean=self.clean,
            segmentation_map=True,
        )  # fmt: skip
        return _cut(blend, segments, level, self.sky)


@dataclass(frozen=True)
class Scarlet2(Peer):
    """A model of the scene, fitted to the blend, with scarlet2.

    Sources at the true positions, free by 2 pixels, whose light adds.

    A picture has the noise of the stamp's border, and no PSF. What each pixel has above the sky
    goes to the galaxies in proportion to their models, as survey pipelines do; where these are
    below the noise, to both. A survey's image has its variance in every pixel, and the PSF of
    each band, to which the models are convolved.

    Parameters
    ----------
    morphology : {"sersic", "pixels"}
        Sérsic profiles, elliptical; or any positive image, which begins as the Gaussian of
        scarlet2's quick start.
    steps : int
        Of the optimiser, at most.
    tolerance : float
        Largest relative change of a parameter at which it stops.
    light : {"apportioned", "model"}
        What is taken: the blend's light in proportion to the models, or the models.
    reach : int, optional
        How far from its position a source may have light, in pixels. Default: everywhere.
    """

    morphology: str = "sersic"
    steps: int = 300
    tolerance: float = 1e-4
    light: str = "apportioned"
    reach: int | None = None

    name: ClassVar[str] = "scarlet2"
    given: ClassVar[str] = "the blend, its noise and the true positions, no PSF"
    given_of_survey: ClassVar[str] = "the blend, its variance, the PSFs and the true positions"
    slow: ClassVar[bool] = True
    grid: ClassVar[dict[str, tuple]] = {"morphology": ("sersic", "pixels")}
    grid_of_survey: ClassVar[dict[str, tuple]] = {
        "morphology": ("sersic", "pixels"),
        "steps": (300, 1000),
    }

    def __call__(self, blend, positions, conditions=None):
        """Deblend; see `Peer`."""
        import jax
        import jax.numpy as jnp
        import scarlet2

        scarlet2.set_validation(False)  # its checks print, and change nothing
        level, noise = (each[:, None, None] for each in _sky(blend, conditions))
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


#: The peers by their names, in the order of the table.
PEERS = {peer.name: peer for peer in (Photutils, SEP, Scarlet2)}

#: The same with their settings for images of surveys: those of the lowest mean error of the flux
#: that `astrodeblend.benchmark.tune_survey` finds, on other blends than those of the benchmark.
SURVEY_PEERS = {
    peer.name: peer
    for peer in (
        Photutils(),
        SEP(),
        Scarlet2(steps=1000, light="model"),
    )
}


def _border(blend):
    """Level and noise of the sky in the outermost pixels, shape (bands,) each."""
    edge = np.concatenate(
        [blend[:, 0], blend[:, -1], blend[:, 1:-1, 0], blend[:, 1:-1, -1]], axis=1
    ).astype(float)
    return np.median(edge, axis=1), np.maximum(mad_std(edge, axis=1), _STEP / np.sqrt(12))


def _sky(blend, conditions):
    """Level and noise of the sky: of a survey's image these are known."""
    if conditions is None:
        return _border(blend)
    return np.zeros(len(blend)), np.ones(len(blend))


def _grey(blend, n_sigma, conditions):
    """Level of the sky, mean of the bands above it, and the threshold for that."""
    level, noise = _sky(blend, conditions)
    light = blend.mean(axis=0, dtype=float) - level.mean()
    threshold = n_sigma * noise.min() / np.sqrt(len(blend))
    if conditions is None:
        edge = np.concatenate([light[0], light[-1], light[1:-1, 0], light[1:-1, -1]])
        threshold = max(threshold, n_sigma * mad_std(edge))
    return level, light, threshold


def _around(light, center):
    """Mean of the 3x3 pixels around a position (y, x), shape (bands,)."""
    y, x = (int(np.clip(round(c), 1, n - 2)) for c, n in zip(center, light.shape[1:], strict=True))
    return light[:, y - 1 : y + 2, x - 1 : x + 2].mean(axis=(1, 2))


def _cut(blend, segments, level, sky):
    """Give each segment the blend's light in it."""
    level = level[:, None, None]
    labels = np.unique(segments[segments > 0])
    y, x = np.nonzero(segments)
    light = np.zeros((len(labels), *blend.shape), dtype=np.float32)
    light[np.searchsorted(labels, segments[y, x]), :, y, x] = (blend - level)[:, y, x].T
    if sky == "border":
        return Found(np.broadcast_to(level, blend.shape), light)
    return Found(np.where(segments > 0, level, blend), light)
