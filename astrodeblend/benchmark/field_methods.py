"""Deblenders of whole fields behind one call: an image goes in, a catalogue comes out."""

from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty
from photutils.segmentation import (
    SegmentationImage,
    SourceCatalog,
    deblend_sources,
    detect_sources,
    make_2dgaussian_kernel,
)
from scipy.ndimage import convolve

from astrodeblend.calibration import Calibration
from astrodeblend.detect import find_sources
from astrodeblend.light import LIGHTS
from astrodeblend.metrics import moments
from astrodeblend.simulate import draw_psfs, get_survey
from astrodeblend.weights import read_card

from .peers import SURVEY_PEERS, Conditions

__all__ = [
    "FIELD_PEERS",
    "Catalogue",
    "FieldMethod",
    "FieldModel",
    "OtherLight",
    "Seen",
    "ellipticity_of",
]

_OUTLINE = 1.5  # of the noise of all bands together: shapes of light alone are measured above it


class Seen(NamedTuple):
    """What a deblender is shown of a field.

    Attributes
    ----------
    data, error : numpy.ndarray
        Flux and its standard deviation, shape (bands, y, x).
    mask : numpy.ndarray of bool
        Where there are no data, shape (bands, y, x).
    survey : str, path-like or Survey
        Whose field it is.
    bands : tuple of str
        Their names.
    """

    data: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    survey: object
    bands: tuple[str, ...]

    @property
    def psf(self):
        """Width of the PSF at half maximum in each band, in pixels."""
        survey = get_survey(self.survey)
        width = {band.name: band.psf_fwhm / survey.pixel_scale for band in survey.bands}
        return [width[name] for name in self.bands]

    @property
    def detection(self):
        """The sum of the bands over their noise, of deviation 1; and where none has data."""
        known = ~self.mask
        light = np.where(known, self.data / self.error, 0).sum(axis=0, dtype=float)
        return light / np.sqrt(known.sum(axis=0).clip(min=1)), ~known.any(axis=0)

    @property
    def image(self):
        """The same as `~astropy.nddata.NDData`."""
        error = StdDevUncertainty(self.error)
        return NDData(self.data, uncertainty=error, mask=self.mask, unit="nJy")


class Catalogue(NamedTuple):
    """What a deblender says of m sources.

    Attributes
    ----------
    position : numpy.ndarray
        Shape (m, 2): x and y in pixels.
    flux, error : numpy.ndarray
        Shape (m, bands); NaN where it says nothing.
    ellipticity : numpy.ndarray
        Shape (m,), complex: (1 - q^2) / (1 + q^2) exp(2i angle), q the axis ratio.
    """

    position: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    ellipticity: np.ndarray

    @classmethod
    def empty(cls, number, bands):
        """Return a catalogue of sources of which nothing is known."""
        flux = np.full((2, number, bands), np.nan)
        return cls(np.full((number, 2), np.nan), *flux, np.full(number, np.nan, complex))


def ellipticity_of(light, noise):
    """Measure the ellipticity of sources, each alone and without noise.

    Parameters
    ----------
    light : numpy.ndarray
        Shape (m, bands, y, x).
    noise : numpy.ndarray
        Of the sky, shape (m, bands) or (bands,).

    Returns
    -------
    numpy.ndarray
        Shape (m,), as `Catalogue` has it: by moments of the sum of the bands over their noise,
        where that is above 1.5 deviations of its noise, or half its peak if that is less.
    """
    light = (light / noise[..., None, None]).sum(axis=1) / np.sqrt(light.shape[1])
    least = np.minimum(_OUTLINE, light.max(axis=(1, 2)) / 2)
    return moments(light[:, None], light > least[:, None, None]).distortion


def _distortion(major, minor, angle):
    with np.errstate(invalid="ignore", divide="ignore"):
        return (major**2 - minor**2) / (major**2 + minor**2) * np.exp(2j * angle)


class FieldMethod:
    """A deblender of fields.

    To compare with one more, derive a class, give it the attributes and ``__call__``, and hand an
    instance to `benchmark_fields` among ``peers``.

    Attributes
    ----------
    name, version, given : str
        Of the deblender, and what it is told.
    settings : dict
        What else there is to say.
    finds, splits : bool
        Whether it detects sources, and whether it takes given positions.
    wide : float
        How many of its errors should hold 95.4 % of the fluxes.
    timed : bool
        Whether it does all of the work itself.
    """

    name, version, given = "", "", "the image and its noise"
    settings: ClassVar[dict] = {}
    finds, splits, wide, timed = True, True, 2.0, True

    def __call__(self, seen, positions=None):
        """Find and split the sources of a field.

        Parameters
        ----------
        seen : Seen
            What is known of the field.
        positions : numpy.ndarray, optional
            Shape (m, 2): where sources are. Default: they are detected.

        Returns
        -------
        Catalogue
            Of given positions in their order.
        """
        raise NotImplementedError


class _Package(FieldMethod):
    """A deblender of another package."""

    @property
    def peer(self):
        return SURVEY_PEERS[self.name]

    @property
    def version(self):
        return self.peer.version


