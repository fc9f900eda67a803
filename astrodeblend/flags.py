"""Flags of results, by name and in words."""

from enum import IntFlag

import numpy as np

__all__ = ["Flag", "count_flags", "decode_flags", "flag_names"]


class Flag(IntFlag):
    """Flags of a result, one bit each; `decode_flags` returns their meaning."""

    SINGLE_BAND = 1
    EDGE = 2
    MASKED = 4
    SATURATED = 8
    NO_SOURCE = 16
    UNCERTAIN_SIZE = 32
    EMPTY = 64
    OUT_OF_DISTRIBUTION = 128
    NOT_DEBLENDED = 256
    SEVERAL_PEAKS = 512
    POSSIBLE_BLEND = 1024
    FLUX_NOT_CONSERVED = 2048
    MINOR_SHARE = 4096
    BRIGHT = 8192
    LARGE = 16384


_WORDS = {
    Flag.SINGLE_BAND: "the single band was repeated in the model's bands, its outputs averaged",
    Flag.EDGE: "part of the source's surroundings is beyond the edge of the image",
    Flag.MASKED: "pixels around the source have no data: fluxes lack the light there, a share of "
    "masked_fraction",
    Flag.SATURATED: "pixels around the source are saturated",
    Flag.NO_SOURCE: "no source was detected at the position; the nearest one set the stamp's width",
    Flag.UNCERTAIN_SIZE: "the source's Petrosian radius, which sets the stamp's width, is a guess",
    Flag.EMPTY: "a component has no light above the noise: its row has no measurements",
    Flag.OUT_OF_DISTRIBUTION: "the stamp differs from those that the model was trained on",
    Flag.NOT_DEBLENDED: "deblending failed: the source has no light of its own",
    Flag.SEVERAL_PEAKS: "the component has several peaks; it is measured at the one nearest to its "
    "position",
    Flag.POSSIBLE_BLEND: "detected as one source, but its blend score is that of several galaxies",
    Flag.FLUX_NOT_CONSERVED: "in its footprint the light of the network's components differs by "
    "more than 10 % from the image's",
    Flag.MINOR_SHARE: "the component has less than half of the light around its own position",
    Flag.BRIGHT: "the source is over 1000 times as bright as the noise, more than in training",
    Flag.LARGE: "the source is larger than those that the model was trained on",
}


def decode_flags(flags):
    """Return the meaning of flags in plain words.

    Parameters
    ----------
    flags : int or array_like of int
        As in `astrodeblend.Deblended.flags`, or a ``flags`` column.

    Returns
    -------
    list of str, or list of such lists
        One sentence for each bit that is set; of an array, a list for each element.

    Raises
    ------
    ValueError
        If a bit without a meaning is set.
    """
    return _each(flags, _WORDS.__getitem__)


def flag_names(flags):
    """Return the names of flags, such as ``"EDGE MASKED"``; for an array a list of texts."""
    names = _each(flags, lambda flag: flag.name)
    return " ".join(names) if np.ndim(flags) == 0 else [" ".join(each) for each in names]


def count_flags(flags):
    """Return the number of times that each flag is set in a column, without zeros."""
    flags = np.asarray(flags, int)
    counts = {flag: int(np.count_nonzero(flags & int(flag))) for flag in Flag}
    return {flag: count for flag, count in counts.items() if count}


def _each(flags, told):
    if np.ndim(flags):
        return [_each(each, told) for each in np.asarray(flags).ravel()]
    flags = int(flags)
    if flags < 0 or flags > sum(Flag):
        raise ValueError(f"flags={flags} is no combination of flags; they are 0 to {sum(Flag)}")
    return [told(flag) for flag in Flag if flags & flag]
