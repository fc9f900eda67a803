"""Populations of sources: their shapes and spectra, independent of any survey.

Every source is a sum of components, each with one shape and one spectrum; its image in a band is
the sum of these shapes, weighted by their flux.

Parametric galaxies have a bulge (de Vaucouleurs), a disk (exponential) and knots of star
formation in the disk:

- half-light radii, ellipticities and bulge fractions after Miller et al. (2013, MNRAS 429, 2858,
  appendix B): the median scale length of disks is ln(r / arcsec) = -1.145 - 0.269 (i - 23), its
  distribution r exp(-(r / a)^(4/3)); one galaxy in ten is a pure bulge, the bulge fractions of
  others are normal, of width 0.1; half-light radius of the bulge = scale length of the disk;
- redshifts by magnitude after the LSST Science Book (2009, arXiv:0912.0201, section 3.7.2):
  p(z) proportional to z^2 exp(-z / z0), z0 = 0.0417 i - 0.744, at least 0.03;
- spectra of Coleman, Wu & Weedman (1980, ApJS 43, 393), redshifted: E for bulges, from Sbc to Im
  for disks, Im for knots, with slopes scattered by 0.2 in d ln f / d ln wavelength for dust;
- 3 to 20 knots in half of the disks, with up to 0.3 of the disk's light. No distribution of that
  share is published; COSMOS galaxies are about as clumpy (Sheldon et al. 2020, ApJ 902, 138, also
  use knots).

Stars follow the stellar locus of Juric et al. (2008, ApJ 673, 864, equation 4) in g - r against
r - i, that of Covey et al. (2007, AJ 134, 2398) elsewhere, with r - i uniform from 0 to 1.6.

Real galaxies have two components, the redder and the bluer light of each pixel; see
`astrodeblend.simulate.morphology`. They keep their colours in g, r, i; between these the spectrum
of each component is interpolated (linear in log flux and log wavelength); beyond, its slope is 1.3
(blueward) or 0.7 times (redward) that between the nearest two bands, scattered by 0.5 and bounded.
The factors are those of the templates above near redshift 0.1.
"""

from dataclasses import dataclass, fields

import numpy as np

from .surveys import AB_NANOJANSKY

__all__ = [
    "POPULATIONS",
    "Sources",
    "draw_brightest",
    "draw_layout",
    "draw_sources",
    "get_chances",
]

#: Names of populations; see `draw_sources`.
POPULATIONS = ("mixed", "parametric", "images")

#: Kinds of sources.
GALAXY, STAR, IMAGE = 0, 1, 2

#: Half-light radius of an exponential disk in scale lengths.
DISK_HALF_LIGHT = 1.67835

# Coleman, Wu & Weedman (1980), extended to the ultraviolet and infrared by Bolzonella et al.
# (2000, A&A 363, 476): ln f_nu, averaged over 8 % in wavelength; wavelengths in nm.
_CWW_WAVELENGTH = """
90 110 130 170 200 215 230 245 260 275 290 305 320 335 350 365 375 390 405 420 450 480 520 560 600
650 700 760 820 900 1000 1200
"""
_CWW = {
    "E": """
-7.16 -6.28 -6.19 -6.04 -5.52 -5.26 -5.23 -5.19 -4.69 -4.00 -3.43 -3.02 -2.62 -2.40 -2.26 -2.06
-2.02 -1.74 -1.34 -1.09 -0.64 -0.37 -0.23 0.00 0.16 0.31 0.43 0.58 0.66 0.86 1.02 1.13
""",
    "Sbc": """
-5.51 -3.49 -3.25 -3.24 -2.97 -2.88 -2.77 -2.65 -2.53 -2.42 -2.29 -2.13 -1.94 -1.70 -1.48 -1.26
-1.12 -0.91 -0.72 -0.60 -0.39 -0.26 -0.15 0.00 0.08 0.20 0.33 0.46 0.59 0.75 0.93 1.02
""",
    "Scd": """
-4.51 -2.48 -2.25 -2.24 -2.07 -2.05 -2.03 -1.99 -1.93 -1.83 -1.71 -1.58 -1.46 -1.34 -1.24 -1.04
-0.91 -0.73 -0.58 -0.48 -0.30 -0.16 -0.09 0.00 0.08 0.16 0.23 0.31 0.38 0.45 0.53 0.60
""",
    "Im": """
-3.64 -1.62 -1.45 -1.32 -1.17 -1.14 -1.12 -1.10 -1.08 -1.05 -1.02 -0.98 -0.92 -0.85 -0.79 -0.54
-0.43 -0.35 -0.28 -0.23 -0.13 0.02 0.05 0.00 0.08 0.16 0.23 0.32 0.41 0.52 0.64 0.63
""",
}
_LOG_WAVELENGTH = np.log(np.array(_CWW_WAVELENGTH.split(), float))
_TEMPLATES = np.array([text.split() for text in _CWW.values()], float)  # E, Sbc, Scd, Im

