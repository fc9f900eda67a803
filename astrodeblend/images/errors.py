"""Messages about an input: errors with their place, and warnings of what is ignored."""

import warnings

from astropy.utils.exceptions import AstropyUserWarning

# Exceptions made from one sentence; others, such as UnicodeDecodeError, are subclasses of these.
_KINDS = (FileNotFoundError, IsADirectoryError, PermissionError, OSError, TypeError, ValueError)


def restated(error, text):
    """Return an error of the same class with another message."""
    return next(kind for kind in _KINDS if isinstance(error, kind))(text)


def leave_aside(said, message):
    """Warn that a part of the input is ignored, and append the message to ``said``."""
    warnings.warn(message, AstropyUserWarning, stacklevel=3)
    said.append(message)
