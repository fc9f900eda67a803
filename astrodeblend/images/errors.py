"""What is said of an input: errors with where they happened, and what is left aside."""

import warnings

from astropy.utils.exceptions import AstropyUserWarning

__all__ = ["leave_aside", "restated"]

# The kinds that take a sentence; others, such as UnicodeDecodeError, are kinds of these.
_KINDS = (FileNotFoundError, IsADirectoryError, PermissionError, OSError, TypeError, ValueError)


def restated(error, text):
    """Return an error of the same kind that says something else."""
    return next(kind for kind in _KINDS if isinstance(error, kind))(text)


def leave_aside(said, message):
    """Warn that something is left aside, and note it."""
    warnings.warn(message, AstropyUserWarning, stacklevel=3)
    said.append(message)
