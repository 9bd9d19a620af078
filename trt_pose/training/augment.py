"""Random augmentation of a training picture and its people: mirroring, affine maps and colours, but no mosaics.

The ranges are those of the published recipes where known (scale 0.75 to 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ..images.pixels import Image
from ..skeleton import Skeleton
from .truth import Floats, People

# People with a smaller share of their box left in the picture are dropped.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and ranges of the augmentation.

    Attributes:
        flip: probability of mirroring; only for skeletons with known pairs of joints.
        affine: probability of the affine map.
        color: probability of changed colours.
        rotation_deg: maximum rotation in either direction, degrees.
        scale: smallest and largest scale.
        translation: maximum shift, as a share of the picture.
        brightness: maximum relative change of the brightness.
        contrast: maximum relative change of the contrast.
        saturation: maximum relative change of the saturation.
        hue_deg: maximum change of the hue, degrees of 360.
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
        """Augments one picture.

        The number of draws from ``rng`` is constant, so the same generator state gives the same picture.

        Args:
            image: (H, W, 3) uint8 RGB.
            people: the people in it, px.
            skeleton: the joints.
            pad_value: grey level outside the picture.
            rng: source of all randomness.

        Returns:
            The changed picture, of the same size, and its people.
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
        """Returns a random affine map (2, 3): rotation and scale about the centre, then a shift."""
        angle = rng.uniform(-self.rotation_deg, self.rotation_deg)
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        matrix = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale), np.float64)
        matrix[:, 2] += rng.uniform(-self.translation, self.translation, 2) * (width, height)
        return matrix

    def _recolor(self, image: Image, gains: npt.NDArray[np.float64]) -> Image:
        brightness, contrast, saturation, hue = gains
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)  # OpenCV's hue is in units of 2 degrees
        hsv[..., 0] = (hsv[..., 0] + hue * self.hue_deg / 2) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * (1 + saturation * self.saturation), 0, 255)
        rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
        mean = rgb.mean()
        rgb = (rgb - mean) * (1 + contrast * self.contrast) + mean * (1 + brightness * self.brightness)
        changed: Image = np.clip(rgb, 0, 255).astype(np.uint8)
        return changed


def mirror(image: Image, people: People, skeleton: Skeleton) -> tuple[Image, People]:
    """Mirrors the picture and its people left to right and swaps the paired joints."""
    edge = image.shape[1] - 1  # x of the centre of the last pixel
    boxes, joints = people.boxes.copy(), people.joints.copy()
    boxes[:, [0, 2]] = edge + 1 - boxes[:, [2, 0]]
    joints[..., 0] = np.where(joints[..., 2] > 0, edge - joints[..., 0], 0)
    order = np.arange(joints.shape[1])
    for left, right in skeleton.flip_pairs:
        order[left], order[right] = right, left
    return np.ascontiguousarray(image[:, ::-1]), People(boxes, joints[:, order], people.crowd)


def warp(image: Image, people: People, matrix: npt.NDArray[np.float64], pad_value: int) -> tuple[Image, People]:
    """Applies an affine map (2, 3) to the picture and its people; drops people who are mostly outside the picture."""
    height, width = image.shape[:2]
    warped = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(pad_value,) * 3
    ).astype(np.uint8, copy=False)
    corners = people.boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (N, 4, 2)
    # The matrix maps pixel centres, but boxes are given by pixel edges.
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
