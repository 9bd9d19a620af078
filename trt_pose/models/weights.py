"""Published weights, downloaded once to a cache folder and checked at every use; the demo's are packaged.

Most files were published without digests, so the SHA-256 of the first download is written beside the file and checked
at every later use. torchvision's file has part of its SHA-256 in its name and is checked against that after the
download.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from .. import files
from ..errors import CheckpointError, UsageError
from ..progress import progress_bar
from .card import Card

# sghub.deci.ai stopped answering in 2024; its content moved to the first mirror
# (https://github.com/Deci-AI/super-gradients/issues/2057).
MIRRORS = ("https://sg-hub-nv.s3.amazonaws.com/models", "https://sghub.deci.ai/models")
URL_VARIABLE = "TRT_POSE_WEIGHTS_URL"
_CHUNK_BYTES, _TIMEOUT_S = 1 << 20, 30
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def cache_folder() -> Path:
    """Returns the folder of the downloaded weights."""
    return files.cache_folder("weights")


def fetch(model: Card, weights: str) -> Path:
    """Returns the local file of published weights, downloading it if needed; the demo's weights are packaged.

    The environment variable ``TRT_POSE_WEIGHTS_URL`` names a private mirror: the URL of a folder with the same file
    names.

    Raises:
        UsageError: the model has no weights of that name.
        CheckpointError: no mirror could be reached (the message names the file and where to put it), or the file
            differs from the first download.
    """
    if weights not in model.weights:
        raise UsageError(
            f"weights of {model.name}: got {weights!r}, expected one of {', '.join(model.weights)}."
            " For a file of your own use checkpoint_path."
        )
    if model.packaged:
        return Path(str(resources.files("trt_pose").joinpath(f"assets/{model.packaged}")))
    name = f"{model.name}_{weights}.pth"
    path = cache_folder() / name
    if not path.exists():
        _download(name, path, model)
    _check_digest(path)
    return path


def pin(path: Path) -> None:
    """Records the SHA-256 of downloaded weights that were loaded, which later uses are checked against."""
    record = _record_of(path)
    if path.parent == cache_folder() and not record.exists():
        text = f"{files.file_sha256(path)}  {path.name}\n"
        with suppress(CheckpointError):  # a read-only, pre-filled cache is fine
            files.write_atomically(record, lambda file: file.write_text(text, encoding="utf-8"), CheckpointError)


def discard(path: Path) -> None:
    """Removes downloaded weights that could not be loaded, unless they were loaded before."""
    if path.parent == cache_folder() and not _record_of(path).exists():
        with suppress(OSError):  # a read-only, pre-filled cache
            path.unlink(missing_ok=True)


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _download(name: str, path: Path, model: Card) -> None:
    private = os.environ.get(URL_VARIABLE)
    home, remote = model.remote or (None, name)
    mirrors = (private,) if private else (home,) if home else MIRRORS
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{remote}"
        if not _is_trusted(url):
            raise UsageError(f"{URL_VARIABLE}: got {mirror!r}, expected an https or file URL, or http on this machine.")
        try:
            with _one_at_a_time(path):
                if not path.exists():
                    _download_from(url, path)
        except (OSError, EOFError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{urllib.parse.urlsplit(url).netloc or mirror}: {getattr(error, 'reason', error)}")
            continue
        if not files.file_sha256(path).startswith(model.remote_sha256):
            path.unlink()
            failures.append(f"{urllib.parse.urlsplit(url).netloc}: it sent another file")
            continue
        print(f"{name}: {model.licence}.", file=sys.stderr)
        return
    raise CheckpointError(
        f"fetching {name}: no mirror served it ({'; '.join(failures)}). Fetch {mirrors[0].rstrip('/')}/{remote} where"
        f" there is a network and put it at {path}, or set {URL_VARIABLE}, or give the file as checkpoint_path."
    )


def _is_trusted(url: str) -> bool:
    """Whether nobody on the way can change what an address serves: https, this machine, a file."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("https", "file") or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that are trusted, and to no file."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not _is_trusted(newurl) or newurl.startswith("file:"):
            raise urllib.error.HTTPError(req.full_url, code, f"it redirects to {newurl[:100]}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download_from(url: str, path: Path) -> None:
    """Downloads to a ``.part`` file and renames it; an interrupted download resumes if the server's file is unchanged.

    Raises:
        OSError: the request failed.
        http.client.HTTPException: the request failed.
        ValueError: the request failed.
        EOFError: the connection broke, or the server sent something other than a checkpoint (a login page, say).
    """
    part, tag = path.with_suffix(".part"), path.with_suffix(".part.tag")
    headers = {"User-Agent": "trt-pose"}
    done = part.stat().st_size if part.exists() and tag.exists() else 0
    if done:  # If-Range: the server sends the rest only if the file is unchanged
        headers |= {"Range": f"bytes={done}-", "If-Range": tag.read_text(encoding="utf-8")}
    try:
        opener = urllib.request.build_opener(_Redirects)
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        tag.unlink()  # the partial file is not shorter than the whole one: start again
        return _download_from(url, path)
    with response:
        if getattr(response, "status", None) != 206:
            done = 0
        _receive(response, part, tag, done)
    with part.open("rb") as file:
        old_format = file.read(1) == b"\x80"  # the old format is a pickle, the new one a zip archive
    if not (old_format or zipfile.is_zipfile(part)):
        part.unlink()
        raise EOFError("what it sent is not a checkpoint")
    tag.unlink(missing_ok=True)
    part.replace(path)
    return None


def _receive(response: Any, part: Path, tag: Path, done: int) -> None:
    length = response.headers.get("Content-Length")
    total = int(length) + done if length else None
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
    tag.unlink(missing_ok=True)
    if validator:
        tag.write_text(validator, encoding="utf-8")
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _open_own(part, os.O_APPEND if done else os.O_TRUNC) as file, progress_bar(*columns) as progress:
        task = progress.add_task(part.stem, total=total, completed=done)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            progress.advance(task, len(chunk))
    if total is not None and part.stat().st_size != total:
        raise EOFError(f"the connection broke at {part.stat().st_size} of {total} bytes")


def _open_own(path: Path, flags: int) -> BinaryIO:
    """Opens a file for writing that is no link, which others may have put into a shared folder."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags, 0o644), "wb")


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Locks the download of a file; other processes wait until it is finished."""
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = _open_own(path.with_suffix(".lock"), 0)
    except OSError as error:
        raise CheckpointError(
            f"fetching {path.name}: the cache folder {path.parent} cannot be used ({error.strerror}). Name another with"
            " XDG_CACHE_HOME."
        ) from error
    with opened as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_digest(path: Path) -> None:
    """Raises CheckpointError when the weights differ from those that were loaded first."""
    record = _record_of(path)
    if not record.exists():
        return
    known, digest = record.read_bytes().split()[:1], files.file_sha256(path)
    if known != [digest.encode()]:
        first = known[0][:16].decode("ascii", "replace") if known else "nothing"
        raise CheckpointError(
            f"checking {path}: SHA-256 {digest[:16]}..., recorded at first use as {first}..."
            " Remove both files to download it again."
        )
