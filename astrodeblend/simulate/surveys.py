"""Surveys: pixel scale, bands, depth and seeing, and the noise that follows."""

import math
import numbers
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

#: AB magnitude of 1 nJy, the unit of simulated fluxes (Oke & Gunn 1983: 0 mag is 3631 Jy).
AB_NANOJANSKY = 2.5 * math.log10(3631e9)

#: Effective wavelengths in nm of bands known by name: LSST's (Ivezic et al. 2019, ApJ 873, 111).
WAVELENGTHS = {"u": 368, "g": 486, "r": 625, "i": 756, "z": 870, "y": 972, "Y": 990}

#: Profiles of PSFs.
PSFS = ("moffat", "gaussian", "kolmogorov")


@dataclass(frozen=True)
class Band:
    """One band of a survey's coadded images.

    Parameters
    ----------
    name : str
        Name of the band.
    psf_fwhm : float
        Full width at half maximum of the PSF, without the pixel, in arcsec.
    depth : float
        AB magnitude detected at ``depth_sigma``.
    zero_point : float
        AB magnitude of a source that gives one electron per second; for the photon noise.
    exposure : float
        Exposure time of the coadd in seconds; for the photon noise.
    wavelength : float, optional
        Effective wavelength in nm; follows from the name for u, g, r, i, z, y, Y.
    depth_sigma : float, optional
        Significance at which the depth is stated.
    depth_aperture : float, optional
        Diameter in arcsec of the aperture for which the depth is stated. Default: that of a point
        source, measured with the PSF as weights.
    psf : {'moffat', 'gaussian', 'kolmogorov'}, optional
        Profile of the PSF.
    beta : float, optional
        Exponent of the Moffat profile (Moffat 1969).

    Raises
    ------
    ValueError
        If a number is not positive or finite, the profile is not known, or a wavelength is
        missing.
    """

    name: str
    psf_fwhm: float
    depth: float
    zero_point: float
    exposure: float
    wavelength: float | None = None
    depth_sigma: float = 5.0
    depth_aperture: float | None = None
    psf: str = "moffat"
    beta: float = 3.5

    def __post_init__(self):
        if self.wavelength is None:
            if self.name not in WAVELENGTHS:
                raise ValueError(
                    f"band {self.name!r} needs its wavelength in nm; only "
                    f"{', '.join(WAVELENGTHS)} are known by name"
                )
            object.__setattr__(self, "wavelength", float(WAVELENGTHS[self.name]))
        positive = ["psf_fwhm", "exposure", "wavelength", "depth_sigma", "beta"]
        if self.depth_aperture is not None:
            positive.append("depth_aperture")
        for name in (*positive, "depth", "zero_point"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"{name}={value!r} of band {self.name!r}: give a number")
            if not math.isfinite(value) or (name in positive and value <= 0):
                what = "positive" if name in positive else "finite"
                raise ValueError(f"{name}={value!r} of band {self.name!r}: give a {what} number")
        if self.psf not in PSFS:
            raise ValueError(
                f"psf={self.psf!r} of band {self.name!r}: choose one of {', '.join(PSFS)}"
            )
        if self.psf == "moffat" and self.beta <= 1:
            raise ValueError(f"beta={self.beta!r} of band {self.name!r}: give one above 1")

    @property
    def electrons(self):
        """Electrons that 1 nJy gives over the exposure."""
        return self.exposure * 10 ** (0.4 * (self.zero_point - AB_NANOJANSKY))

    @property
    def psf_area(self):
        """Effective area of the PSF in arcsec^2: its sky noise is that of a point source's flux.

        It is 1 / integral of p^2 for a PSF p. Gaussian: 4 pi sigma^2; Moffat of core radius a:
        pi a^2 (2 beta - 1) / (beta - 1)^2; Kolmogorov: 3.07 FWHM^2 (numerically).
        """
        if self.psf == "gaussian":
            return math.pi * self.psf_fwhm**2 / (2 * math.log(2))
        if self.psf == "moffat":
            core = self.psf_fwhm / (2 * math.sqrt(2 ** (1 / self.beta) - 1))
            return math.pi * core**2 * (2 * self.beta - 1) / (self.beta - 1) ** 2
        return KOLMOGOROV_AREA * self.psf_fwhm**2

    @property
    def point_depth(self):
        """AB magnitude of a point source at 5 sigma, measured with the PSF as weights."""
        change = self.depth_sigma / 5
        if self.depth_aperture is not None:
            change /= math.sqrt(self.psf_area / (math.pi * self.depth_aperture**2 / 4))
        return self.depth + 2.5 * math.log10(change)

    def sky_noise(self, pixel_scale):
        """Return the standard deviation of the sky in a pixel.

        Parameters
        ----------
        pixel_scale : float
            Width of a pixel in arcsec.

        Returns
        -------
        float
            In nJy.
        """
        limit = 10 ** (0.4 * (AB_NANOJANSKY - self.point_depth))
        return limit / 5 * pixel_scale / math.sqrt(self.psf_area)


