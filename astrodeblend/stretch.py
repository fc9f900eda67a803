"""Reversible scaling between flux and the [0, 1] in which the colour models work.

The colour models learned from SDSS pictures, made from flux after Lupton et al. (2004, PASP
116, 133). A picture needs no more than its full scale taken out; flux is rendered the way
those pictures were. Both ways work on numpy and torch arrays alike, on any device and with
gradients; astropy's stretches (`astropy.visualization`) need astropy, treat each band alone
and clip.
"""

import sys
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

__all__ = ["AsinhStretch", "LinearStretch", "NoiseStretch", "stretch_for"]

# How the pictures of Galaxy Zoo look in [0, 1], and so what flux is rendered to: the sky at
# 0.02 with a noise of 0.02, the brightest light at 0.85.
_BLACK = 1.0  # black lies so many standard deviations of the noise below the sky
_SOFTENING = 10.0  # and linear becomes logarithmic at so many
_BRIGHTEST = 0.85
_LEAST_NOISE = 1e-3  # of the brightest light: simulated images may have no noise at all
_LOWEST_WHITE = 10.0  # in softenings; keeps a stamp without light from being all noise


@dataclass(frozen=True)
class LinearStretch:
    """Scaling of a picture: network value = value / full scale.

    Parameters
    ----------
    full_scale : float
        The value that becomes 1: 255 for 8-bit pictures, 65535 for 16-bit ones, 1 for floats.

    Raises
    ------
    ValueError
        If ``full_scale`` is not a positive number.
    """

    full_scale: float

    def __post_init__(self):
        _check_positive("full_scale", self.full_scale)

    def __call__(self, flux):
        """Scale flux to network values.

        Parameters
        ----------
        flux : numpy.ndarray or torch.Tensor
            Any shape.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            As ``flux``.
        """
        return flux / self.full_scale

    def inverse(self, values):
        """Scale network values back to flux.

        Parameters
        ----------
        values : numpy.ndarray or torch.Tensor
            Any shape.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            As ``values``.
        """
        return values * self.full_scale

    def inverse_std(self, values, std):
        """Scale the standard deviation of network values back to flux.

        Parameters
        ----------
        values, std : numpy.ndarray or torch.Tensor
            The network values and their standard deviation, same shape.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            The standard deviation of the flux, as ``std``.
        """
        return std * self.full_scale

    def to_dict(self):
        """Return plain values that describe the stretch, for the metadata of a result."""
        return {"stretch": "linear", **asdict(self)}


