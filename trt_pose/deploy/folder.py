"""A folder that appears whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import ExportError

Part = str | bytes | Path  # text, bytes, or a file to copy


def check_new_folder(folder: Path) -> None:
    """Raises ExportError unless a folder is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"writing {folder}: it exists already. Name a folder that does not, or remove it.")


def write_folder(folder: Path, parts: Mapping[str, Part]) -> None:
    """Writes files into a new folder, which appears once all of them are written.

    Args:
        folder: a folder that is missing or empty.
        parts: what each file holds, by its path in the folder.

    Raises:
        ExportError: the folder has content, or cannot be written.
    """
    check_new_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name[:32]}.", dir=folder.parent) as temporary:
            made = Path(temporary) / "made"
            for name, part in parts.items():
                path = made / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(part, Path):
                    shutil.copyfile(part, path)
                else:
                    path.write_bytes(part.encode() if isinstance(part, str) else part)
            made.replace(folder)
    except OSError as error:
        raise ExportError(f"writing {folder}: {error.strerror or error}. Choose a writable place with room.") from error
