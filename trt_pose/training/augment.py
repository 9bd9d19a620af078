"""Random changes of a training picture and the people in it: mirroring, an affine map, colours. No mosaics.

Ranges are those of the published recipes where they are known (scale 0.75 to 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ..images.pixels import Image
from ..skeleton import Skeleton
from .truth import Floats, People

# Of whom less of the box is left in the picture is not learnt from it.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Augmentation:
    """How much to change.

    Attributes:
        flip: probability of mirroring, of joints that are known to come in pairs.
        affine: probability of the affine map; color: of changed colours.
        rotation_deg: at most, either way. scale: smallest and largest. translation: share of the picture, at most.
        brightness, contrast, saturation: relative change, at most. hue_deg: of 360.
    """

    flip: float = 0.5
    affine: float = 0.75
    color: float = 0.5
    rotation_deg: float = 15.0
    scale: tuple[float, float] = (0.75, 1.5)
    translation: float = 0.1
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.3
    hue_deg: float = 10.0

    def apply(
        self, image: Image, people: People, skeleton: Skeleton, pad_value: int, rng: np.random.Generator
    ) -> tuple[Image, People]:
        """A changed picture (H, W, 3) uint8 RGB of the same size, and its people.

        Everything random is drawn from ``rng``, always as often: the same generator makes the same picture.
        """
        dice = rng.uniform(size=3)
        matrix = self._matrix(rng, image.shape[0], image.shape[1])
        gains = rng.uniform(-1, 1, 4)
        if dice[0] < self.flip and skeleton.flip_pairs:
            image, people = mirror(image, people, skeleton)
        if dice[1] < self.affine:
            image, people = warp(image, people, matrix, pad_value)
        if dice[2] < self.color:
            image = self._recolor(image, gains)
        return image, people

    def _matrix(self, rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float64]:
        """Rotation and scale about the centre, then a shift: (2, 3)."""
        angle = rng.uniform(-self.rotation_deg, self.rotation_deg)
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        matrix = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale), np.float64)
        matrix[:, 2] += rng.uniform(-self.translation, self.translation, 2) * (width, height)
        return matrix

    def _recolor(self, image: Image, gains: npt.NDArray[np.float64]) -> Image:
        brightness, contrast, saturation, hue = gains
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)  # hue is in half degrees
        hsv[..., 0] = (hsv[..., 0] + hue * self.hue_deg / 2) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * (1 + saturation * self.saturation), 0, 255)
        rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
        mean = rgb.mean()
        rgb = (rgb - mean) * (1 + contrast * self.contrast) + mean * (1 + brightness * self.brightness)
        changed: Image = np.clip(rgb, 0, 255).astype(np.uint8)
        return changed


def mirror(image: Image, people: People, skeleton: Skeleton) -> tuple[Image, People]:
    """Left and right swapped, in the picture and in the names of the joints."""
    edge = image.shape[1] - 1  # the last pixel's centre
    boxes, joints = people.boxes.copy(), people.joints.copy()
    boxes[:, [0, 2]] = edge + 1 - boxes[:, [2, 0]]
    joints[..., 0] = np.where(joints[..., 2] > 0, edge - joints[..., 0], 0)
    order = np.arange(joints.shape[1])
    for left, right in skeleton.flip_pairs:
        order[left], order[right] = right, left
    return np.ascontiguousarray(image[:, ::-1]), People(boxes, joints[:, order], people.crowd)


def warp(image: Image, people: People, matrix: npt.NDArray[np.float64], pad_value: int) -> tuple[Image, People]:
    """Picture and people under an affine map (2, 3); whoever is left with too little in the picture is dropped."""
    height, width = image.shape[:2]
    warped = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(pad_value,) * 3
    ).astype(np.uint8, copy=False)
    corners = people.boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (N, 4, 2)
    # The matrix maps centres of pixels; boxes have edges.
    turned = (corners - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    whole = np.concatenate([turned.min(axis=1), turned.max(axis=1)], axis=1)
    boxes = np.clip(whole, 0, [width, height, width, height]).astype(np.float32)
    joints = people.joints.copy()
    joints[..., :2] = joints[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    outside = ((joints[..., :2] < 0) | (joints[..., :2] >= (width, height))).any(axis=2) | (joints[..., 2] == 0)
    joints[outside] = 0
    kept = _areas(boxes) > _LEAST_SHARE * _areas(whole)
    return warped, People(boxes[kept], joints[kept], people.crowd[kept])


def _areas(boxes: npt.NDArray[np.floating]) -> Floats:
    areas: Floats = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1).astype(np.float32)
    return areas
