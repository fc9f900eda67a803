"""Files appear whole or not at all."""

import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

__all__ = ["atomic_path", "atomic_paths", "plain"]


@contextmanager
def atomic_path(path, *, overwrite=False):
    """Give a temporary path to write to, and move it to ``path`` once that has worked.

    The temporary file lies in the same folder, so that the move is one step of the file
    system: a reader sees the old file or the new one, never half of one. After an error
    nothing is left behind and what stood at ``path`` is untouched.

    Parameters
    ----------
    path : str or path-like
        Where the file is to appear. Its folder has to exist.
    overwrite : bool, optional
        Replace a file that is there already. By default that is refused.

    Yields
    ------
    pathlib.Path
        The temporary path, with the suffix of ``path``.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is false.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    IsADirectoryError
        If ``path`` is a folder.
    PermissionError
        If the folder cannot be written to.
    """
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
    try:  # permissions do not tell all: only trying does
        temporary.touch()
    except OSError as error:
        raise PermissionError(
            f"cannot write {str(path)!r}: nothing can be written to the folder {str(folder)!r} "
            f"({error.strerror}); choose another one"
        ) from error
    temporary.unlink()  # some writers refuse a file that is there
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_paths(folder, names, *, overwrite=False):
    """Give temporary paths for the files of a folder, which appear all or none.

    Parameters
    ----------
    folder : str or path-like
        Made if its parent exists, and removed again after an error.
    names : sequence of str
        Of the files.
    overwrite : bool, optional
        Replace files that are there already. By default that is refused.

    Yields
    ------
    list of pathlib.Path
        The temporary paths.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        As `atomic_path`.
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
    """Turn numpy's values into what JSON knows.

    Parameters
    ----------
    value : dict, list, tuple, numpy.ndarray or a single value
        However deep.

    Returns
    -------
    dict, list or a single value
        With None for numbers that are not finite.
    """
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