@dataclass(frozen=True)
class AsinhStretch:
    r"""Colour-preserving asinh scaling of linear flux, after Lupton et al. (2004, PASP 116, 133).

    With :math:`z_b = (f_b - \mathrm{black}_b) / \mathrm{softening}_b` in band b and Z the mean
    of :math:`z_b` over the bands, the network values are

    .. math::

        v_b = \frac{z_b}{Z} \, \frac{\mathrm{asinh}\, Z}{\mathrm{asinh}\, \mathrm{white}} ,

    linear where Z is well below 1, logarithmic above. All bands of a pixel are multiplied by
    the same number, so colours survive; asinh of each band alone would bleach bright cores.
    The factor is positive and smooth, also at and below Z = 0, so the way back exists for
    every value, negative or above white:

    .. math::

        Z = \sinh A, \quad A = \mathrm{asinh}(\mathrm{white}) \, \mathrm{mean}_b(v_b), \quad
        z_b = v_b \, \mathrm{asinh}(\mathrm{white}) \, Z / A .

    Brighter light of the same colour gives larger values, and so does more light in one band
    on top of light in the others.

    Parameters
    ----------
    black : tuple of float
        The flux in each band that becomes 0.
    softening : tuple of float
        The flux above black in each band where linear turns into logarithmic.
    white : float
        The light, in units of the softening and equal in all bands, that becomes 1.

    Raises
    ------
    ValueError
        If the tuples differ in length, or a number is not finite or, bar black, not positive.

    Notes
    -----
    In float32 there and back costs at most 3e-7 (5 + A) of ``flux - black``, with A taken of
    the moduli of the values: 3e-6 for anything that looks like a galaxy. Added to that is the
    rounding of the flux itself, 6e-8 of flux and black.
    """

    black: tuple[float, ...]
    softening: tuple[float, ...]
    white: float

    def __post_init__(self):
        for name in ("black", "softening"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if not self.black or len(self.black) != len(self.softening):
            raise ValueError(
                f"black has {len(self.black)} bands and softening {len(self.softening)}; "
                "give one number of each per band"
            )
        if not np.isfinite(self.black).all():
            raise ValueError(f"black={self.black} is not finite; give the flux that becomes 0")
        for softening in self.softening:
            _check_positive("softening", softening)
        _check_positive("white", self.white)

    def __call__(self, flux):
        """Scale flux to network values.

        Parameters
        ----------
        flux : numpy.ndarray or torch.Tensor
            Shape (..., bands, y, x), floats.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            As ``flux``; about [0, 1], not clipped.

        Raises
        ------
        ValueError
            If the number of bands is not that of the stretch.
        """
        z = (flux - _row(self.black, flux)) / _row(self.softening, flux)
        brightness = _not_zero(z.mean(axis=-3, keepdims=True))
        return z * (_namespace(flux).asinh(brightness) / brightness / np.arcsinh(self.white).item())

    def inverse(self, values):
        """Scale network values back to flux.

        Parameters
        ----------
        values : numpy.ndarray or torch.Tensor
            Shape (..., bands, y, x), floats.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            As ``values``.

        Raises
        ------
        ValueError
            If the number of bands is not that of the stretch.
        """
        scale = np.arcsinh(self.white).item()
        a = _not_zero(scale * values.mean(axis=-3, keepdims=True))
        z = values * (scale * _namespace(a).sinh(a) / a)
        return _row(self.black, values) + _row(self.softening, values) * z

    def inverse_std(self, values, std):
        """Scale the standard deviation of network values back to flux.

        First order in the errors, which are taken as independent from band to band; in flux
        they no longer are, because the bands share a factor.

        Parameters
        ----------
        values, std : numpy.ndarray or torch.Tensor
            The network values and their standard deviation, shape (..., bands, y, x).

        Returns
        -------
        numpy.ndarray or torch.Tensor
            The standard deviation of the flux, as ``std``.

        Raises
        ------
        ValueError
            If the number of bands is not that of the stretch.
        """
        softening = _row(self.softening, values)
        scale = np.arcsinh(self.white).item()
        a = _not_zero(scale * values.mean(axis=-3, keepdims=True))
        factor = _namespace(a).sinh(a) / a
        # d z_b / d v_c = scale * (factor if b is c, + shared_b): the factor depends on all bands.
        shared = values * (scale / len(self.black)) * _slope(a)
        others = shared**2 * (std**2).sum(axis=-3, keepdims=True)
        own = (factor**2 + 2 * factor * shared) * std**2
        return softening * scale * (own + others) ** 0.5

    def to_dict(self):
        """Return plain values that describe the stretch, for the metadata of a result."""
        described = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"stretch": "asinh", **described}


