"""FITS conventions: which HDU is the image, its noise or its mask; spellings of units; cards."""

import re
import warnings
from contextlib import suppress

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty

from .errors import leave_aside
from .form import RelativeWeight, plain_mask

# EXTNAMEs of CCDData, HST, JWST, DES, LSST and HSC, the Legacy Surveys, ESO, SWarp and others. Of
# several uncertainties the first in this order is used.
_NAMES = {
    StdDevUncertainty: "UNCERT ERR ERROR RMS STD STDDEV SIGMA NOISE",
    VarianceUncertainty: "VARIANCE VAR STAT",
    InverseVariance: "IVAR INVVAR",
    RelativeWeight: "WEIGHT WHT WGT",
    "mask": "MASK DQ MSK FLG FLAG FLAGS BPM BADPIX MASKBITS",
    "other": "AREA CTX CON SAMP TIME VAR_POISSON VAR_RNOISE VAR_FLAT WMAP PSF BKG BACKGROUND SKY "
    "MODEL EXP EXPTIME EXPMAP NEXP D2IMARR WCSDVARR",
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
_NOISES = [role for role in _NAMES if isinstance(role, type)]
_IN_WORDS = {
    StdDevUncertainty: "standard deviations",
    VarianceUncertainty: "variances",
    InverseVariance: "inverse variances",
    RelativeWeight: "weights, in proportion to inverse variances",
}
_TABLES = {"D2IMARR", "WCSDVARR"}  # of distortions: the WCS takes them
_SCIENCE = {"SCI", "SCIENCE", "IMAGE"}
# Bit planes (LSST, HSC) of pixels with bad or no data; detected, bright or saturated is neither.
_BAD_PLANES = ("MP_BAD", "MP_NO_DATA", "MP_CR", "MP_UNMASKEDNAN")

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

# Cards of storage and pixel grid, which the output states anew. No card of the input's WCS may
# stay, nor of older forms (IRAF's WAT, the plate solution of the Digitized Sky Survey): wcslib
# crashes on two descriptions in one header.
_LAYOUT_CARD = re.compile(
    r"""(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|TFIELDS|T(TYPE|FORM)\d+|END
    |EXTNAME|EXTVER|EXTLEVEL|INHERIT|BSCALE|BZERO|BLANK|DATAMIN|DATAMAX|CHECKSUM|DATASUM|UTYPE
    |Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+|MASKCMP|QUANTIZ|DITHER0|BLANK|SCALE
    |ZERO|TENSION|SIMPLE|EXTEND|PCOUNT|GCOUNT|HECKSUM|DATASUM)|FZ(ALGOR|TILE|QVALUE|QMETHD)
    |(WCSAXES|WCSNAME|LONPOLE|LATPOLE|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME|CRDER|CSYER)\d+
    |(CD|PC|PV|PS)\d+_\d+)[A-Z]?|(RADESYS|EQUINOX)[A-Z]|RADECSYS|EPOCH|PC\d{6}
    |[AB]P?_(\d+_\d+|ORDER|DMAX)|(CPDIS|CPERR|CQDIS|CQERR|DP|DQ|D2IMDIS|D2IMERR|D2IM)\d.*
    |WAT\d_\d+|WCSDIM|CNPIX\d|[XY]PIXELSZ|PPO\d|AMD[XY]\d+|PLTRA[HMS]|PLTDEC(SN|[DMS])
    |BSOFTEN|BOFFSET|FULLSCAL|AXISCORR|LTV\d|LTM\d_\d|(DATA|TRIM|BIAS|CCD|DET|AMP)SEC|)""",
    re.VERBOSE,
)


def _label(hdu):
    """Return the name of an HDU; without one, the type that its header states."""
    if hdu.name in ("", "PRIMARY", "COMPRESSED_IMAGE"):
        for key in ("EXTTYPE", "IMTYPE", "IMAGETYP"):
            text = str(hdu.header.get(key, "")).strip().upper()
            if text in _ROLES or text in _SCIENCE:
                return text
    return hdu.name


def _role(hdu):
    """Return the role of an HDU (None: it may be an image) and its image's name ('': any)."""
    name = _label(hdu)
    stem, word = _split(name)
    if name in _ROLES or not stem or _ROLES.get(word) == "other":
        return _ROLES.get(name), ""
    return _ROLES.get(word), stem


def _split(name):
    """Return a name without its last word, and that word: "R_ERR" is R's ERR, as is "R.ERR"."""
    return re.fullmatch("(?:(.*)[._])?(.*)", name).groups("")


def _has_image(hdu):
    return hdu.is_image and len(hdu.shape) > 0


def choose_hdu(hdulist, extension=None, plane=None):
    """Return the HDU that ``extension`` names ("2", "SCI" or "SCI,2"); without it, the image.

    With ``plane`` ("uncertainty", "weight" or "mask") return that plane where the file has one.
    """
    if extension is None:
        images = [hdu for hdu in hdulist if _has_image(hdu)]
        if not images:
            raise ValueError("there is no image in any of its HDUs; give a file that has one")
        roles = {None: [None], "mask": ["mask"]}.get(plane, _NOISES)
        best = [hdu for role in roles for hdu in images if _role(hdu)[0] == role]
        if plane is None:
            best.sort(key=lambda hdu: _label(hdu) not in _SCIENCE)
        return (best or images)[0]
    name, _, version = (part.strip() for part in extension.partition(","))
    key = int(name) if name.isdigit() else name
    try:
        hdu = hdulist[(key, int(version)) if version else key]
    except (KeyError, IndexError, ValueError):
        there = ", ".join(f"{i} {hdu.name}".strip() for i, hdu in enumerate(hdulist))
        raise ValueError(f"there is no extension {extension!r}; there are {there}") from None
    if not _has_image(hdu):
        raise ValueError(f"extension {extension!r} holds no image; choose another one")
    return hdu


def companions(hdulist, image, said, chosen=False):
    """Return the HDUs of an image's noise and mask, or None each; note the HDUs left unread.

    Warn where these may be other bands, unless the image was ``chosen`` by name.
    """
    name, found, unfit = _label(image), {}, []
    stem, word = _split(name)
    stems = dict.fromkeys((name, stem if word in _SCIENCE else name, ""))
    others = [hdu for hdu in hdulist if _has_image(hdu) and hdu is not image]
    chips = [hdu for hdu in others if _label(hdu) == name]
    for role in (*_NOISES, "mask") if _role(image)[0] is None else ():
        named = [hdu for stem in stems for hdu in others if _role(hdu) == (role, stem)]
        fitting = [hdu for hdu in named if hdu.shape in (image.shape, image.shape[-2:])]
        unfit += [hdu for hdu in named if hdu not in fitting and not chips]
        ours = [hdu for hdu in fitting if hdu.ver == image.ver]
        if ours or (not chips and len(fitting) == 1):
            found[role] = (ours or fitting)[0]
    mask = found.pop("mask", None)
    noise = next(iter(found.values()), None)
    for hdu in unfit:
        text = f"HDU {_label(hdu)!r} has shape {hdu.shape} and the image {image.shape}"
        leave_aside(said, f"{text}: it is ignored")
    left = [
        hdu for hdu in others if hdu not in (noise, mask, *unfit) and _label(hdu) not in _TABLES
    ]
    if left:
        names = [
            f"{_label(hdu) or hdulist.index_of(hdu)}{f',{hdu.ver}' if hdu.ver > 1 else ''}"
            for hdu in (image, *left)
        ]
        more = f" and {len(left) - 8} more" if len(left) > 8 else ""
        text = f"left unread beside {names[0]}: {', '.join(names[1:9])}{more}"
        alike = any(_role(hdu)[0] is None and hdu.shape == image.shape for hdu in left)
        if chips and name and not chosen:
            other = chips[0]
            key = hdulist.index_of(other) if other.ver == image.ver else f"{name},{other.ver}"
            leave_aside(said, f"{text}; choose which to read, as in FILE[{key}]")
        elif alike and not chosen and name not in _SCIENCE and noise is None and mask is None:
            leave_aside(said, f"{text}; give bands one by one: FILE[{names[0]}], FILE[{names[1]}]")
        else:
            said.append(text)
    return noise, mask


def read_data(hdu, said):
    """Return the array of an HDU, asinh magnitudes (luptitudes) converted to flux."""
    if not _has_image(hdu):
        raise ValueError(f"HDU {hdu.name!r} holds no image; choose another one")
    for axis in range(3, len(hdu.shape) + 1):
        if hdu.header.get(f"CTYPE{axis}") == "STOKES" and hdu.shape[-axis] > 1:
            text = f"axis {axis} of HDU {hdu.name!r} is STOKES with {hdu.shape[-axis]} values"
            raise ValueError(f"{text}, which are no bands; give Stokes I alone")
    try:
        data = hdu.data
    except Exception as error:  # whatever a damaged file makes the decoders raise
        text = "cannot be read, the file is truncated or damaged; get a fresh copy"
        raise OSError(f"the data of HDU {hdu.name!r} {text} ({error})") from error
    softening, offset = (hdu.header.get(key) for key in ("BSOFTEN", "BOFFSET"))
    if softening is None and offset is None:
        return data
    text = f"asinh magnitudes with BSOFTEN={softening!r}, BOFFSET={offset!r}"
    if not all(isinstance(value, int | float) for value in (softening, offset)) or softening <= 0:
        raise ValueError(f"HDU {hdu.name!r} holds {text}; both have to be numbers, BSOFTEN above 0")
    said.append(f"{text} are undone")
    return offset + 2 * softening * np.sinh(data.astype(np.float64) * (np.log(10) / 2.5))


def read_plane(hdu, plane, said, telescope=None):
    """Return the mask or uncertainty in an HDU; refuse a mask of bits of unknown meaning.

    The type of an uncertainty comes from UTYPE or the HDU's name; by default standard deviation, or
    weights for the ``plane`` "weight".
    """
    name, values, cards = _label(hdu), read_data(hdu, said), hdu.header
    if plane != "mask":
        kinds = {kind.__name__: kind for kind in _NOISES} | {kind: kind for kind in _NOISES}
        default = RelativeWeight if plane == "weight" else StdDevUncertainty
        kind = kinds.get(cards.get("UTYPE")) or kinds.get(_role(hdu)[0], default)
        said.append(f"the {plane} in {name} is read as {_IN_WORDS[kind]}")
        return kind(values, copy=False)
    named = {key: bit for key, bit in cards.items() if key[:3] == "MP_" and bit in range(63)}
    bad = {key: named[key] for key in _BAD_PLANES if key in named}
    if not named and telescope == "JWST" and name.endswith("DQ"):
        bad = {"DO_NOT_USE": 0}
    if not bad or values.dtype.kind not in "iu":  # a bit may just say that a source is there
        bits = named if named or name == "MASKBITS" else None
        return plain_mask(values, f"HDU {name!r}" if name else "the mask", bits=bits)
    said.append(f"of the bit planes of {name} those that mean no data are used: {', '.join(bad)}")
    return (values.astype(np.int64) & sum(1 << bit for bit in bad.values())) != 0


def valid_cards(header):
    """Copy the cards that can be written, repaired; of two with one keyword the first."""
    valid = fits.Header()
    for card in header.copy().cards:
        with suppress(fits.VerifyError, ValueError):
            card.verify("silentfix+exception")
            if card.keyword != card.keyword.upper():  # after HIERARCH
                key = f"HIERARCH {card.keyword.upper()}"
                card = fits.Card(key, card.value, card.comment)
            fits.Header([card]).tostring()
            if card.keyword in ("COMMENT", "HISTORY", "") or card.keyword not in valid:
                valid.append(card, end=True)
    return valid


def observation_cards(meta):
    """Return a header of the cards in a header or dictionary that describe the observation."""
    if not isinstance(meta, fits.Header):
        words = {str(key).upper(): value for key, value in meta.items()}
        meta = fits.Header()
        for key, value in words.items():
            if re.fullmatch("[A-Z0-9_-]{1,8}", key) and isinstance(value, str | int | float):
                with suppress(ValueError):  # not ASCII, or not finite
                    meta[key] = value
    cards = valid_cards(meta).cards
    return fits.Header([card for card in cards if not _LAYOUT_CARD.fullmatch(card.keyword)])


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