# Stellar locus: u - g as a function of g - r; i - z and z - y as functions of r - i.
_LOCUS_GR = (0.0, 0.2, 0.4, 0.8, 1.1, 1.4)
_LOCUS_UG = (0.9, 0.85, 1.05, 1.85, 2.35, 2.55)
_LOCUS_WAVELENGTH = np.log([361, 475, 621, 753, 895, 980])

# ln(wavelength / nm) of SDSS's g, r, i, the bands of the pictures.
IMAGE_WAVELENGTH = np.log([475, 621, 753])

# Slope beyond those bands over the slope inside (blueward, redward), and bounds of the slope.
BEYOND = (1.3, 0.7)
BEYOND_LIMITS = ((-2.0, -2.0), (6.0, 3.0))

KNOTS = 20  # largest number per galaxy


@dataclass(frozen=True)
class Sources:
    """Parameters of n sources, in arrays of length n.

    The components are bulge, disk and knots for a parametric galaxy, redder light, bluer light and
    a nucleus for a real one; a star has the first component only.

    Parameters
    ----------
    kind : numpy.ndarray
        0: parametric galaxy, 1: star, 2: real galaxy.
    magnitude : numpy.ndarray
        AB magnitude at the reference wavelength.
    reference : numpy.ndarray
        Reference wavelength in nm.
    redshift : numpy.ndarray
        Redshift of parametric galaxies; NaN for others.
    share : numpy.ndarray
        Shape (n, 3): share of each component in the flux at the reference wavelength.
    radius : numpy.ndarray
        Shape (n, 2): half-light radius of the bulge and scale length of the disk, in arcsec; for
        real galaxies half-light radius of the image and of the nucleus, which has the profile of a
        bulge.
    ellipticity : numpy.ndarray
        Shape (n, 2): (a - b) / (a + b) of bulge, or nucleus, and disk.
    angle : numpy.ndarray
        Position angle of the major axis, from x to y, in radians.
    knots : numpy.ndarray
        Shape (n, 20, 3): x and y in scale lengths in the face-on disk, and share.
    spectrum : numpy.ndarray
        Shape (n, 3, 5): parameters of each component's spectrum. Parametric galaxies: template
        (0 to 3: E, Sbc, Scd, Im, interpolated between), slope. Real galaxies: ln flux in g, r, i,
        and d ln f / d ln wavelength beyond g and beyond i. Stars: r - i.
    image : numpy.ndarray
        Index of the real galaxy; -1 for other sources.
    symmetry : numpy.ndarray
        Symmetry of the square applied to a real galaxy, as in `Morphologies.light`.
    """

    kind: np.ndarray
    magnitude: np.ndarray
    reference: np.ndarray
    redshift: np.ndarray
    share: np.ndarray
    radius: np.ndarray
    ellipticity: np.ndarray
    angle: np.ndarray
    knots: np.ndarray
    spectrum: np.ndarray
    image: np.ndarray
    symmetry: np.ndarray

    def __len__(self):
        return len(self.kind)

    def __getitem__(self, key):
        """Select some of the sources by a slice or an index array."""
        return Sources(**{field.name: getattr(self, field.name)[key] for field in fields(self)})

    def fluxes(self, wavelength):
        """Return the flux of every component in every band.

        Parameters
        ----------
        wavelength : array_like
            Shape (bands,) or (n, bands), in nm.

        Returns
        -------
        numpy.ndarray
            Shape (n, 3, bands), in nJy.
        """
        shape = (len(self), np.shape(wavelength)[-1])
        wavelength = np.broadcast_to(np.asarray(wavelength, float), shape)
        x = np.log(np.concatenate([self.reference[:, None], wavelength], axis=1))
        log = np.zeros((len(self), 3, x.shape[1]))
        for kind, spectrum in ((GALAXY, _galaxy), (STAR, _star), (IMAGE, _image)):
            of = self.kind == kind
            if of.any():
                log[of] = spectrum(self.spectrum[of], self.redshift[of], x[of])
        relative = np.exp(log[:, :, 1:] - log[:, :, :1])
        total = 10 ** (0.4 * (AB_NANOJANSKY - self.magnitude))
        return total[:, None, None] * self.share[:, :, None] * relative


