"""Simulated blends of surveys: linear flux, PSF, photon and sky noise.

The reference implementation, in GalSim, for tests and benchmarks. `SurveyStream` draws the same
sources in batches, for training.
"""

import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ..metrics import isophote, moments
from .populations import (
    GALAXY,
    IMAGE,
    Sources,
    draw_brightest,
    draw_layout,
    draw_sources,
    get_chances,
)
from .surveys import Survey, get_survey


@dataclass(frozen=True, eq=False)
class SurveyBlends:
    """Simulated blends of a survey with known truth; made by `simulate_blends`.

    There are n blends of up to s sources in b bands; fluxes are in nJy.

    Attributes
    ----------
    survey : Survey
        The survey, with the bands of the images.
    blend : numpy.ndarray
        Shape (n, b, y, x), float32: the sum of the isolated sources plus noise.
    isolated : numpy.ndarray
        Shape (n, s, b, y, x), float32: each source alone, convolved with the PSF, without noise;
        the one in the middle first.
    noise : numpy.ndarray
        Shape (n, b): standard deviation of the sky in a pixel.
    variance : numpy.ndarray
        Shape (n, b, y, x), float32: variance of the blend, from sky and photons of the sources.
    present : numpy.ndarray
        Shape (n, s): whether the source exists.
    position : numpy.ndarray
        Shape (n, s, 2): x and y of the sources in pixels.
    sources : Sources
        Parameters of the n s sources, those of a blend in sequence.
    flux : numpy.ndarray
        Shape (n, s, b): total flux of each source, in the stamp and beyond.
    """

    survey: Survey
    blend: np.ndarray
    isolated: np.ndarray
    noise: np.ndarray
    variance: np.ndarray
    present: np.ndarray
    position: np.ndarray
    sources: Sources
    flux: np.ndarray

    def __len__(self):
        return len(self.blend)

    def __str__(self):
        least, most = (f(self.present.sum(axis=1)) for f in (min, max))
        number = str(most) if least == most else f"{least} to {most}"
        bands = ", ".join(band.name for band in self.survey.bands)
        return f"{len(self)} blends of {number} sources as {self.survey.name} sees them in {bands}"

    def truth(self):
        """Return the true parameters of all sources, one row each, those of a blend in sequence.

        Returns
        -------
        dict of str to numpy.ndarray
            ``blend`` and ``source``: indices; ``kind``: galaxy, star or image; ``image``: index of
            the real galaxy, or -1; ``redshift``; ``magnitude`` in the reference band; ``x``, ``y``:
            position in pixels; ``flux``: in nJy, per band. Measured on the isolated source in the
            reference band, within its isophote at a tenth of the peak
            (`astrodeblend.metrics.moments`): ``x_centroid``, ``y_centroid``, and the distortion
            ``chi_1``, ``chi_2``, (a^2 - b^2) / (a^2 + b^2) times cosine and sine of twice the
            angle.
        """
        blend, source = np.nonzero(self.present)
        which = self.survey.bands.index(self.survey.reference)
        alone = self.isolated[blend, source, which : which + 1].astype(float)
        found = moments(alone, isophote(alone))
        rows = self.sources[np.flatnonzero(self.present)]
        return {
            "blend": blend,
            "source": source,
            "kind": np.array(["galaxy", "star", "image"])[rows.kind],
            "image": rows.image,
            "redshift": rows.redshift,
            "magnitude": rows.magnitude,
            "x": self.position[blend, source, 0],
            "y": self.position[blend, source, 1],
            "flux": self.flux[blend, source],
            "x_centroid": found.centroid[..., 0],
            "y_centroid": found.centroid[..., 1],
            "chi_1": found.distortion.real,
            "chi_2": found.distortion.imag,
        }


