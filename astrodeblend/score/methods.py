"""A deblender as a class: a blend goes in and light comes out, or a field and a catalogue."""

import warnings
from dataclasses import asdict, is_dataclass
from importlib import metadata, util
from typing import ClassVar, NamedTuple

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend.calibration import Calibration, ask_in_turn
from astrodeblend.light import LIGHTS, regained
from astrodeblend.metrics import moments
from astrodeblend.simulate import get_survey
from astrodeblend.weights import read_card

_OUTLINE = 1.5  # threshold of `ellipticity_of`, in standard deviations of the summed bands


class Conditions(NamedTuple):
    """Variance, PSFs and bands of a survey's image, in units of the sky's noise in each band."""

    #: (bands, y, x): 1 from the sky, and that of the photons; infinite where masked
    variance: np.ndarray
    psfs: np.ndarray  #: (bands, width, width): PSF of each band
    bands: tuple[str, ...]  #: their names


class Seen(NamedTuple):
    """A field as deblenders are given it."""

    data: np.ndarray  #: (bands, y, x): flux in nJy
    error: np.ndarray  #: its standard deviation
    mask: np.ndarray  #: where there are no data
    survey: object  #: as `astrodeblend.simulate.get_survey` takes it
    bands: tuple[str, ...]  #: their names

    @property
    def psf(self):
        """Width of the PSF at half maximum in each band, in pixels."""
        survey = get_survey(self.survey)
        width = {band.name: band.psf_fwhm / survey.pixel_scale for band in survey.bands}
        return [width[name] for name in self.bands]

    @property
    def detection(self):
        """The sum of the bands over their noise, of deviation 1; and where no band has data."""
        known = ~self.mask
        light = np.where(known, self.data / self.error, 0).sum(axis=0, dtype=float)
        return light / np.sqrt(known.sum(axis=0).clip(min=1)), ~known.any(axis=0)

    @property
    def image(self):
        """The field as `~astropy.nddata.NDData`."""
        error = StdDevUncertainty(self.error)
        return NDData(self.data, uncertainty=error, mask=self.mask, unit="nJy")


class Catalogue(NamedTuple):
    """Sources of a field, as a deblender measures them."""

    position: np.ndarray  #: (m, 2): x and y in pixels
    flux: np.ndarray  #: (m, bands), in nJy
    error: np.ndarray  #: its standard deviation; NaN where none is stated
    ellipticity: np.ndarray  #: (m,), complex: (1 - q^2) / (1 + q^2) exp(2i angle), q the axis ratio

    @classmethod
    def empty(cls, number, bands):
        """Return a catalogue of so many sources, NaN in all columns."""
        flux = np.full((2, number, bands), np.nan)
        return cls(np.full((number, 2), np.nan), *flux, np.full(number, np.nan, complex))

    def of(self, rows):
        """Return the catalogue of some of the sources."""
        return Catalogue(*(each[rows] for each in self))


class Found(NamedTuple):
    """Sources that were found in a blend.

    The image of a source is ``sky`` plus its ``light``; of several sources taken for one galaxy,
    ``sky`` plus the sum of their light.
    """

    sky: np.ndarray  #: (bands, y, x): light of no source
    light: np.ndarray  #: (sources, bands, y, x): light of each source


class Batch(NamedTuple):
    """Some blends of two with their truth."""

    blend: np.ndarray  # (n, bands, y, x)
    isolated: np.ndarray  # (n, 2, bands, y, x)
    positions: np.ndarray  # (n, 2, 2)
    conditions: list | None = None  # `Conditions` of each blend of a survey