class Photutils(_Package):
    """Segments of the bands together, deblended; Kron fluxes, neighbours' pixels replaced."""

    name = "photutils"
    given = "the image and its noise; given positions divide its segments by watershed"
    settings: ClassVar = {"n_sigma": 1.5, "n_pixels": 10, "smoothing": 3.0}

    def __call__(self, seen, positions=None):
        """Return the `Catalogue` of what is found, or of given positions."""
        light, nowhere = seen.detection
        n_sigma, n_pixels, smoothing = self.settings.values()
        smooth = convolve(light, make_2dgaussian_kernel(smoothing, size=5).array)
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
        found.ellipticity[rows] = _distortion(*axes, shapes.orientation.to_value("rad"))
        for band, (data, error, mask) in enumerate(
            zip(seen.data, seen.error, seen.mask, strict=True)
        ):
            measured = SourceCatalog(
                data, segments, error=error, mask=mask, detection_catalog=shapes
            )
            found.flux[rows, band] = measured.kron_flux
            found.error[rows, band] = measured.kron_flux_err
        return found


class SEP(_Package):
    """Detection, deblending and automatic apertures of SExtractor, neighbours masked in them."""

    name = "sep"
    settings: ClassVar = {"n_sigma": 2.0, "n_pixels": 5, "kron": 2.5, "least_radius": 1.75}
    splits = False

    def __call__(self, seen, positions=None):
        """Return the `Catalogue` of what is found."""
        import sep

        light, nowhere = seen.detection
        n_sigma, n_pixels, factor, least = self.settings.values()
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
        return Catalogue(np.stack([x, y], axis=1), flux, error, _distortion(major, minor, angle))


class Scarlet2(_Package):
    """Sérsic profiles fitted to the whole field, sources where others have found them."""

    name = "scarlet2"
    given = "the image, its noise, the PSFs, and positions: the first deblender's detections"
    finds = False
    fit = replace(SURVEY_PEERS["scarlet2"], reach=32)
    settings: ClassVar = fit.settings

    def __call__(self, seen, positions):
        """Return the `Catalogue` of the fitted models."""
        noise = np.median(seen.error, axis=(1, 2))
        planes = noise[:, None, None]
        every = [band.name for band in get_survey(seen.survey).bands]
        psfs = draw_psfs(seen.survey)[[every.index(band) for band in seen.bands]]
        variance = np.where(seen.mask, np.inf, (seen.error / planes) ** 2)
        conditions = Conditions(variance, psfs, seen.bands)
        light = self.fit(seen.data / planes, positions, conditions).light
        found = Catalogue.empty(len(light), len(noise))
        found.flux[:] = light.sum(axis=(2, 3)) * noise
        whole = np.ones(light.shape[2:], bool)
        for k, one in enumerate(light):
            found.position[k] = moments(one, whole).centroid
        found.ellipticity[:] = ellipticity_of(light, np.ones(len(noise)))
        return found


class FieldModel(FieldMethod):
    """A model of the package, as `Deblender.deblend_scene` applies it.

    Parameters
    ----------
    deblender : Deblender
        With a model of linear flux.
    """

    def __init__(self, deblender):
        card = deblender.card
        if card.crowded:
            card = read_card(card.crowded)
        self.deblender, self.name, self.version = deblender, card.name, card.sha256[:8]
        self.calibration = Calibration(**card.calibration).of_scenes()
        light = "network" if card.network.get("kind") == "field" else "apportioned"
        self.wide = self.calibration.of_light(light).interval_95["flux"]
        self.light, self.other = light, LIGHTS[LIGHTS.index(light) - 1]
        self.settings = {"arithmetic": deblender.arithmetic}
        self.scenes = {}  # the last ones, by whether positions were given

    def __call__(self, seen, positions=None):
        """Return the `Catalogue` of a scene."""
        scene = self.deblender.deblend_scene(seen.image, positions=positions, psf=seen.psf)
        self.scenes[positions is not None] = scene
        return self.catalogue(scene)

    @staticmethod
    def catalogue(scene):
        """Return the `Catalogue` of a scene."""
        table = scene.catalog
        axes = (table[f"semi{name}_axis"].value for name in ("major", "minor"))
        return Catalogue(
            np.stack([table["x_centroid"], table["y_centroid"]], axis=1),
            np.asarray(table["segment_flux"].value),
            np.asarray(table["segment_flux_err"].value),
            _distortion(*axes, table["orientation"].to_value("rad")),
        )


class OtherLight(FieldMethod):
    """The other light of the scenes that a model has just made.

    Parameters
    ----------
    model : FieldModel
        Which is asked first.
    """

    timed = False

    def __init__(self, model):
        self.model, self.version = model, model.version
        self.wide = model.calibration.of_light(model.other).interval_95["flux"]
        self.name = f"{model.name}, light {model.other}"

    def __call__(self, seen, positions=None):
        """Return the `Catalogue` of that scene."""
        scene = self.model.scenes[positions is not None]
        return self.model.catalogue(scene.with_light(self.model.other))


#: Other deblenders of fields by their names.
FIELD_PEERS = {"photutils": Photutils, "sep": SEP, "scarlet2": Scarlet2}