@dataclass(frozen=True)
class Survey:
    """A survey's coadded images.

    Parameters
    ----------
    name : str
        Name of the survey.
    pixel_scale : float
        Width of a pixel in arcsec.
    bands : sequence of Band
        Bands in the order of the images, each a `Band` or a mapping of its parameters.
    description : str, optional
        Description in one line.

    Raises
    ------
    ValueError
        If the pixel scale is not positive, or there are no bands or two of one name.
    """

    name: str
    pixel_scale: float
    bands: tuple[Band, ...]
    description: str = ""

    def __post_init__(self):
        if not isinstance(self.pixel_scale, numbers.Real) or not 0 < self.pixel_scale < math.inf:
            raise ValueError(
                f"pixel_scale={self.pixel_scale!r} of survey {self.name!r}: give arcsec per pixel"
            )
        bands = tuple(_make(Band, band, "band") for band in self.bands)
        names = [band.name for band in bands]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"survey {self.name!r} has the bands {names}; give at least one, each name once"
            )
        object.__setattr__(self, "bands", bands)

    def __str__(self):
        lines = [
            f"{self.name}: {self.description or 'a survey'}, {self.pixel_scale:g} arcsec per pixel",
            "band       nm  FWHM (arcsec)  depth (5 sigma)  zero point  exposure (s)  sky (nJy)",
        ]
        for band in self.bands:
            sky = band.sky_noise(self.pixel_scale)
            lines.append(
                f"{band.name:<6} {band.wavelength:>6g}  {band.psf_fwhm:>13.2f}"
                f"  {band.point_depth:>15.2f}  {band.zero_point:>10.2f}  {band.exposure:>12g}"
                f"  {sky:>9.4g}"
            )
        return "\n".join(lines)

    def select(self, names):
        """Return the survey with these bands, in this order.

        Parameters
        ----------
        names : sequence of str
            Names of bands, or a string of one-letter names.

        Raises
        ------
        ValueError
            If there is no band of that name.
        """
        known = {band.name: band for band in self.bands}
        wrong = [name for name in names if name not in known]
        if wrong:
            raise ValueError(
                f"bands={names!r}: survey {self.name!r} has {', '.join(known)}, not "
                f"{', '.join(wrong)}"
            )
        return replace(self, bands=tuple(known[name] for name in names))

    @property
    def reference(self):
        """The band in which magnitudes are drawn: the one nearest to i (756 nm)."""
        return min(self.bands, key=lambda band: abs(band.wavelength - WAVELENGTHS["i"]))


# Integral of p^2 for Kolmogorov turbulence, exp(-(k / k0)^(5/3)) in Fourier space, with
# FWHM = 2.9207 / k0: the area is 2 pi / (k0^2 integral of x exp(-2 x^(5/3)) dx).
KOLMOGOROV_K0 = 2.9207  # k0 x FWHM
KOLMOGOROV_AREA = 2 * math.pi / (0.6 * math.gamma(1.2) * 2**-1.2) / KOLMOGOROV_K0**2


def _make(kind, values, what):
    """Make a Band or Survey from a mapping of its parameters; refuse other keys."""
    if isinstance(values, kind):
        return values
    if not isinstance(values, dict):
        raise TypeError(f"{what} {values!r}: give a mapping of parameters to values")
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    wrong, missing = sorted(values.keys() - known), sorted(needed - values.keys())
    if wrong or missing:
        raise ValueError(
            f"{what} {values.get('name', values)!r}"
            + (f" has no parameter {', '.join(wrong)}" if wrong else "")
            + (" and" if wrong and missing else "")
            + (f" lacks {', '.join(missing)}" if missing else "")
            + f"; it takes {', '.join(sorted(known))}"
        )
    return kind(**values)


