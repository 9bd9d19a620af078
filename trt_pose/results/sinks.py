"""Output of results: drawn pictures and videos, JSON, JSON lines and CSV, written as the results come.

Nothing replaces a file that the run did not make, unless it is asked to, and never a source.
"""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Iterable, Mapping, Set
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..documents import parse, to_json
from ..errors import SourceError, UsageError
from ..files import take_place, temporary_beside, write_atomically
from ..images.draw import save
from ..images.reading import Clip, Unreadable
from ..images.sources import IMAGE_SUFFIXES
from ..images.video import VideoWriter
from .detections import Result

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
_RATE = Fraction(25)  # of videos that do not say theirs


class Drawings:
    """Draws results into pictures and videos.

    Args:
        path: a folder, which gets a picture per image and a video per video; or one picture (``.jpg``, ``.png``, …) or
            video (``.mp4``, ``.mov``, ``.mkv``).
        frames: write the frames of videos as pictures.
        overwrite: replace files that the run did not make.
        sources: files that the run reads, which are never replaced.

    Raises:
        SourceError: the folder cannot be made, a file is there already, or cannot be written.
    """

    def __init__(
        self, path: str | Path, *, frames: bool = False, overwrite: bool = False, sources: Iterable[Path] = ()
    ) -> None:
        self.path, self._frames, self._overwrite = Path(path), frames, overwrite
        self._sources = resolved(sources)
        suffix = self.path.suffix.lower()
        self._is_video, self._is_picture = suffix in VIDEO_SUFFIXES, suffix in IMAGE_SUFFIXES
        self._made: set[Path] = set()
        self._videos: dict[str, VideoWriter] = {}
        if self._is_video or self._is_picture:
            self._check(self.path)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(f"making {path}: {error.strerror}. Choose a writable place.") from error

    def write(self, result: Result) -> Path:
        """Draws one result; returns the file that it goes to."""
        clip = result.clip
        if self._is_video or (clip is not None and not self._frames and not self._is_picture):
            return self._write_frame(result, clip)
        if self._is_picture:
            if self._made:
                raise UsageError(f"--save {self.path}: that is one picture, and there are several. Name a folder.")
            path = self.path
        else:
            path = self._free(_picture_name(result))
        self._check(path)
        self._made.add(save(result.draw(), path))
        return path

    def _write_frame(self, result: Result, clip: Clip | None) -> Path:
        name = "" if self._is_video or clip is None else clip.name
        if name not in self._videos:
            source = None if clip is None else clip.file
            path = self.path if self._is_video else self._free(f"{_stem(name)}.mp4")
            self._check(path)
            self._videos[name] = VideoWriter(path, (clip and clip.rate) or _RATE, source)
            self._made.add(path)
        self._videos[name].write(result.draw())
        return self._videos[name].path

    def _free(self, name: str) -> Path:
        """Returns a path in the folder that no result of this run has taken, and that is no source."""
        stem, suffix = Path(name).stem, Path(name).suffix
        numbered = (f"{stem}_{number}{suffix}" for number in itertools.count(2))
        names = itertools.chain([name], numbered)
        if _resolved(self.path / name) in self._sources:
            names = itertools.chain([f"{stem}_poses{suffix}"], names)
        paths = (self.path / other for other in names)
        return next(path for path in paths if path not in self._made and _resolved(path) not in self._sources)

    def _check(self, path: Path) -> None:
        """Raises SourceError before a file is replaced that the run did not make."""
        check_new(path, self._overwrite, self._sources)

    def close(self) -> None:
        """Finishes the videos; each appears whole."""
        problems = []
        for writer in self._videos.values():
            try:
                writer.close()
            except SourceError as error:
                problems.append(error)
        self._videos.clear()
        if problems:
            raise problems[0]

    def __str__(self) -> str:
        return str(self.path)


def resolved(paths: Iterable[Path]) -> Set[Path]:
    """Returns the paths without links and dots, to compare others with."""
    return {_resolved(path) for path in paths}


def check_new(path: Path, overwrite: bool, sources: Set[Path] = frozenset()) -> None:
    """Raises SourceError when ``path`` exists and may not be replaced, or is among the :func:`resolved` sources."""
    if _resolved(path) in sources:
        raise SourceError(f"writing {path}: it is a source of this run. Name another file.")
    if path.is_dir():
        raise SourceError(f"writing {path}: it is a folder, expected a file. Name a file.")
    if path.exists() and not overwrite:
        raise SourceError(f"writing {path}: it is there already. Name another file, or add --overwrite.")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or no path at all
        return path


def _picture_name(result: Result) -> str:
    """Names a picture: ``a/b.png`` gives ``b.png``, ``clip.mp4#12`` gives ``clip_000012.jpg``."""
    if result.index is not None and result.clip is not None:
        return f"{_stem(result.clip.name)}_{result.index:06d}.jpg"
    suffix = Path(result.origin.partition("?")[0]).suffix.lower()
    kept = suffix if suffix in IMAGE_SUFFIXES - {".gif", ".avif"} else ".jpg"
    return f"{_stem(result.origin)}{kept}"