def simulate_blends(
    survey, number, *, sources=2, magnitudes=None, slope=0.31, contrast=2.0, separations=None,
    population="mixed", images=None, stars=0.1, bands=None, stamp=64, offset=0.5, rng=None,
    progress=False,
):  # fmt: skip
    """Simulate blends with known truth, as a survey observes them.

    Parameters
    ----------
    survey : str, path-like or Survey
        As `get_survey` takes it.
    number : int
        Number of blends.
    sources : int, sequence of int, or mapping of int to float, optional
        Sources per blend: a number, several of equal probability, or their probabilities.
    magnitudes : tuple of float, optional
        Range of AB magnitudes of all sources in the reference band, the one nearest to i.
        Default: 6.8 to 1.8 magnitudes brighter than the 5 sigma point-source depth, for LSST i
        from 20 to 25.
    slope : float, optional
        Slope of log10 of the number counts per magnitude, 0.31 for galaxies at i = 20 to 25 (LSST
        Science Book 2009, section 3.7.2). 0: uniform.
    contrast : float, optional
        Largest difference in magnitude between the brightest source and the others; uniform.
    separations : tuple of float, optional
        Range of the other sources' distance from the first, in arcsec; uniform. Default: 0.63 to
        3.8 FWHM of the PSF in the reference band, for LSST from 0.5 to 3 arcsec.
    population : {'mixed', 'parametric', 'images'}, optional
        Parametric galaxies, real ones (``images``), or half of each.
    images : Morphologies, optional
        The real galaxies; without them ``mixed`` means ``parametric``.
    stars : float, optional
        Share of stars among the sources.
    bands : sequence of str, optional
        Bands of the survey, in this order. Default: all.
    stamp : int, optional
        Width of the stamps in pixels.
    offset : float, optional
        Largest offset of the first source from the middle of the stamp in pixels, in x and y.
    rng : int or numpy.random.Generator, optional
        Seed or generator of random numbers; the same seed gives the same blends.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    SurveyBlends

    Raises
    ------
    ImportError
        If GalSim is not installed.
    ValueError
        If a range is empty, or there is no such survey, band or population.
    """
    galsim = _import_galsim()
    survey = get_survey(survey)
    if bands is not None:
        survey = survey.select(bands)
    reference = survey.reference
    numbers, chances = get_chances(sources, "sources")
    if number < 1 or stamp < 16:
        raise ValueError(f"number={number!r}, stamp={stamp!r}: give at least 1 blend of 16 pixels")
    if magnitudes is None:
        magnitudes = (reference.point_depth - 6.8, reference.point_depth - 1.8)
    if separations is None:
        separations = (0.63 * reference.psf_fwhm, 3.8 * reference.psf_fwhm)
    _check_range(magnitudes, "magnitudes")
    _check_range(separations, "separations", least=0)
    _check_range((0, contrast), "contrast")
    rng = np.random.default_rng(rng)

    scale = survey.pixel_scale
    most = numbers.max()
    present = np.arange(most) < rng.choice(numbers, number, p=chances)[:, None]
    brightest = draw_brightest(rng, number, magnitudes, slope)
    magnitude, position = draw_layout(
        rng, present, brightest, magnitudes[1], contrast, [limit / scale for limit in separations],
        stamp, offset,
    )  # fmt: skip
    drawn = draw_sources(
        rng, magnitude.ravel(), reference=reference.wavelength, population=population,
        images=images, stars=stars,
    )  # fmt: skip
    fluxes = drawn.fluxes([band.wavelength for band in survey.bands])
    psfs = [_psf(galsim, band) for band in survey.bands]
    shape = (number, most, len(psfs), stamp, stamp)
    isolated = np.zeros(shape, np.float32)
    for k in tqdm(range(number), "simulating", disable=not progress, unit="blend"):
        for s in np.flatnonzero(present[k]):
            row = k * most + s
            shift = tuple(scale * (position[k, s] - (stamp - 1) / 2))
            for b, psf in enumerate(psfs):
                profile = draw_profile(drawn[[row]], fluxes[row, :, b], images).shift(shift)
                image = galsim.Convolve(profile, psf).drawImage(nx=stamp, ny=stamp, scale=scale)
                isolated[k, s, b] = image.array
    noise = np.tile([band.sky_noise(scale) for band in survey.bands], (number, 1))
    electrons = np.array([band.electrons for band in survey.bands])[:, None, None]
    blend, variance = _expose(rng, isolated, noise, electrons)
    return SurveyBlends(
        survey=survey,
        blend=blend,
        isolated=isolated,
        noise=noise,
        variance=variance,
        present=present,
        position=np.where(present[..., None], position, np.nan),
        sources=drawn,
        flux=fluxes.sum(axis=1).reshape(number, most, -1) * present[..., None],
    )


