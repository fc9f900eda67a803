"""The FITS cards that go with an image: those that describe the observation, not the file."""

import re

from astropy.io import fits

__all__ = ["cards_of_mapping", "observation_cards", "valid_cards"]

# How the input was stored, and its pixel grid: the output has a storage and a WCS of its own. Of
# the input's WCS nothing may stay, not of its older forms either (IRAF's WAT, the plate solution
# of the Digitized Sky Survey): wcslib crashes on two descriptions in one header.
_LAYOUT_CARD = re.compile(
    r"""(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|TFIELDS|T(TYPE|FORM)\d+|END
    |EXTNAME|EXTVER|EXTLEVEL|INHERIT|BSCALE|BZERO|BLANK|DATAMIN|DATAMAX|CHECKSUM|DATASUM|UTYPE
    |Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d*|TILE\d+|NAME\d+|VAL\d+|MASKCMP|QUANTIZ|DITHER0|BLANK|SCALE
    |ZERO|TENSION|SIMPLE|EXTEND|PCOUNT|GCOUNT|HECKSUM|DATASUM)|FZ(ALGOR|TILE|QVALUE|QMETHD)
    |(WCSAXES|WCSNAME|LONPOLE|LATPOLE|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME|CRDER|CSYER)\d+
    |(CD|PC|PV|PS)\d+_\d+)[A-Z]?|(RADESYS|EQUINOX)[A-Z]|RADECSYS|EPOCH|PC\d{6}
    |[AB]P?_(\d+_\d+|ORDER|DMAX)|(CPDIS|CPERR|CQDIS|CQERR|DP|DQ|D2IMDIS|D2IMERR|D2IM)\d.*
    |WAT\d_\d+|WCSDIM|CNPIX\d|[XY]PIXELSZ|PPO\d|AMD[XY]\d+|PLTRA[HMS]|PLTDEC(SN|[DMS])
    |AXISCORR|LTV\d|LTM\d_\d|(DATA|TRIM|BIAS|CCD|DET|AMP)SEC|)""",
    re.VERBOSE,
)


def valid_cards(header):
    """Copy a header, leaving out the cards that are no FITS."""
    valid = fits.Header()
    for card in header.copy().cards:
        try:
            card.verify("silentfix+exception")
            valid.append(card, end=True)
        except (fits.VerifyError, ValueError):
            continue
    return valid


def observation_cards(header):
    """Copy the valid cards of a header that describe the observation, not the file."""
    cards = valid_cards(header).cards
    return fits.Header([card for card in cards if not _LAYOUT_CARD.fullmatch(card.keyword)])


def cards_of_mapping(meta):
    """Make a header of those entries of a dictionary that fit a FITS card."""
    header = fits.Header()
    for key, value in meta.items():
        if re.fullmatch(r"[A-Za-z0-9_-]{1,8}", str(key)) and isinstance(value, str | int | float):
            try:
                header[key.upper()] = value
            except ValueError:  # not ASCII, or not finite
                continue
    return header
