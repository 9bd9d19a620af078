"""Synthetic images and clips as files, with COCO annotations."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..documents import to_json
from ..errors import SourceError
from ..files import make_folder, write_atomically
from ..skeleton import COCO
from . import draw
from .synthetic import Sample, SyntheticPeople
from .synthetic_clip import SyntheticClip
from .video import VideoWriter


def write_coco(people: SyntheticPeople, folder: str | Path) -> Path:
    """Writes the images and ``annotations.json`` to ``folder``; returns the path of the annotations.

    Raises:
        SourceError: the folder cannot be written to.
    """
    folder = make_folder(folder, SourceError)
    notes = _Annotations()
    for number, sample in enumerate(people, 1):
        name = f"{number:06d}.png"
        draw.save(sample.image, folder / name)
        notes.add(sample, name)
    return notes.write(folder / "annotations.json")


def write_clip(clip: SyntheticClip, path: str | Path) -> Path:
    """Writes a video, and annotations beside it (``walk.mp4`` and ``walk.json``); returns the path of the annotations.

    Each frame is an image of the annotations, ``walk.mp4#0`` and so on; ``track_id`` tells who a person is.

    Raises:
        SourceError: a file cannot be written.
    """
    path = Path(path)
    notes, writer = _Annotations(), VideoWriter(path, Fraction(clip.rate).limit_denominator(1001), None)
    try:
        for number, sample in enumerate(clip):
            writer.write(sample.image)
            notes.add(sample, f"{path.name}#{number}")
    finally:
        writer.close()
    return notes.write(path.with_suffix(".json"))


class _Annotations:
    """COCO keypoint annotations, one image at a time."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._notes: list[dict[str, Any]] = []

    def add(self, sample: Sample, name: str) -> None:
        height, width = sample.image.shape[:2]
        self._images.append({"id": len(self._images) + 1, "file_name": name, "height": height, "width": width})
        self._notes += self._people(sample)

    def _people(self, sample: Sample) -> Iterator[dict[str, Any]]:
        first = len(self._notes) + 1
        for row, (joints, box, area) in enumerate(zip(sample.joints, sample.boxes, sample.areas, strict=True)):
            x1, y1, x2, y2 = (float(side) for side in box)
            yield {
                "id": first + row,
                "image_id": len(self._images),
                "category_id": 1,
                "iscrowd": 0,
                "area": float(area),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "num_keypoints": int((joints[:, 2] > 0).sum()),
                "keypoints": [round(float(value), 2) for value in joints.reshape(-1)],
                **({} if sample.ids is None else {"track_id": int(sample.ids[row])}),
            }

    def write(self, path: Path) -> Path:
        edges = [[first + 1, second + 1] for first, second in COCO.edges]  # COCO counts joints from 1 here
        categories = [{"id": 1, "name": "person", "keypoints": list(COCO.names), "skeleton": edges}]
        record = {"images": self._images, "annotations": self._notes, "categories": categories}
        return write_atomically(
            path, lambda target: target.write_text(to_json(record, None), encoding="utf-8"), SourceError
        )
