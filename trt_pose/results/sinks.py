"""Output of results: a folder of drawn images, or a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..documents import to_json
from ..errors import SourceError
from ..files import write_atomically
from ..images.draw import save
from ..images.sources import IMAGE_SUFFIXES
from .detections import Result


class PictureFolder:
    """Writes drawn results to a folder, named after their sources; a source file is never overwritten.

    Raises:
        SourceError: the folder cannot be created, or an image cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._taken: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(f"making {folder}: {error.strerror}. Choose a writable place.") from error

    def write(self, result: Result) -> Path:
        """Draws one result, writes it and returns its path."""
        path = self.folder / self._name(result.source)
        if path.exists() and Path(result.source).exists() and path.samefile(result.source):
            path = self.folder / self._name(str(path.with_name(f"{path.stem}_poses{path.suffix}")))
        return save(result.draw(), path)

    def _name(self, source: str) -> str:
        """Names a file: ``a/b.png`` gives ``b.png``, ``clip.mp4#12`` gives ``clip_000012.jpg``; numbered if taken."""
        base, _, frame = source.rpartition("#") if _is_number(source.rpartition("#")[2]) else (source, "", "")
        path = Path(base.partition("?")[0])
        suffix = path.suffix.lower() if path.suffix.lower() in IMAGE_SUFFIXES else ".jpg"
        stem = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in path.stem) or "image"
        stem = f"{stem}_{int(frame):06d}" if frame else stem
        name, number = f"{stem}{suffix}", 2
        while name in self._taken:
            name, number = f"{stem}_{number}{suffix}", number + 1
        self._taken.add(name)
        return name


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def write_json(results: list[dict[str, Any]], path: str | Path) -> None:
    """Writes result dicts to one JSON file, atomically."""
    text = to_json(results)
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"), SourceError)