@dataclass(frozen=True)
class NoiseStretch:
    """Linear flux above the sky, in units of the noise of each band.

    Parameters
    ----------
    level, noise : tuple of float
        Of the sky in each band, per pixel.

    Raises
    ------
    ValueError
        If the tuples differ in length, a level is not finite, or a noise not positive.
    """

    level: tuple[float, ...]
    noise: tuple[float, ...]

    def __post_init__(self):
        for name in ("level", "noise"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if not self.level or len(self.level) != len(self.noise):
            raise ValueError(
                f"level has {len(self.level)} bands and noise {len(self.noise)}; "
                "give one number of each per band"
            )
        if not np.isfinite(self.level).all():
            raise ValueError(f"level={self.level} is not finite; give the flux of the sky")
        for noise in self.noise:
            _check_positive("noise", noise)

    def __call__(self, flux):
        """Scale flux to network values.

        Parameters
        ----------
        flux : numpy.ndarray or torch.Tensor
            Shape (..., bands, y, x).

        Returns
        -------
        numpy.ndarray or torch.Tensor
            As ``flux``.
        """
        return (flux - _row(self.level, flux)) / _row(self.noise, flux)

    def inverse(self, values):
        """Scale network values back to flux, sky included.

        Parameters
        ----------
        values : numpy.ndarray or torch.Tensor
            Shape (..., bands, y, x).

        Returns
        -------
        numpy.ndarray or torch.Tensor
            As ``values``.
        """
        return values * _row(self.noise, values) + _row(self.level, values)

    def inverse_std(self, values, std):
        """Scale the standard deviation of network values back to flux.

        Parameters
        ----------
        values, std : numpy.ndarray or torch.Tensor
            The network values and their standard deviation, shape (..., bands, y, x).

        Returns
        -------
        numpy.ndarray or torch.Tensor
            The standard deviation of the flux, as ``std``.
        """
        return std * _row(self.noise, std)

    def to_dict(self):
        """Return plain values that describe the stretch, for the metadata of a result."""
        return {"stretch": "noise", "level": list(self.level), "noise": list(self.noise)}


def stretch_for(data, level, noise, full_scale=None, *, unit=None):
    """Choose the stretch that makes an image look like what the colour models learned from.

    A picture, that is an image with a full scale, or three bands of floats within [0, 1]
    without a unit, is only divided by its full scale. Anything else is taken for linear flux
    and rendered as SDSS pictures are: each band in units of its own noise, black one standard
    deviation below the sky, logarithmic from ten above black, and the brightest light of the
    stamp (after a mean over 3x3 pixels, so that no single hot pixel decides) at 0.85. Noise
    below a thousandth of the brightest light counts as that much. So the result is the same
    in whatever units each band is.

    Parameters
    ----------
    data : numpy.ndarray
        The image, shape (bands, y, x). NaN is left out.
    level, noise : float or array_like
        Level of the sky and standard deviation of its noise in the units of the image: one
        number, one per band, or anything that broadcasts to the image, of which the median
        in each band counts.
    full_scale : float, optional
        The largest value of a picture, 255 for 8-bit ones.
    unit : object, optional
        Unit of the data; any at all means that it is flux.

    Returns
    -------
    LinearStretch or AsinhStretch
        Made for this image; with its number of bands.

    Raises
    ------
    ValueError
        If the image is not (bands, y, x), has no finite pixel, or ``level`` or ``noise`` does
        not fit it or is not finite.
    """
    data = np.asarray(data)
    if data.ndim != 3:
        raise ValueError(f"data has shape {data.shape}; give (bands, y, x)")
    if full_scale is not None:
        return LinearStretch(float(full_scale))
    finite = np.isfinite(data)
    if not finite.any():
        raise ValueError("data has no finite pixel; there is nothing to scale")
    lowest, highest = np.min(data[finite]), np.max(data[finite])
    if unit is None and len(data) == 3 and data.dtype.kind == "f" and lowest >= 0 and highest <= 1:
        return LinearStretch(1.0)

    level = _per_band("level", level, data.shape)
    noise = _per_band("noise", noise, data.shape)
    above = np.where(finite, data - level[:, None, None], 0).astype(float)
    smooth = ndimage.uniform_filter(above, size=(1, 3, 3))
    noise = np.maximum(noise, _LEAST_NOISE * smooth.max(axis=(1, 2)))
    noise = np.where(noise > 0, noise, 1.0)
    stretch = AsinhStretch(level - _BLACK * noise, _SOFTENING * noise, _LOWEST_WHITE)
    brightest = stretch(smooth + level[:, None, None]).max()
    white = np.sinh(np.arcsinh(_LOWEST_WHITE) * max(1.0, brightest / _BRIGHTEST))
    return AsinhStretch(stretch.black, stretch.softening, float(white))


def _row(numbers, like):
    """Return one number per band, shape (bands, 1, 1), as an array of the kind of another."""
    if like.ndim < 3 or like.shape[-3] != len(numbers):
        raise ValueError(
            f"the array has shape {tuple(like.shape)} and the stretch {len(numbers)} "
            "bands; give (..., bands, y, x)"
        )
    if isinstance(like, np.ndarray):
        row = np.asarray(numbers, dtype=np.result_type(like.dtype, np.float32))
    else:
        row = like.new_tensor(numbers)
    return row[:, None, None]


def _per_band(name, value, shape):
    """Return one number per band from anything that broadcasts to the image."""
    value = np.asarray(value, dtype=float)
    try:
        row = value[:, None, None] if value.ndim == 1 else value
        # Not broadcast along y and x: a median over the few numbers there are is the same.
        row = np.broadcast_to(row, np.broadcast_shapes(row.shape, (shape[0], 1, 1)))
        np.broadcast_to(row, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {value.shape}, which does not fit an image of shape {shape}; "
            "give one number, one per band, or an image"
        ) from None
    row = np.median(row, axis=(1, 2))
    if not np.isfinite(row).all():
        raise ValueError(f"{name}={row.tolist()} is not finite in every band")
    return row


def _check_positive(name, value):
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} is not a positive number")


def _namespace(array):
    """Return numpy for its arrays, else torch, which is imported where there is a tensor."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def _not_zero(x):
    """Keep 0 / 0 away: at 1e-20 asinh(x) / x and sinh(x) / x have long rounded to their limit."""
    return _namespace(x).where(x == 0, 1e-20, x)


def _slope(a):
    """Return the derivative of sinh(a) / a, without cancellation near zero."""
    xp = _namespace(a)
    return xp.where(abs(a) < 0.1, a / 3 + a**3 / 30, (a * xp.cosh(a) - xp.sinh(a)) / a**2)