def _galaxy(spectrum, redshift, x):
    """Return ln f_nu (n, 3, x) of templates at ln wavelength x (n, x), up to a constant."""
    rest = x - np.log1p(redshift)[:, None]
    table = np.array([np.interp(rest, _LOG_WAVELENGTH, template) for template in _TEMPLATES])
    kind, slope = spectrum[:, :, :1], spectrum[:, :, 1:2]
    lower = np.clip(np.floor(kind).astype(int), 0, len(table) - 2)
    row, column = np.arange(len(x))[:, None, None], np.arange(x.shape[1])
    step = kind - lower
    log = (1 - step) * table[lower, row, column] + step * table[lower + 1, row, column]
    return log + slope * x[:, None]


def _star(spectrum, redshift, x):
    ri = spectrum[:, 0, 0]
    gr = 1.39 * (1 - np.exp(-4.9 * ri**3 - 2.45 * ri**2 - 1.68 * ri - 0.05))
    ug = np.interp(gr, _LOCUS_GR, _LOCUS_UG)
    magnitudes = np.stack([ug + gr + ri, gr + ri, ri, 0 * ri, -0.56 * ri, -0.81 * ri], axis=1)
    logs = -0.4 * np.log(10) * magnitudes
    log = [np.interp(at, _LOCUS_WAVELENGTH, of) for at, of in zip(x, logs, strict=True)]
    return np.repeat(np.array(log)[:, None], 3, axis=1)


def _image(spectrum, redshift, x):
    log, blue, red = spectrum[..., :3], spectrum[..., 3:4], spectrum[..., 4:]
    g, r, i = IMAGE_WAVELENGTH
    x = x[:, None]
    inside = np.where(
        x < r,
        log[..., :1] + (log[..., 1:2] - log[..., :1]) * (np.maximum(x, g) - g) / (r - g),
        log[..., 1:2] + (log[..., 2:] - log[..., 1:2]) * (np.minimum(x, i) - r) / (i - r),
    )
    return inside + blue * np.minimum(x - g, 0) + red * np.maximum(x - i, 0)


def _inverse(density, low, high):
    """Return the inverse of the cumulative distribution of a density."""
    x = np.linspace(low, high, 2001)
    cumulative = np.concatenate([[0], np.cumsum(density((x[1:] + x[:-1]) / 2))])
    return lambda uniform: np.interp(uniform, cumulative / cumulative[-1], x)


# Miller et al. (2013), equations B5 and B6.
_disk_ellipticity = _inverse(
    lambda e: e * (1 - np.exp((e - 0.804) / 0.2539)) / ((1 + e) * np.hypot(e, 0.0256)), 0, 0.804
)
_bulge_ellipticity = _inverse(lambda e: e * np.exp(-2.368 * e - 6.691 * e**2), 0, 0.99)


