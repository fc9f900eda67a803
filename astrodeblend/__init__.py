"""Take overlapping galaxies apart with branched neural networks.

The public names below load on first use, so that ``import astrodeblend`` is fast and imports
neither torch nor astropy.
"""

import importlib
import sys

# Public name -> the module that defines it.
_HOME = {
    "Deblended": "results",
    "Deblender": "deblender",
    "Flag": "flags",
    "Scene": "results",
    "decode_flags": "flags",
    "__version__": "_version",
}

__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        text = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next access finds it directly
    return value


def __dir__():
    return sorted(_HOME)
