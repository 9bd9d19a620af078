"""Atomic file writing, temporary folders, locks, file digests, and the cache folder."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .errors import PoseError

_LONGEST_STEM = 32  # letters of the name that a temporary file begins with
# Only folders of this name are removed: pictures that a viewer shows lie in others, and stay.
_FOLDERS = "trt_pose_run_"
# A temporary file or folder is locked right after it is made; younger ones may not be locked yet.
_FRESH_S = 2.0


def cache_folder(kind: str) -> Path:
    """Returns ``$XDG_CACHE_HOME/trt_pose/KIND``; the base is ``~/.cache`` when the variable is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:  # the user has no passwd entry and no $HOME, as in some containers
            base = str(Path(tempfile.gettempdir()) / f"trt_pose-{os.getuid()}")  # others may write to the folder itself
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
    write_together({Path(path): write}, error)
    return Path(path)


def write_together(parts: Mapping[Path, Callable[[Path], object]], error: type[PoseError]) -> None:
    """Does what :func:`write_atomically` does for files that belong together: none is renamed before all are written.

    Args:
        parts: for each file, what writes its content to the path it is given.
        error: exception type to raise when writing fails.
    """
    with ExitStack() as stack:
        temporaries = []
        for path, write in parts.items():
            with _writing(path, error):
                target = resolve(path)
                temporary = stack.enter_context(temporary_beside(target))
                write(temporary)
            temporaries.append((path, temporary, target))
        for path, temporary, target in temporaries:
            with _writing(path, error):
                take_place(temporary, target)


def take_place(temporary: Path, target: Path) -> None:
    """Renames a temporary file to ``target``, with the mode of the old file, or of the folder."""
    like = target.stat().st_mode if target.exists() else target.parent.stat().st_mode & 0o666
    temporary.chmod(like & 0o777)
    temporary.replace(target)


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """Makes a folder for temporary files, and removes it at the end.

    Folders of killed processes are removed at the start. The lock of a folder says that its process is alive, also in
    another container.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}{kind}_"))
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def exclusive(folder: Path, error: type[PoseError]) -> Iterator[None]:
    """Locks a folder for this run. Raises ``error`` when another run writes to it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(lock):
            raise error(f"writing to {folder}: another run writes to it. Wait for it, or name another folder.")
        yield
    finally:
        os.close(lock)


def _lock(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed; False when another process holds it.

    Where the file system has no locks, the result is True although nothing is locked.
    """
    with suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _is_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder belongs to a process of this user that has ended."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or time.time() - found.st_mtime < _FRESH_S:
            return False
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def make_folder(path: str | Path, error: type[PoseError]) -> Path:
    """Creates a folder and its parents if missing, and returns it. Raises ``error`` when it is not writable."""
    path = Path(path)
    with _writing(path, error):
        path.mkdir(parents=True, exist_ok=True)
    check_writable(path / "anything", error)
    return path


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_readable(path: str | Path, doing: str, error: type[PoseError]) -> Path:
    """Raises ``error`` unless ``path`` is a file that can be opened: pipes and devices would never end.

    Args:
        path: the file, or a link to it.
        doing: the start of the message: ``opening``.
        error: exception type to raise.

    Returns:
        ``path``.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise error(f"{doing} {path}: it is a folder, not a file. Name the file in it.")
        if not stat.S_ISREG(mode):
            raise error(f"{doing} {path}: it is a device or a pipe, not a file. Copy its content to a file.")
        with path.open("rb"):
            pass
    except FileNotFoundError as problem:
        raise error(f"{doing} {path}: there is no such file. Check the path.") from problem
    except (OSError, ValueError) as problem:  # ValueError: a null character in the name
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{doing} {path}: {reason}. Check the path and its permissions.") from problem
    return path


def check_writable(path: str | Path, error: type[PoseError]) -> None:
    """Raises ``error`` if :func:`write_atomically` cannot write ``path``; called before its content is computed."""
    path = Path(path)
    with _writing(path, error), temporary_beside(resolve(path)):
        pass


def resolve(path: Path) -> Path:
    """Returns the absolute path behind all links. Raises OSError for links that go round in a circle."""
    try:
        return path.resolve()
    except RuntimeError as error:  # until Python 3.12
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Makes an empty, locked file beside ``path``, for :func:`take_place`, and removes it at the end.

    Those of ``path`` that killed processes have left are removed, too.
    """
    if path.is_dir():
        raise IsADirectoryError(21, "it is a folder, not a file")
    if path.exists() and not path.is_file():
        raise OSError(22, "it is a device or a pipe, not a file")
    prefix = f".{path.stem[:_LONGEST_STEM]}."  # names of up to 255 bytes are legal; the temporary's is longer
    lock, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    try:
        _lock(lock)
        for left in path.parent.glob(f"{glob.escape(prefix)}????????{glob.escape(path.suffix)}"):
            if _is_abandoned(left):
                left.unlink(missing_ok=True)
        yield Path(name)
    finally:
        os.close(lock)
        Path(name).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path, error: type[PoseError]) -> Iterator[None]:
    """Turns an OSError into ``error`` with a sentence that names ``path``."""
    try:
        yield
    except OSError as problem:
        raise error(f"writing {path}: {problem.strerror or problem}. Choose a writable place with room.") from problem