def _stem(name: str) -> str:
    stem = Path(name.partition("?")[0]).stem
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in stem)[:120] or "image"


class Records:
    """A file of records, one for each result and each source that could not be read; base of the formats.

    The records lie in a temporary file, which takes its name when the run ends, however that happens.

    Args:
        path: the file; ``-`` is standard output.
        overwrite: replace a file that is there already.
    """

    _mode = "w"

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.count = 0
        self._stack = ExitStack()
        self._file: IO[str]
        if str(path) == "-":
            self._target, self._file = None, sys.stdout
        else:
            check_new(self.path, overwrite)
            try:
                self._target = self._place()
                self._file = self._target.open(self._mode, encoding="utf-8", newline="")
            except OSError as error:
                raise SourceError(f"writing {path}: {error.strerror}. Choose a writable place.") from error
        self.begin()

    def _place(self) -> Path:
        return self._stack.enter_context(temporary_beside(self.path))

    def begin(self) -> None:
        """Writes what comes before the records."""

    def end(self) -> None:
        """Writes what comes after the records."""

    def add(self, record: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a record: a dict, and the same as flat rows."""
        raise NotImplementedError

    def close(self) -> None:
        try:
            self.end()
            if self._target is None:
                self._file.flush()
                return
            self._file.close()
            if self._target != self.path:
                take_place(self._target, self.path)
                self._stack.close()
        except OSError as error:
            raise SourceError(f"writing {self.path}: {error.strerror}. Choose a place with room.") from error


class JsonFile(Records):
    """One JSON array."""

    def begin(self) -> None:
        self._file.write("[")

    def add(self, record: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:  # noqa: ARG002
        self._file.write(("," if self.count else "") + "\n" + to_json(dict(record)))
        self.count += 1

    def end(self) -> None:
        self._file.write("\n]\n" if self.count else "]\n")


class JsonLines(Records):
    """One JSON object a line, in place and at once: another program may follow the file.

    Args:
        path: the file; ``-`` is standard output.
        overwrite: replace a file that is there already.
        resume: go on with a file that is there already, see :func:`finished_sources`.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self._mode = "a" if resume else "w"
        super().__init__(path, overwrite=overwrite or resume)

    def _place(self) -> Path:
        return self.path

    def add(self, record: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:  # noqa: ARG002
        self._file.write(to_json(dict(record), None) + "\n")
        self._file.flush()
        self.count += 1


class CsvFile(Records):
    """One row for each prediction, with a header; sources that could not be read have none."""

    def add(self, record: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:  # noqa: ARG002
        for row in rows:
            if self.count == 0:
                self._writer = csv.DictWriter(self._file, list(row))
                self._writer.writeheader()
            self._writer.writerow(row)
            self.count += 1


class Outputs:
    """All outputs of a run, closed however it ends."""

    def __init__(self, drawings: Drawings | None, records: Iterable[Records]) -> None:
        self.drawings, self._records = drawings, tuple(records)

    def write(self, item: Result | Unreadable) -> None:
        """Writes one result, or the record of a source that could not be read."""
        if isinstance(item, Unreadable):
            for records in self._records:
                records.add(item.to_dict(), ())
            return
        if self.drawings is not None:
            self.drawings.write(item)
        if self._records:
            record, rows = item.to_dict(), item.to_rows()
            for records in self._records:
                records.add(record, rows)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        problems = []
        closers = [records.close for records in self._records]
        for close in [*closers, self.drawings.close] if self.drawings else closers:
            try:
                close()
            except SourceError as problem:
                problems.append(problem)
        if problems and error is None:
            raise problems[0]


def finished_sources(path: Path) -> set[str]:
    """Returns the sources that a file of JSON lines has the records of, and cuts off what is unfinished.

    That is a line that was not written to its end, and the records of a video that come last, which may lack some.

    Raises:
        SourceError: it is another kind of file, or cannot be changed.
    """
    done, end, last, begin = set[str](), 0, "", 0
    try:
        with path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                record = parse(line)
                name = str(record["source"])
                if "index" in record:
                    name = name.rpartition("#")[0]
                    begin = begin if name == last else end
                last = name if "index" in record else ""
                done.add(name)
                end += len(line)
            if last:
                done.discard(last)
            file.truncate(begin if last else end)
    except OSError as error:
        raise SourceError(f"reading {path}: {error.strerror}. Choose a writable file.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"reading {path}: it is no file that --jsonl wrote. Name another one.") from error
    return done


def write_json(results: list[dict[str, Any]], path: str | Path) -> None:
    """Writes result dicts to one JSON file, atomically."""
    text = to_json(results)
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"), SourceError)
