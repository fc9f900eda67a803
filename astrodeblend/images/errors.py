"""The same error, with where it happened."""

__all__ = ["restated"]

# The kinds that take a sentence; others, such as UnicodeDecodeError, are kinds of these.
_KINDS = (FileNotFoundError, IsADirectoryError, PermissionError, OSError, TypeError, ValueError)


def restated(error, text):
    """Return an error of the same kind that says something else."""
    return next(kind for kind in _KINDS if isinstance(error, kind))(text)