def get_survey(name):
    """Return a survey by its name or from a file.

    Parameters
    ----------
    name : str, path-like or Survey
        One of ``SURVEYS``, or a YAML file with the parameters of `Survey` and, under ``bands``,
        those of each `Band`; a `Survey` is returned unchanged.

    Raises
    ------
    ValueError
        If there is no such survey, or the file does not describe one.
    FileNotFoundError
        If there is no such file.
    """
    if isinstance(name, Survey):
        return name
    if name in SURVEYS:
        return SURVEYS[name]
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(
            f"survey={str(name)!r} is not known; choose one of {', '.join(SURVEYS)}, or give a "
            ".yaml file"
        )
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"survey={str(name)!r} is not YAML: {error}") from error
    if isinstance(values, dict):
        values = {"name": path.stem} | values
        if not isinstance(values.get("bands", []), list):
            raise ValueError(f"survey={str(name)!r}: give bands as a list, one entry each")
    try:
        return _make(Survey, values, "survey")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{str(name)!r}: {error}") from error


def _survey(name, pixel_scale, description, names, **columns):
    """Make a survey from one tuple per parameter, or one value for all bands."""
    bands = []
    for k, band in enumerate(names):
        values = {key: v[k] if isinstance(v, tuple) else v for key, v in columns.items()}
        bands.append(Band(band, **values))
    return Survey(name, pixel_scale, tuple(bands), description)


#: The surveys known by name.
#:
#: - ``lsst``: Ivezic et al. (2019, ApJ 873, 111). Depth: the idealised 10-year coadds of Table 1.
#:   Exposure: its numbers of visits (56, 80, 184, 184, 160, 160) of 30 s. Seeing: Table 2 at
#:   zenith, times airmass^0.6 at airmass 1.2. Pixels: 0.2 arcsec.
#: - ``hsc``: the Wide layer of HSC-SSP; depth, seeing and exposure: Aihara et al. (2022, PASJ 74,
#:   247), Table 1. Pixels: 0.168 arcsec (Aihara et al. 2018, PASJ 70, S4).
#: - ``des``: DES DR2, Abbott et al. (2021, ApJS 255, 20): depth at S/N 10 in apertures of 1.95
#:   arcsec, seeing, and pixels. Exposure: 10 visits of 90 s, 450 s in Y (Abbott et al. 2018,
#:   ApJS 239, 18).
#: - ``sdss``: York et al. (2000, AJ 120, 1579); Abazajian et al. (2009, ApJS 182, 543). Depth:
#:   medians for point sources of the DR16 web page on imaging. Seeing: its median 1.32 arcsec in
#:   r, scaled by wavelength^-0.2. Exposure: 53.9 s. Pixels: 0.396 arcsec.
#:
#: Zero points, through the atmosphere at airmass 1.2 to 1.3, are those of the package surveycodex
#: (LSST Dark Energy Science Collaboration), which integrates the published filter curves. PSFs are
#: Moffat profiles of beta = 3.5, between the 3 of Racine (1996, PASP 108, 699) and the 4.765 of
#: ideal turbulence (Trujillo et al. 2001, MNRAS 328, 977).
SURVEYS = {
    survey.name: survey
    for survey in (
        _survey(
            "lsst", 0.2, "LSST, coadds of ten years", "ugrizy",
            depth=(26.1, 27.4, 27.5, 26.8, 26.1, 24.9),
            psf_fwhm=(0.90, 0.86, 0.81, 0.79, 0.77, 0.76),
            exposure=(1680, 2400, 5520, 5520, 4800, 4800),
            zero_point=(26.40, 28.26, 28.10, 27.78, 27.39, 26.56),
        ),
        _survey(
            "hsc", 0.168, "Hyper Suprime-Cam SSP, Wide layer", "grizy",
            depth=(26.5, 26.5, 26.2, 25.2, 24.4),
            psf_fwhm=(0.79, 0.75, 0.61, 0.68, 0.68),
            exposure=(600, 600, 1200, 1200, 1200),
            zero_point=(28.90, 28.86, 28.61, 27.68, 27.34),
            wavelength=(484, 626, 773, 891, 979),
        ),
        _survey(
            "des", 0.263, "Dark Energy Survey, DR2", "grizY",
            depth=(24.7, 24.4, 23.8, 23.1, 21.7),
            depth_sigma=10,
            depth_aperture=1.95,
            psf_fwhm=(1.11, 0.95, 0.88, 0.83, 0.90),
            exposure=(900, 900, 900, 900, 450),
            zero_point=(26.72, 26.99, 26.86, 26.58, 25.56),
            wavelength=(489, 647, 785, 920, 989),
        ),
        _survey(
            "sdss", 0.396, "Sloan Digital Sky Survey", "ugriz",
            depth=(22.15, 23.13, 22.70, 22.20, 20.71),
            psf_fwhm=(1.47, 1.39, 1.32, 1.27, 1.23),
            exposure=53.9,
            zero_point=(23.58, 25.73, 25.62, 25.28, 23.30),
            wavelength=(361, 475, 621, 753, 895),
        ),
    )
}  # fmt: skip
