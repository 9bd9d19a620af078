"""COCO annotations and the images they belong to."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ..documents import read
from ..errors import SourceError, UsageError
from ..skeleton import BODY_SHARE


class _Image(msgspec.Struct, omit_defaults=True):
    id: int | float | str
    file_name: Annotated[str, Meta(min_length=1, max_length=4096)]
    width: float | None = None
    height: float | None = None


class _Note(msgspec.Struct):
    """An annotation as tools write it; :class:`_Mender` brings it to the form that the evaluator needs."""

    image_id: int | float | str
    category_id: int | float | str
    bbox: list[float | None] | None = None
    id: int | float | str | None = None
    area: float | None = None
    iscrowd: int | bool | None = None
    ignore: int | bool | None = None
    keypoints: list[float | list[float | None] | None] | None = None
    num_keypoints: float | None = None


class _Category(msgspec.Struct, omit_defaults=True):
    id: int | float | str
    name: str = ""
    keypoints: list[str] | None = None
    skeleton: list[tuple[int, int]] | None = None
    sigmas: list[float] | None = None


class _Coco(msgspec.Struct):
    """The parts of a COCO annotation file that are used (https://cocodataset.org/#format-data)."""

    images: list[_Image]
    annotations: list[_Note]
    categories: list[_Category]


_Id = int | float | str
_Item = TypeVar("_Item", _Image, _Category)
_FARTHEST = 1e7  # px


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
        truth, folder = read_annotations(data), Path(images)
        for item in truth["images"]:
            if "\\" in item["file_name"] and not (folder / item["file_name"]).is_file():
                item["file_name"] = item["file_name"].replace("\\", "/")  # written on Windows
        _check_images(truth, folder)
        return cls(truth, folder, Path(data).name)

    @property
    def paths(self) -> list[str]:
        """Paths of the images, in the order of the annotations."""
        return [str(self.folder / item["file_name"]) for item in self.truth["images"]]


def read_annotations(path: str | Path) -> dict[str, Any]:
    """Reads COCO annotations, and brings them to the form that the evaluator relies on.

    Whatever has only one reading is mended, with a warning that says what and how often: see :class:`_Mender`. Missing
    ``id``, ``iscrowd``, ``area`` and ``num_keypoints`` are filled in without one.

    Raises:
        SourceError: the file cannot be read, does not hold COCO annotations, or has an annotation with no reading or
            several; the message names its id.
    """
    mend = "Give images, annotations and categories."
    record = read(path, _Coco, "COCO annotations", SourceError, mend, nan=True)
    mender = _Mender()
    try:
        truth = mender.mend(record)
    except ValueError as error:
        raise SourceError(f"reading {path}: not COCO annotations ({error}). {mend}") from error
    if mender.mended:
        done = "; ".join(f"{what} ({count} times)" for what, count in mender.mended.items())
        warnings.warn(f"reading {path}: mended: {done}.", stacklevel=2)
    return truth


class _Mender:
    """Checks annotations and mends what has only one reading.

    Attributes:
        mended: what was mended, and how often.
    """

    def __init__(self) -> None:
        self.mended: Counter[str] = Counter()

    def mend(self, record: _Coco) -> dict[str, Any]:
        """Returns the annotations as COCO describes them. Raises ValueError where a part cannot be read."""
        images, image_of = self._unique(record.images, "images")
        kinds, kind_of = self._unique(record.categories, "categories")
        if not images:
            raise ValueError("no images in it")
        notes = []
        for number, note in enumerate(record.annotations, 1):
            name = f"annotation {number if note.id is None else note.id}"
            image, kind = image_of(note.image_id), kind_of(note.category_id)
            if image not in images:
                self.mended["annotations of images that are not listed, left out"] += 1
                continue
            if kind not in kinds:
                raise ValueError(f"{name} with category_id {str(note.category_id)[:40]!r}, there is none of that id")
            made = self._note(note, name, len(kinds[kind].keypoints or ()))
            notes.append(made | {"image_id": image, "category_id": kind})
        self._number([note.id for note in record.annotations], notes)
        return {"images": _plain(images), "categories": _plain(kinds), "annotations": notes}

    def _unique(self, items: list[_Item], what: str) -> tuple[dict[int, _Item], Callable[[_Id], int | None]]:
        """Returns items by number, and the function from their ids to the numbers.

        An item may be listed twice, two items of one id may not. Ids that are text become numbers, those of the text
        or their place in the list.
        """
        whole = [_whole(item.id) for item in items]
        places = dict(zip((item.id for item in items), range(1, len(items) + 1), strict=True))
        named = any(key is None for key in whole)
        if named:
            self.mended[f"ids of {what} that are no whole numbers, numbered by their places"] += len(items)
        elif any(not isinstance(item.id, int) for item in items):
            self.mended[f"ids of {what} written as text or with a decimal point"] += len(items)
        find = places.get if named else _whole
        found: dict[int, _Item] = {}
        for item in items:
            key = find(item.id)
            if key is not None and found.setdefault(key, item) != item:
                raise ValueError(f"two {what} with the id {str(item.id)[:40]}")
        if len(found) < len(items):
            self.mended[f"{what} listed again"] += len(items) - len(found)
        return found, find

    def _number(self, ids: list[Any], notes: list[dict[str, Any]]) -> None:
        """Numbers annotations from 1 unless their ids serve: whole, above 0 and each used once."""
        given = [note.pop("given") for note in notes]
        serve = all(type(key) is int and key > 0 for key in given) and len(set(given)) == len(given)
        if not serve and any(key is not None for key in ids):
            self.mended["annotation ids repeated, 0, missing or no whole numbers, so all were numbered anew"] += 1
        for number, (note, key) in enumerate(zip(notes, given, strict=True), 1):
            note["id"] = key if serve else number

    def _note(self, note: _Note, name: str, joints: int) -> dict[str, Any]:
        points = None if note.keypoints is None else self._points(note, name, joints)
        box = self._box(note, name, points)
        full = box[2] * box[3]
        area = note.area
        # The area of a segmentation fills a part of the box. 0, 1 or a fraction of the image would make every OKS 0.
        if area is not None and not 1e-3 * full <= area <= 1.1 * full:
            self.mended["areas that do not fit their boxes, replaced by a share of the box"] += 1
            area = None
        mended: dict[str, Any] = {
            "given": note.id,
            "bbox": list(box),
            "area": BODY_SHARE * full if area is None else area,
            "iscrowd": int(note.iscrowd or 0),
        }
        if note.ignore is not None:
            mended["ignore"] = int(note.ignore)
        if points is not None:
            visible = sum(flag > 0 for flag in points[2::3])
            if note.num_keypoints is not None and note.num_keypoints != visible:
                self.mended["num_keypoints that differ from the number of visible joints, counted anew"] += 1
            mended |= {"keypoints": points, "num_keypoints": visible}
        else:
            mended["num_keypoints"] = 0
        return mended

    def _numbers(self, given: list[Any], name: str) -> list[Any]:
        """Returns the numbers of all joints in a row, also where each joint has a list of its own."""
        lists = [item for item in given if isinstance(item, list)]
        if not lists:
            return given
        if len(lists) < len(given) or len({len(item) for item in lists}) > 1:
            raise ValueError(f"{name} with keypoints of different lengths")
        self.mended["keypoints in lists of their own"] += 1
        return [value for item in lists for value in item]

    def _points(self, note: _Note, name: str, joints: int) -> list[float]:
        """Returns x, y, flag of every joint; all are numbers."""
        given = self._numbers(list(note.keypoints or ()), name)
        if joints and len(given) == 2 * joints:
            pairs = zip(given[::2], given[1::2], strict=True)
            given = [value for x, y in pairs for value in (x, y, 2 if x or y else 0)]
            self.mended["keypoints without flags, taken as visible unless they are at 0, 0"] += 1
        if len(given) % 3:
            raise ValueError(f"{name} with {len(given)} numbers as keypoints, expected x, y and a flag for each joint")
        points: list[float] = []
        for index in range(0, len(given), 3):
            x, y, flag = given[index : index + 3]
            if (x is None or y is None) and not flag:
                self.mended["joints without coordinates that are not visible, put at 0, 0"] += 1
                x = y = flag = 0
            if x is None or y is None or flag is None:
                raise ValueError(f"{name} with joint {index // 3} visible but without coordinates, or without a flag")
            if flag < 0 or max(abs(x), abs(y)) > _FARTHEST:
                raise ValueError(f"{name} with joint {index // 3} at {x:g}, {y:g} and the flag {flag:g}")
            points += [x, y, flag]
        placed = [bool(points[index] or points[index + 1]) for index in range(0, len(points), 3)]
        if note.num_keypoints and not any(points[2::3]):
            if sum(placed) != note.num_keypoints:
                raise ValueError(f"{name} with num_keypoints {note.num_keypoints:g} and no joint whose flag is above 0")
            points[2::3] = [2 if there else 0 for there in placed]
            self.mended["flags that are all 0, set where a joint has coordinates, as many as num_keypoints says"] += 1
        return points

    def _box(self, note: _Note, name: str, points: list[float] | None) -> tuple[float, float, float, float]:
        box = [value for value in note.bbox or () if value is not None]
        if len(box) == 4 and len(note.bbox or ()) == 4:
            if box[2] < 0 or box[3] < 0 or max(map(abs, box)) > _FARTHEST:
                raise ValueError(f"{name} with the bbox {box}, expected x, y, width, height")
            return box[0], box[1], box[2], box[3]
        shown = [(x, y) for x, y, flag in zip(*[iter(points or ())] * 3, strict=True) if flag > 0]
        if box or not shown:
            raise ValueError(f"{name} without a bbox of 4 numbers")
        self.mended["missing boxes, drawn around the visible joints"] += 1
        (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*shown, strict=True))
        return left, top, right - left, bottom - top


def _whole(value: _Id) -> int | None:
    """Returns an id as a whole number, where it is one, as a number of any kind or as text."""
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return None if abs(number) >= 2**53 or (isinstance(value, float) and value != number) else number


def _plain(items: Mapping[int, Any]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(item) | {"id": key} for key, item in items.items()]


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
