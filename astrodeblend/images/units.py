"""Units of images, in the spellings that headers use."""

import re
import warnings
from contextlib import suppress

from astropy import units as u

__all__ = ["is_logarithmic", "is_surface_brightness", "parse_unit"]

# Read in any case: units that astropy reads in one case only, or as another unit (siemens, ampere).
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
    """Return the unit that a text means, in any case, singular or plural, or None.

    MJY is read as mega per steradian only: elsewhere it may mean milli, and None is returned.
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
    """Return whether a unit is logarithmic (magnitudes, dex): such values do not add.

    It may be a text that is no unit, such as "AB magnitudes".
    """
    if isinstance(unit, str):
        return re.search(r"\bmag|magnitude|luptitude|\blog|\bdex\b", unit.lower()) is not None
    if unit is None or isinstance(unit, u.LogUnit):
        return unit is not None
    return any(isinstance(base, type(u.dex)) for base in unit.decompose().bases)


def is_surface_brightness(image):
    """Return whether the values do not depend on the area of a pixel.

    True for pictures, values per solid angle or beam, and temperatures.

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
