"""Atomic file writing, file digests, and the cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import PoseError


def cache_folder(kind: str) -> Path:
    """Returns ``$XDG_CACHE_HOME/trt_pose/KIND``; the base is ``~/.cache`` when the variable is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:  # the user has no passwd entry and no $HOME, as in some containers
            base = tempfile.gettempdir()
    return Path(base) / "trt_pose" / kind


def write_atomically(path: str | Path, write: Callable[[Path], object], error: type[PoseError]) -> Path:
    """Calls ``write`` with a temporary path beside ``path``, then renames that file to ``path``.

    The temporary name keeps the suffix of ``path``, because some writers choose the format by it. On any error ``path``
    is unchanged and the temporary file is removed. Symbolic links are followed; devices and pipes are rejected.

    Args:
        path: the file to write.
        write: writes the content to the path it is given.
        error: exception type to raise when writing fails.

    Returns:
        ``path``.

    Raises:
        error: the folder does not exist or is not writable, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        target = path.resolve()
        temporary = _temporary(target)
        write(temporary)
        # mkstemp creates files with mode 0600: take the mode of the old file, or of the folder.
        like = target.stat().st_mode if target.exists() else target.parent.stat().st_mode & 0o666
        temporary.chmod(like & 0o777)
        temporary.replace(target)
    except OSError as problem:
        raise _sentence(path, problem, error) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def make_folder(path: str | Path, error: type[PoseError]) -> Path:
    """Creates a folder and its parents if missing, and returns it. Raises ``error`` when it is not writable."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise _sentence(path, problem, error) from problem
    check_writable(path / "anything", error)
    return path


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_writable(path: str | Path, error: type[PoseError]) -> None:
    """Raises ``error`` if :func:`write_atomically` cannot write ``path``; called before its content is computed."""
    path = Path(path)
    try:
        _temporary(path.resolve()).unlink()
    except OSError as problem:
        raise _sentence(path, problem, error) from problem


def _temporary(path: Path) -> Path:
    if path.is_dir():
        raise IsADirectoryError(21, "it is a folder, not a file")
    if path.exists() and not path.is_file():
        raise OSError(22, "it is a device or a pipe, not a file")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(descriptor)
    return Path(name)


def _sentence(path: Path, problem: OSError, error: type[PoseError]) -> PoseError:
    return error(f"writing {path}: {problem.strerror or problem}. Choose a writable place with room.")
