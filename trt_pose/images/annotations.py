"""COCO annotations and the images they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..documents import read
from ..errors import SourceError, UsageError
from ..skeleton import BODY_SHARE


class _Image(msgspec.Struct, omit_defaults=True):
    id: int
    file_name: Annotated[str, Meta(min_length=1, max_length=4096)]
    width: int | None = None
    height: int | None = None


class _Note(msgspec.Struct, omit_defaults=True):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int | None = None
    area: float | None = None
    iscrowd: int | None = None
    ignore: int | None = None
    keypoints: list[float] | None = None
    num_keypoints: int | None = None


class _Category(msgspec.Struct, omit_defaults=True):
    id: int
    name: str = ""
    keypoints: list[str] | None = None
    skeleton: list[tuple[int, int]] | None = None
    sigmas: list[float] | None = None


class _Coco(msgspec.Struct):
    """The parts of a COCO annotation file that are used (https://cocodataset.org/#format-data)."""

    images: list[_Image]
    annotations: list[_Note]
    categories: list[_Category]


@dataclass(frozen=True)
class Annotations:
    """COCO annotations and the folder of their images.

    Attributes:
        truth: the annotations, with the fields that the evaluator needs filled in.
        folder: folder of the images.
        name: name of the annotation file.
    """

    truth: dict[str, Any]
    folder: Path
    name: str

    @classmethod
    def read(cls, data: str | Path, images: str | Path) -> Annotations:
        """Reads annotations and checks their images. Raises SourceError when they are damaged or images are missing."""
        truth = read_annotations(data)
        _check_images(truth, Path(images))
        return cls(truth, Path(images), Path(data).name)

    @property
    def paths(self) -> list[str]:
        """Paths of the images, in the order of the annotations."""
        return [str(self.folder / item["file_name"]) for item in self.truth["images"]]


def read_annotations(path: str | Path) -> dict[str, Any]:
    """Reads COCO annotations and fills in the fields that the evaluator needs.

    The fields are ``id``, ``iscrowd``, ``area`` and ``num_keypoints``. Annotations of unknown images are dropped.

    Raises:
        SourceError: the file cannot be read or does not hold COCO annotations.
    """
    mend = "Give images, annotations and categories."
    record = read(path, _Coco, "COCO annotations", SourceError, mend)
    try:
        return _fill(record)
    except ValueError as error:
        raise SourceError(f"reading {path}: not COCO annotations ({error}). {mend}") from error


def _fill(record: _Coco) -> dict[str, Any]:
    """Checks the references between the parts and fills in what the evaluator needs."""
    known, kinds = {item.id for item in record.images}, {item.id for item in record.categories}
    if len(known) < len(record.images) or len(kinds) < len(record.categories):
        raise ValueError("two images or categories with one id")
    if not record.images:
        raise ValueError("no images in it")
    notes = []
    for number, note in enumerate(record.annotations, 1):
        if note.image_id not in known:
            continue
        if note.category_id not in kinds or len(note.keypoints or ()) % 3:
            raise ValueError(f"annotation {note.id or number} with a category or keypoints there are none of")
        plain = msgspec.to_builtins(note)
        x, y, width, height = note.bbox
        visible = sum(flag > 0 for flag in (note.keypoints or ())[2::3])
        filled = {"id": number, "iscrowd": 0, "area": BODY_SHARE * width * height, "num_keypoints": visible}
        notes.append({**filled, **plain, "bbox": [x, y, width, height]})
    parts = {"images": record.images, "categories": record.categories}
    return {**{name: msgspec.to_builtins(part) for name, part in parts.items()}, "annotations": notes}


def _check_images(truth: Mapping[str, Any], folder: Path) -> None:
    missing = [item["file_name"] for item in truth["images"] if not (folder / item["file_name"]).is_file()]
    if missing:
        raise SourceError(
            f"opening {folder}: {len(missing)} of the {len(truth['images'])} annotated images are not there,"
            f" {missing[0]} for one. Name the folder they are in."
        )


def pose_categories(truth: Mapping[str, Any], joints: int) -> list[int]:
    """Returns the ids of the categories annotated with ``joints`` joints. Raises UsageError when there is none."""
    categories = {note["category_id"] for note in truth["annotations"] if len(note.get("keypoints", ())) == 3 * joints}
    if not categories:
        counts = sorted({len(note["keypoints"]) // 3 for note in truth["annotations"] if note.get("keypoints")})
        raise UsageError(
            f"reading the annotations: none has the model's {joints} joints (they have"
            f" {', '.join(map(str, counts)) or 'no'} joints). Use the data it is for."
        )
    return [int(item["id"]) for item in truth["categories"] if item["id"] in categories]