def _draw_knots(rng, n):
    """Draw knots in face-on disks of scale length 1: x, y and share; the shares sum to 1."""
    radius = rng.gamma(2.0, size=(n, KNOTS))
    angle = rng.uniform(0, 2 * np.pi, (n, KNOTS))
    number = rng.integers(3, KNOTS + 1, size=(n, 1))
    share = rng.exponential(size=(n, KNOTS)) * (np.arange(KNOTS) < number)
    share /= share.sum(axis=1, keepdims=True)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), share], axis=-1)


def draw_sources(rng, magnitude, *, reference, population="mixed", images=None, stars=0.1):
    """Draw sources of given magnitudes.

    Parameters
    ----------
    rng : numpy.random.Generator
        Generator of random numbers.
    magnitude : array_like
        Shape (n,): AB magnitudes at the reference wavelength.
    reference : array_like
        Reference wavelength in nm; broadcast against the magnitudes.
    population : {'mixed', 'parametric', 'images'}, optional
        Parametric galaxies, real ones (``images``), or half of each.
    images : Morphologies, optional
        The real galaxies; without them ``mixed`` means ``parametric``.
    stars : float, optional
        Share of stars among the sources.

    Returns
    -------
    Sources
    """
    if population not in POPULATIONS:
        raise ValueError(
            f"population={population!r} is not known; choose one of {', '.join(POPULATIONS)}"
        )
    if population == "images" and images is None:
        raise ValueError("population='images' takes images; give them, or choose 'parametric'")
    if not 0 <= stars <= 1:
        raise ValueError(f"stars={stars!r}: give a share from 0 to 1")
    magnitude = np.asarray(magnitude, float)
    n = len(magnitude)
    chosen = rng.random(n)
    if images is None or population == "parametric":
        real = 0.0
    else:
        real = 1.0 if population == "images" else 0.5
    kind = np.where(rng.random(n) < real, IMAGE, GALAXY)
    kind[chosen < stars] = STAR

    a = np.exp(-1.145 - 0.269 * (magnitude - 23)) / 1.1337  # the median is 1.1337 a
    disk = np.maximum(a * rng.gamma(1.5, size=n) ** 0.75, 0.02)
    alone = rng.random(n) < 0.1
    bulge = np.abs(0.1 * rng.standard_normal(n)).clip(max=1)
    bulge[alone] = 1.0
    knotty = np.where(rng.random(n) < 0.5, rng.uniform(0, 0.3, n), 0.0)
    share = np.stack([bulge, (1 - bulge) * (1 - knotty), (1 - bulge) * knotty], axis=1)
    ellipticity = np.stack(
        [_bulge_ellipticity(rng.random(n)), _disk_ellipticity(rng.random(n))], axis=1
    )
    knots = _draw_knots(rng, n)
    z0 = np.maximum(0.0417 * magnitude - 0.744, 0.03)
    redshift = rng.gamma(3.0, size=n) * z0
    spectrum = np.zeros((n, 3, 5))
    spectrum[:, 1, 0] = rng.uniform(1, 3, n)
    spectrum[:, 2, 0] = 3.0
    spectrum[:, :, 1] = 0.2 * rng.standard_normal((n, 3))
    scatter = 0.5 * rng.standard_normal((n, 2, 2))
    star = rng.uniform(0, 1.6, n)
    angle = rng.uniform(0, np.pi, n)
    symmetry = rng.integers(8, size=n)
    drawn = rng.integers(1 if images is None else len(images), size=n)
    reference = np.broadcast_to(np.asarray(reference, float), (n,)).copy()

    of = kind == STAR
    share[of] = (1, 0, 0)
    spectrum[of, 0, 0] = star[of]
    of = kind == IMAGE
    index = np.where(of, drawn, -1)
    if of.any():
        spectrum[of] = 0
        log = np.log(images.spectra[index[of]])
        slopes = np.diff(log) / np.diff(IMAGE_WAVELENGTH)
        beyond = np.clip(slopes * BEYOND + scatter[of], *BEYOND_LIMITS)
        spectrum[of, :2] = np.concatenate([log, beyond], axis=-1)
        share[of] = 0
        share[of, :2] = images.shares[index[of]]
        # the shares of a real galaxy are those in i
        x = np.stack([np.full(of.sum(), IMAGE_WAVELENGTH[2]), np.log(reference[of])], axis=1)
        log = _image(spectrum[of], None, x)
        share[of] *= np.exp(log[..., 1] - log[..., 0])
        share[of] /= share[of].sum(axis=1, keepdims=True)
        disk[of] *= DISK_HALF_LIGHT
    redshift[kind != GALAXY] = np.nan
    return Sources(
        kind=kind,
        magnitude=magnitude,
        reference=reference,
        redshift=redshift,
        share=share,
        radius=np.stack([disk, disk], axis=1),
        ellipticity=ellipticity,
        angle=angle,
        knots=knots,
        spectrum=spectrum,
        image=index,
        symmetry=symmetry,
    )