class Method:
    """A deblender to score.

    To compare with one more, derive a class, give it a ``name`` and `split`, for blends, or `find`,
    for fields, and hand an instance to `astrodeblend.score.benchmark` or
    `astrodeblend.score.benchmark_fields` among ``peers``. If it is a dataclass, its fields are its
    settings.

    Attributes
    ----------
    name, version : str
        Name and version of the deblender.
    kind : {"peer", "model", "nothing"}
        Another deblender, a model of this package, or the blend as it is.
    given, given_of_survey, given_of_field : str
        What it is told of a picture, of a survey's image and of a field, in words.
    installed : bool
        Whether it can be used; if not, ``hint`` says what would help.
    slow : bool
        Whether it is tried on some of the blends only.
    for_survey : dict
        Settings that differ from the defaults for blends of surveys.
    grid, grid_of_survey : dict of str to tuple
        Values of the settings to choose from, for pictures and for surveys.
    detects, takes_positions : bool
        Whether `find` detects sources, and whether it takes given positions.
    field_settings : dict
        Settings of `find`.
    wide : float
        How many of the stated errors should hold 95.4 % of the fluxes.
    timed : bool
        Whether the time of `find` is that of all the work.
    """

    name, version, kind, hint = "", "", "peer", ""
    given = given_of_survey = "the blend"
    given_of_field = "the image and its noise"
    installed, slow = True, False
    grid: ClassVar[dict[str, tuple]] = {}
    grid_of_survey: ClassVar[dict[str, tuple]] = {}
    for_survey: ClassVar[dict] = {}
    field_settings: ClassVar[dict] = {}
    detects, takes_positions, wide, timed = True, True, 2.0, True

    @property
    def settings(self):
        """All settings, by name."""
        return asdict(self) if is_dataclass(self) else {}

    def split(self, blend, positions, conditions=None):
        """Share the light of a blend out.

        Parameters
        ----------
        blend : numpy.ndarray
            Shape (bands, y, x): a picture, from 0 to 1; of a survey flux above the sky, in units
            of the sky's noise in each band.
        positions : numpy.ndarray
            True positions of the galaxies, shape (n, 2): x and y in pixels, central first.
        conditions : Conditions, optional
            Of a survey's image; a deblender of pictures alone does without this parameter.

        Returns
        -------
        Found
        """
        raise NotImplementedError(f"{self.name} splits no blends")

    def find(self, seen, positions=None):
        """Find and measure the sources of a field.

        Parameters
        ----------
        seen : Seen
            The field.
        positions : numpy.ndarray, optional
            Shape (m, 2): where sources are. Default: they are detected.

        Returns
        -------
        Catalogue
            Of given positions in their order.
        """
        raise NotImplementedError(f"{self.name} finds nothing in fields")

    def deblend_image(self, data, weights, psfs, bands, positions):
        """Deblend a real image of any number of sources, by `split`.

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
            Names of the bands.
        positions : numpy.ndarray
            Positions of the sources, shape (n, 2): x and y in pixels.

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
        found = self.split(np.where(seen, data / noise, 0), positions, conditions)
        return found.light.sum(axis=0) * noise


def ellipticity_of(light, noise):
    """Return the complex ellipticities (m,) of light (m, bands, y, x) without noise.

    By moments of the sum of the bands over the sky's ``noise``, (m, bands) or (bands,), where it is
    above 1.5 standard deviations of its own noise, or half its peak if that is less.
    """
    light = (light / noise[..., None, None]).sum(axis=1) / np.sqrt(light.shape[1])
    least = np.minimum(_OUTLINE, light.max(axis=(1, 2)) / 2)
    return moments(light[:, None], light > least[:, None, None]).distortion


def distortion_of(major, minor, angle):
    """Return the complex ellipticity of ellipses of these axes and angles in radians."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (major**2 - minor**2) / (major**2 + minor**2) * np.exp(2j * angle)


def check_flux(card):
    """Refuse a model that is not for linear flux."""
    if card.scaling != "noise":
        raise ValueError(
            f"model {card.name!r} takes {card.scaling}s; these are linear flux, choose a model "
            "whose scaling is noise"
        )


def attempt(call, *, strict=False):
    """Return what a call returns, its warnings ignored, and why it failed, if it did."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(), ""
    except Exception as error:
        if strict:
            raise
        return None, f"{type(error).__name__}: {error}"  # counted, and the run goes on


class Package(Method):
    """A deblender of another package, whose ``name`` it is imported and installed by."""

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
        """Version of the installed package."""
        return metadata.version(self.name)


class Nothing(Method):
    """The blend itself, taken for both galaxies."""

    name, kind = "the blend itself", "nothing"

    def components(self, batch):
        """Return the components of a batch of blends, and None for their deviations."""
        return np.broadcast_to(batch.blend[:, None], batch.isolated.shape), None


class Model(Method):
    """A model of the package.

    Blends of a survey are asked for every source in turn, in the middle of the stamp, as scenes
    do; fields are given to `astrodeblend.Deblender.deblend_scene`.

    Parameters
    ----------
    deblender : Deblender
    whole : bool, optional
        Score the model for whole fields, where this one hands them over.
    """

    kind, given_of_survey = "model", "the blend, the noise of its sky and the true positions"

    def __init__(self, deblender, *, whole=False):
        card = deblender.card
        if whole and card.crowded:
            card = read_card(card.crowded)
        self.deblender, self.name, self.version = deblender, card.name, card.sha256[:8]
        self.calibration = Calibration(**card.calibration).of_scenes()
        light = "network" if card.network.get("kind") == "field" else "apportioned"
        self.other = LIGHTS[LIGHTS.index(light) - 1]
        self.wide = self.calibration.of_light(light).interval_95["flux"]
        self.field_settings = {"arithmetic": deblender.arithmetic}
        self.scenes = {}  # the last ones, by whether positions were given

    def components(self, batch):
        """Return the components of a batch of blends, and their deviations or None."""
        if batch.conditions is None:
            return np.asarray(self.deblender.deblend_arrays(batch.blend)), None
        components, std = ask_in_turn(self._answer, batch.blend, batch.positions)
        return components * regained(batch.blend, components.sum(axis=1), 1.0)[:, None], std

    def _answer(self, stamps, positions):
        options = {"positions": positions, "std": "predicted"}
        components, std = self.deblender.deblend_arrays(stamps, **options)
        return components, self.calibration.std(std, components, stamps[:, None])

    def find(self, seen, positions=None):
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
            distortion_of(*axes, table["orientation"].to_value("rad")),
        )


class OtherLight(Method):
    """The other kind of light, network or apportioned, of the scenes a model has just made."""

    kind, timed = "model", False

    def __init__(self, model):
        self.model, self.version = model, model.version
        self.wide = model.calibration.of_light(model.other).interval_95["flux"]
        self.name = f"{model.name}, light {model.other}"

    def find(self, seen, positions=None):
        """Return the `Catalogue` of that scene."""
        scene = self.model.scenes[positions is not None]
        return self.model.catalogue(scene.with_light(self.model.other))
