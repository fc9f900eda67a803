"""Atomic writing of files: after an error there is no partial file."""

import os
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

__all__ = ["atomic_path", "atomic_paths", "plain"]


@contextmanager
def atomic_path(path, *, overwrite=False):
    """Yield a temporary path to write to, and move the file to ``path`` afterwards.

    The temporary file is in the same folder, with the same suffix, so that the move is atomic: a
    reader sees the old file or the new one, never a part. After an error the temporary file is
    removed, and a file at ``path`` is unchanged. Without ``overwrite`` a file that exists is
    refused.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path={path!r}: give the name of a file to write")
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"cannot write {str(path)!r}: the folder {str(folder)!r} does not exist; make it first"
        )
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {str(path)!r}: it is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{str(path)!r} exists; choose another name, or overwrite it with overwrite=True "
            "(--overwrite on the command line)"
        )
    suffix = "".join(path.suffixes[-2:])
    temporary = folder / f".{uuid.uuid4().hex}{suffix}"
    try:  # permissions do not suffice to know that a folder is writable
        temporary.touch()
    except OSError as error:
        raise PermissionError(
            f"cannot write {str(path)!r}: nothing can be written to the folder {str(folder)!r} "
            f"({error.strerror}); choose another one"
        ) from error
    temporary.unlink()  # some writers refuse a file that exists
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_paths(folder, names, *, overwrite=False):
    """Yield temporary paths for the files ``names`` of a folder; after an error none is left.

    The folder is made if its parent exists, and removed after an error if it was made.
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        with ExitStack() as stack:
            yield [
                stack.enter_context(atomic_path(folder / name, overwrite=overwrite))
                for name in names
            ]
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


def plain(value):
    """Convert a value of numpy, nested to any depth, to plain types that JSON holds.

    Numbers that are not finite become None.
    """
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