def get_chances(values, name):
    """Return numbers and their probabilities.

    Parameters
    ----------
    values : int, sequence of int, or mapping of int to float
        One number, several of equal probability, or their relative probabilities.
    name : str
        Name of the parameter in errors.

    Returns
    -------
    numbers, chances : numpy.ndarray
        The probabilities sum to 1.
    """
    if not isinstance(values, dict):
        values = dict.fromkeys(np.atleast_1d(values).tolist(), 1.0)
    numbers = np.array(list(values))
    if len(numbers) == 0 or numbers.dtype.kind != "i" or (numbers < 1).any():
        raise ValueError(f"{name}={values!r}: give whole numbers from 1 up")
    chances = np.array([float(chance) for chance in values.values()])
    if not np.isfinite(chances).all() or (chances < 0).any() or chances.sum() == 0:
        raise ValueError(f"{name}={values!r}: give chances from 0 up, one of them above 0")
    return numbers, chances / chances.sum()


def draw_brightest(rng, number, limits, slope):
    """Draw magnitudes from number counts.

    Parameters
    ----------
    rng : numpy.random.Generator
        Generator of random numbers.
    number : int
        Number of magnitudes.
    limits : tuple of float
        The brightest and the faintest magnitude.
    slope : float
        Slope of log10 of the counts per magnitude; 0 is uniform.

    Returns
    -------
    numpy.ndarray
        Shape (number,).
    """
    low, high = limits
    uniform = rng.random(number)
    if slope == 0 or low == high:
        return low + uniform * (high - low)
    return low + np.log10(1 + uniform * (10 ** (slope * (high - low)) - 1)) / slope


def draw_layout(rng, present, brightest, faintest, contrast, separations, stamp, offset):
    """Draw magnitudes and positions of the sources of blends.

    Parameters
    ----------
    rng : numpy.random.Generator
        Generator of random numbers.
    present : numpy.ndarray
        Shape (n, s): whether the source exists.
    brightest, faintest : numpy.ndarray
        Shape (n,): magnitude of the brightest source of each blend (any of its sources), and the
        faintest magnitude allowed.
    contrast : float
        Largest difference in magnitude between the brightest source and the others; uniform.
    separations : tuple of array_like
        Smallest and largest distance from the first source in pixels; uniform.
    stamp : int
        Width of the stamp in pixels.
    offset : float
        Largest offset of the first source from the middle in pixels, in x and y; uniform.

    Returns
    -------
    magnitude : numpy.ndarray
        Shape (n, s).
    position : numpy.ndarray
        Shape (n, s, 2): x and y in pixels.
    """
    n = len(present)
    fainter = rng.random(present.shape) * np.minimum(contrast, faintest - brightest)[:, None]
    fainter[np.arange(n), (rng.random(n) * present.sum(axis=1)).astype(int)] = 0
    low, high = (np.broadcast_to(limit, n)[:, None] for limit in separations)
    away = low + rng.random(present.shape) * (high - low)
    away[:, 0] = 0
    angle = rng.uniform(0, 2 * np.pi, present.shape)
    start = (stamp - 1) / 2 + rng.uniform(-offset, offset, (n, 1, 2))
    return brightest[:, None] + fainter, start + away[..., None] * np.stack(
        [np.cos(angle), np.sin(angle)], axis=-1
    )