def draw_profile(source, flux, images=None):
    """Return a source as a GalSim object, before the PSF.

    Parameters
    ----------
    source : Sources
        One source.
    flux : array_like
        Shape (3,): fluxes of its components.
    images : Morphologies, optional
        The real galaxies that it refers to.

    Returns
    -------
    galsim.GSObject
        Lengths in arcsec.
    """
    galsim = _import_galsim()
    kind = source.kind[0]
    if kind == IMAGE:
        light = images.light(source.image[0], flux[:2], source.symmetry[0])
        pixel = source.radius[0, 0] / images.radius[source.image[0]]
        image = galsim.Image(light, scale=pixel)
        shown = galsim.InterpolatedImage(image, x_interpolant="linear", flux=float(sum(flux[:2])))
        if flux[2] == 0:
            return shown
        e = source.ellipticity[0, 0]
        q = (1 - e) / (1 + e)
        nucleus = galsim.DeVaucouleurs(source.radius[0, 1] * math.sqrt(q), flux=flux[2])
        nucleus = nucleus.shear(q=q, beta=source.angle[0] * galsim.radians)
        x, y = pixel * images.centres_of(source.image, source.symmetry)[0]
        return shown + nucleus.shift(x, y)
    if kind != GALAXY:
        return galsim.DeltaFunction(flux=float(flux[0]))
    bulge, disk = source.radius[0]
    ratio = (1 - source.ellipticity[0]) / (1 + source.ellipticity[0])
    shears = [galsim.Shear(q=q, beta=source.angle[0] * galsim.radians) for q in ratio]
    # A shear keeps the area; the given radii are along the major axis.
    parts = []
    if flux[0] > 0:
        radius = bulge * math.sqrt(ratio[0])
        parts.append(galsim.DeVaucouleurs(half_light_radius=radius, flux=flux[0]).shear(shears[0]))
    if flux[1] > 0:
        radius = disk * math.sqrt(ratio[1])
        parts.append(galsim.Exponential(scale_radius=radius, flux=flux[1]).shear(shears[1]))
    if flux[2] > 0:
        cos, sin = math.cos(source.angle[0]), math.sin(source.angle[0])
        for u, v, share in source.knots[0]:
            if share > 0:
                x, y = disk * u, disk * ratio[1] * v
                knot = galsim.DeltaFunction(flux=flux[2] * share)
                parts.append(knot.shift(x * cos - y * sin, x * sin + y * cos))
    return galsim.Sum(parts)


def draw_psfs(survey, width=41):
    """Return images of a survey's PSFs.

    Parameters
    ----------
    survey : str, path-like or Survey
        As `get_survey` takes it.
    width : int, optional
        Width of the images in pixels; the PSF is in the middle.

    Returns
    -------
    numpy.ndarray
        Shape (bands, width, width), float32, convolved with the pixel. The sum is 1 less the light
        beyond the image.
    """
    galsim = _import_galsim()
    survey = get_survey(survey)
    size = {"nx": width, "ny": width, "scale": survey.pixel_scale}
    return np.array([_psf(galsim, band).drawImage(**size).array for band in survey.bands])


def _import_galsim():
    try:
        import galsim
    except ImportError as error:
        raise ImportError(
            "survey blends are drawn with GalSim, which is not installed; "
            "pip install 'astrodeblend[galsim]'"
        ) from error
    return galsim


def _psf(galsim, band):
    if band.psf == "moffat":
        return galsim.Moffat(beta=band.beta, fwhm=band.psf_fwhm)
    kind = {"gaussian": galsim.Gaussian, "kolmogorov": galsim.Kolmogorov}[band.psf]
    return kind(fwhm=band.psf_fwhm)


def _check_range(limits, name, least=-math.inf):
    if len(limits) != 2 or not least <= limits[0] <= limits[1] < math.inf:
        raise ValueError(f"{name}={limits!r}: give two numbers, the lower one first")


def _expose(rng, isolated, noise, electrons):
    """Return the blend with noise of photons and sky, and its variance."""
    total = isolated.sum(axis=1, dtype=float)
    expected = np.clip(total, 0, None)
    photons = rng.poisson(expected * electrons) / electrons - expected
    sky = noise[..., None, None]
    blend = total + photons + sky * rng.standard_normal(total.shape)
    variance = sky**2 + expected / electrons
    return blend.astype(np.float32), variance.astype(np.float32)
