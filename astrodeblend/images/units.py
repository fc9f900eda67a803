"""Units, however they are spelled."""

import re
import warnings
from contextlib import suppress

from astropy import units as u

__all__ = ["is_logarithmic", "is_surface_brightness", "parse_unit"]

# By lower case: what astropy reads in one spelling only, or as what no image has (siemens, ampere).
_NAMES = """Jy uJy nJy sr beam adu ct count electron photon DN K nmgy nanomaggy maggy erg s m cm Hz
    W mag Angstrom pix pixel arcsec"""
_WORDS = {name.lower(): name for name in _NAMES.split()} | {
    **{"jansky": "Jy", "microjy": "uJy", "nanojy": "nJy", "maggies": "maggy"},
    **{"nanomaggies": "nmgy", "sec": "s", "second": "s", "sterad": "sr", "steradian": "sr"},
    **{"a": "Angstrom", "ang": "Angstrom", "kelvin": "K", "dns": "DN"},
    **{"e": "electron", "cts": "ct", "cps": "ct/s"},
}
_WORDS |= {f"{word}s": name for word, name in _WORDS.items() if len(word) > 2}


def parse_unit(text):
    """Return the unit that a text means, in any case and plural, or None.

    MJY is mega only per steradian: else it may be milli, and is no unit.
    """
    text = re.sub(r"\bm(?i:jy)\b", "mJy", text)
    text = re.sub(r"\bM(?i:jy)\b(?=.*(?i:sr))", "MJy", text)
    text = re.sub(r"\b[eE]-(?!\d)", "electron", text)
    word = r"(?!(?<=[\d.])[eE][-+]?\d)[A-Za-z]+"  # not the exponent of a number
    text = re.sub(word, lambda word: _WORDS.get(word[0].lower(), word[0]), text)
    with warnings.catch_warnings(), suppress(ValueError, TypeError):
        warnings.simplefilter("ignore", u.UnitsWarning)
        return u.Unit(text)
    return None


def is_logarithmic(unit):
    """Tell whether a unit is magnitudes, dex or the like, which do not add."""
    if unit is None or isinstance(unit, u.LogUnit):
        return unit is not None
    return any(isinstance(base, type(u.dex)) for base in unit.decompose().bases)


def is_surface_brightness(image):
    """Tell whether values are brightnesses, which do not depend on the size of a pixel.

    Those of a picture are, those per solid angle or beam, and temperatures.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        As `astrodeblend.images.read_image` gives it.

    Returns
    -------
    bool
    """
    if image.meta.get("astrodeblend", {}).get("full_scale") is not None:
        return True
    if not isinstance(image.unit, u.UnitBase):
        return False
    base = image.unit.decompose()
    powers = dict(zip(base.bases, base.powers, strict=True))
    return powers.get(u.rad, 0) < 0 or powers.get(u.beam, 0) < 0 or powers.get(u.K, 0) > 0
