"""Training pictures as a torch data set and loader: COCO annotations with any joints, or synthetic people.

The index of an item continues to count across epochs. All randomness of an item derives from this index and the seed,
so a resumed training run sees the same pictures as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import PoseError, SourceError
from ..images.annotations import Annotations, pose_categories
from ..images.pixels import Image, letterbox, read
from ..images.synthetic import SCENE_SIDE, SCENES, Scene, SyntheticPeople
from ..skeleton import Skeleton
from ..spec import InputSpec
from .augment import Augmentation
from .truth import People, Truth

Item = tuple[Tensor, People]
_TRAINING_SEEDS = 2**63  # above the seeds that trt-pose eval may use for SyntheticPeople


class Pictures(Protocol):
    """Protocol of the training data."""

    def __len__(self) -> int:
        """Returns the number of pictures per epoch."""

    def __getitem__(self, number: int) -> Item:
        """Returns picture ``number``, which counts on across epochs: (3, H, W) uint8 RGB, and its people."""


class CocoPictures(Dataset[Item]):
    """Pictures with COCO keypoint annotations.

    Args:
        data: annotations and the folder of their images.
        spec: description of the network input.
        skeleton: joints to learn; the annotations must have as many.
        augmentation: random changes of the pictures; None for none.
        seed: seed of the augmentation.

    Raises:
        SourceError: no person is annotated.
        UsageError: the annotations have another number of joints.
    """

    def __init__(
        self,
        data: Annotations,
        spec: InputSpec,
        skeleton: Skeleton,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self._paths = data.paths
        self._people = _read_people(data.truth, skeleton)
        self._spec, self._skeleton, self._augmentation, self._seed = spec, skeleton, augmentation, seed

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Item:
        place = number % len(self)
        image = read(self._paths[place])
        pixels, placed = letterbox(image, self._spec)  # (3, H, W)
        canvas: Image = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        found = self._people[place]
        scale, offset = (placed.scale_x, placed.scale_y), (placed.left, placed.top)
        joints = found.joints.copy()
        joints[..., :2] = np.where(joints[..., 2:] > 0, joints[..., :2] * scale + offset, 0)
        people = People((found.boxes * (scale * 2) + offset * 2).astype(np.float32), joints, found.crowd)
        if self._augmentation is not None:
            rng = np.random.default_rng((self._seed, number))
            canvas, people = self._augmentation.apply(canvas, people, self._skeleton, self._spec.pad_value, rng)
        return torch.from_numpy(canvas).permute(2, 0, 1), people


def _read_people(truth: Mapping[str, Any], skeleton: Skeleton) -> list[People]:
    """Returns the people of each image, px of the image, without people whose box is at most 1 px wide or high.

    Raises:
        SourceError: no person is annotated.
        UsageError: the annotations have another number of joints.
    """
    joints = skeleton.num_joints
    categories = pose_categories(truth, joints)
    notes: dict[Any, list[tuple[list[float], list[float], bool]]] = {item["id"]: [] for item in truth["images"]}
    for note in truth["annotations"]:
        x, y, width, height = note["bbox"]
        if width > 1 and height > 1 and note["category_id"] in categories:
            points = note.get("keypoints") or [0.0] * (3 * joints)
            if len(points) != 3 * joints:
                raise SourceError(
                    f"reading the annotations: annotation {note['id']} has {len(points) // 3} joints, expected"
                    f" {joints}. Correct it, or leave it out."
                )
            notes[note["image_id"]].append(([x, y, x + width, y + height], points, bool(note["iscrowd"])))
    if not any(notes.values()):
        raise SourceError("reading the annotations: nobody is annotated. Use the data of people with keypoints.")
    return [
        People(
            np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
            np.array([points for _, points, _ in rows], np.float32).reshape(-1, joints, 3),
            np.array([crowd for _, _, crowd in rows], bool),
        )
        for rows in notes.values()
    ]


class SyntheticPictures(Dataset[Item]):
    """Synthetic pictures, new ones in every epoch, with people scaled from 320 px to the network input.

    Args:
        count: pictures per epoch.
        spec: description of the network input.
        seed: seed of the pictures.
        scene: number and size of the people, for pictures of 320 px; None for the ``sparse`` scene.
    """

    def __init__(self, count: int, spec: InputSpec, seed: int = 0, scene: Scene | None = None) -> None:
        self._count = count
        scale = min(spec.height, spec.width) / SCENE_SIDE
        scene = (scene or SCENES["sparse"]).scaled(scale)
        # No seed of trt-pose eval produces the same pictures.
        self._people = SyntheticPeople(2**31, (spec.height, spec.width), _TRAINING_SEEDS + seed, scene)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Item:
        sample = self._people[number]
        people = People(sample.boxes, sample.joints, np.zeros(len(sample.boxes), bool))
        return torch.from_numpy(sample.image).permute(2, 0, 1), people


class _Numbers(Sampler[int]):
    """Sampler of the picture numbers of an epoch, shuffled by the epoch and the seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.epoch = 0
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._count)
        return (self.epoch * self._count + int(place) for place in order)


class Batches:
    """Batches of an epoch: (B, 3, H, W) uint8 RGB and their people; an incomplete last batch is dropped.

    Args:
        pictures: the training data.
        size: pictures per batch; all pictures when there are fewer.
        seed: seed of the order.
        workers: number of loader processes; 0 loads in this process.
        pinned: whether to use page-locked memory, for a GPU.
    """

    def __init__(self, pictures: Pictures, size: int, seed: int = 0, workers: int = 0, pinned: bool = False) -> None:
        self._numbers = _Numbers(len(pictures), seed)
        self._loader: DataLoader[Any] = DataLoader(
            _Careful(pictures),
            batch_size=min(size, len(pictures)),
            sampler=self._numbers,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pinned,
            drop_last=True,
            worker_init_fn=_one_thread,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Truth]]:
        """Yields the batches of epoch ``number``, from 0. Raises SourceError for a picture that cannot be read."""
        self._numbers.epoch = number
        for batch in self._loader:
            if isinstance(batch, PoseError):
                raise batch
            yield batch


class _Careful(Dataset[Any]):
    """Data set that returns errors as values, because an error raised in a worker would arrive as a traceback."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, number: int) -> Item | PoseError:
        try:
            return self._pictures[number]
        except PoseError as error:
            return error


def _collate(items: Sequence[Any]) -> tuple[Tensor, Truth] | PoseError:
    for item in items:
        if isinstance(item, PoseError):
            return item
    return torch.stack([pixels for pixels, _ in items]), Truth.of([people for _, people in items])


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)
