"""COCO annotations and the images they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SourceError, UsageError
from ..skeleton import BODY_SHARE


@dataclass(frozen=True)
class Annotated:
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
    def read(cls, data: str | Path, images: str | Path) -> Annotated:
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
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        truth = {name: list(record[name]) for name in ("images", "annotations", "categories")}
        known, kinds = ({item["id"] for item in truth[name]} for name in ("images", "categories"))
        if len(known) < len(truth["images"]) or len(kinds) < len(truth["categories"]):
            raise ValueError("two images or categories with one id")
        kept = []
        for number, item in enumerate(truth["annotations"], 1):
            if item["image_id"] not in known:
                continue
            x, y, width, height = item["bbox"]
            if item["category_id"] not in kinds or len(item.get("keypoints", ())) % 3:
                raise ValueError(f"annotation {item.get('id', number)} with a category or keypoints there are none of")
            visible = sum(flag > 0 for flag in item.get("keypoints", ())[2::3])
            filled = {"id": number, "iscrowd": 0, "area": BODY_SHARE * width * height, "num_keypoints": visible}
            kept.append({**filled, **item, "bbox": [x, y, width, height]})
        truth["annotations"] = kept
        if not truth["images"] or not all(isinstance(item["file_name"], str) for item in truth["images"]):
            raise ValueError("no images in it")
        return truth
    except OSError as error:
        raise SourceError(f"reading {path}: {error.strerror or error}. Check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"reading {path}: not COCO annotations ({type(error).__name__}: {error}). Give images, annotations and"
            " categories."
        ) from error


def _check_images(truth: Mapping[str, Any], folder: Path) -> None:
    missing = [item["file_name"] for item in truth["images"] if not (folder / item["file_name"]).is_file()]
    if missing:
        raise SourceError(
            f"opening {folder}: {len(missing)} of the {len(truth['images'])} annotated images are not there,"
            f" {missing[0]} for one. Name the folder they are in."
        )


def pose_categories(truth: Mapping[str, Any], joints: int) -> list[int]:
    """Returns the ids of the categories annotated with ``joints`` joints. Raises UsageError when there is none."""
    found = {note["category_id"] for note in truth["annotations"] if len(note.get("keypoints", ())) == 3 * joints}
    if not found:
        counts = sorted({len(note["keypoints"]) // 3 for note in truth["annotations"] if note.get("keypoints")})
        raise UsageError(
            f"reading the annotations: none has the model's {joints} joints (they have"
            f" {', '.join(map(str, counts)) or 'no'} joints). Use the data it is for."
        )
    return [int(item["id"]) for item in truth["categories"] if item["id"] in found]
