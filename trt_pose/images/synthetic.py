"""Synthetic images of articulated figures with all 17 COCO joints, generated from a seed.

They serve demonstrations and regression tests where no data set is available; they do not replace photographs.
The proportions follow drawing manuals (a body is seven and a half heads tall); joint angles stay within a human range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..skeleton import COCO
from .pixels import Image

Floats = npt.NDArray[np.float32]
Color = tuple[int, int, int]
# Lengths as fractions of the body height.
_TORSO, _SHOULDERS, _HIPS, _UPPER_ARM, _FOREARM, _THIGH, _SHIN, _NECK, _HEAD = (
    0.29, 0.24, 0.17, 0.17, 0.15, 0.24, 0.24, 0.05, 0.065,
)  # fmt: skip
_SKINS: tuple[Color, ...] = ((255, 219, 188), (232, 190, 160), (198, 150, 115), (150, 105, 75), (95, 65, 45))
# Shoulder, elbow, wrist, hip, knee, ankle of the left and of the right side.
_SIDES = ((5, 7, 9, 11, 13, 15), (6, 8, 10, 12, 14, 16))
# People with less than this visible (area in px, joints) are not annotated; they remain as clutter.
_LEAST_AREA, _LEAST_JOINTS = 60.0, 4
_SHIFT = 4  # fractional bits of OpenCV's coordinates


@dataclass(frozen=True)
class Sample:
    """One image and its annotated people, the farthest first.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        joints: (N, 17, 3) float32 x, y px, and COCO's visibility: 2 visible, 1 hidden, 0 outside the image (x = y = 0).
        boxes: (N, 4) float32 xyxy px, around the visible part of each person.
        areas: (N,) float32, number of visible px of each person.
        ids: (N,) int64, who each person is, in frames of a clip; None in separate images.
    """

    image: Image
    joints: Floats
    boxes: Floats
    areas: Floats
    ids: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Scene:
    """The number and size of the people in an image.

    Attributes:
        people: smallest and largest number of people.
        heights: smallest and largest body height, px; a body taller than the image is cut off.
    """

    people: tuple[int, int]
    heights: tuple[float, float]

    def scaled(self, factor: float) -> Scene:
        """Returns the scene with body heights multiplied by ``factor``, for larger or smaller images."""
        return Scene(self.people, (self.heights[0] * factor, self.heights[1] * factor))


# For images of 320 x 320 px. The demonstration model is made for ``sparse``; ``crowded`` is hard for any model.
SCENES = {"sparse": Scene((1, 3), (80.0, 320.0)), "crowded": Scene((1, 8), (40.0, 500.0))}
SCENE_SIDE = 320


def find_scene(name: str) -> Scene:
    """Returns the scene called ``name``. Raises UsageError that lists the scenes when there is none."""
    if name not in SCENES:
        raise UsageError(f"synthetic people: got scene {name!r}, expected one of {', '.join(SCENES)}.")
    return SCENES[name]


class Samples(Sequence[Sample]):
    """Generated samples: item i is the same in every run."""

    _count: int

    def sample(self, index: int) -> Sample:
        """Generates one sample, 0 <= index < len(self)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"picture {index} of {self._count}")
        return self.sample(int(index) % self._count)


class SyntheticPeople(Samples):
    """A data set of synthetic images: a sequence usable by a torch ``DataLoader``; item i is the same in every run.

    Args:
        count: number of images.
        size: (height, width) of the images, px.
        seed: seed of the data set, from 0 to 2**32 - 1.
        scene: number and size of the people; ``sparse`` when None.

    Raises:
        UsageError: ``count``, ``size``, ``seed`` or a range of ``scene`` is out of bounds.
    """

    def __init__(
        self, count: int, size: tuple[int, int] = (320, 320), seed: int = 0, scene: Scene | None = None
    ) -> None:
        scene = scene or SCENES["sparse"]
        people, heights = scene.people, scene.heights
        if seed < 0 or 2**32 <= seed < 2**63:  # 2**63 and above are reserved for training
            raise UsageError(f"making synthetic people: got seed={seed}, expected 0 to {2**32 - 1}.")
        if count < 1 or min(size) < 32 or not 0 <= people[0] <= people[1] or not 8 <= heights[0] <= heights[1]:
            raise UsageError(
                f"making synthetic people: got count={count}, size={size}, people={people}, heights={heights}; expected"
                " a picture or more, 32 px or more, ranges from low to high."
            )
        self._count, self._size, self._seed, self._scene = count, size, seed, scene

    def sample(self, index: int) -> Sample:
        return make_picture(np.random.default_rng((self._seed, index)), self._size, self._scene)


def make_picture(rng: np.random.Generator, size: tuple[int, int], scene: Scene) -> Sample:
    """Generates one image of ``size`` (height, width) px; see :class:`SyntheticPeople`."""
    height, width = size
    image = background(rng, height, width)
    number = int(rng.integers(scene.people[0], scene.people[1] + 1))
    low, high = np.log(scene.heights)
    bodies = np.sort(np.exp(rng.uniform(low, high, number)))  # distant people are small and are painted first
    figures = (
        Figure(rng, body, (rng.uniform(0, width), rng.uniform(0.1, 0.9) * height)) for body in bodies
    )  # one is painted before the next is made
    joints, boxes, areas, known = paint(image, figures)
    return Sample(photograph(rng, image), joints[known], boxes[known], areas[known])


def paint(image: Image, figures: Iterable[Figure]) -> tuple[Floats, Floats, Floats, npt.NDArray[np.bool_]]:
    """Paints people on ``image``, the farthest first; returns their joints, boxes, areas, and who is annotated."""
    height, width = image.shape[:2]
    owner = np.zeros((height, width), np.uint8)  # number of the person visible at each pixel, from 1; 0 for none
    people: list[npt.NDArray[np.float64]] = []
    for figure in figures:
        mask = np.zeros((height, width), np.uint8)
        figure.paint(image, mask)
        inside = _inside(figure.points, width, height)
        owner[mask > 0] = len(people) + 1
        flags = np.where(inside & figure.faces, 2, inside)
        people.append(np.concatenate([figure.points, flags[:, None]], axis=1))
    joints = np.array(people, np.float32).reshape(-1, COCO.num_joints, 3)
    _hide(joints, owner)
    joints[joints[..., 2] == 0] = 0
    boxes, areas = _seen(owner, len(people))
    known = (areas >= _LEAST_AREA) & ((joints[..., 2] == 2).sum(axis=1) >= _LEAST_JOINTS)
    return joints, boxes, areas, known


class Figure:
    """A body in a random posture, with its joints and its drawing.

    Attributes:
        points: (17, 2) float32 x, y px, in COCO's order.
        faces: (17,) bool, whether each joint is visible when no other person is in front of it.

    Args:
        rng: posture and colours, in the order in which they are drawn.
        height: height of the body, px.
        center: middle of the hips, px.
        swing: by how much arms and legs are off their posture, rad.
    """

    def __init__(
        self, rng: np.random.Generator, height: float, center: tuple[float, float], swing: float = 0.0
    ) -> None:
        self.height = height
        self._rng = rng
        # 1: facing the camera, 0: in profile, -1: turned away. It scales the apparent width of shoulders and hips; its
        # sign decides which side is on the right. Most people in photographs face the camera.
        away = abs(rng.normal(0, np.pi / 4)) if rng.uniform() < 0.85 else rng.uniform(0, np.pi)
        self.turn = float(np.cos(min(away, np.pi)))
        lean = rng.normal(0, 0.18)
        self._up = np.array([np.sin(lean), -np.cos(lean)])
        hips = np.zeros(2)
        neck = hips + self._up * _TORSO
        across = np.array([-self._up[1], self._up[0]])
        points = np.zeros((COCO.num_joints, 2))
        for side, (shoulder, elbow, wrist, hip, knee, ankle) in zip((1, -1), _SIDES, strict=True):
            points[shoulder] = neck + across * side * self.turn * _SHOULDERS / 2
            points[hip] = hips + across * side * self.turn * _HIPS / 2
            arm, leg = (rng.uniform(-0.5, 2.6), rng.uniform(0, 2.2)), (rng.normal(0.1, 0.35), rng.uniform(0, 1.2))
            arm, leg = (arm[0] + side * swing, arm[1]), (leg[0] - side * swing, leg[1])
            points[elbow], points[wrist] = self._limb(points[shoulder], side, *arm, (_UPPER_ARM, _FOREARM), False)
            points[knee], points[ankle] = self._limb(points[hip], side, *leg, (_THIGH, _SHIN), True)
        tilt = rng.normal(0, 0.15)
        head_up = np.array([np.sin(lean + tilt), -np.cos(lean + tilt)])
        self.head = neck + head_up * (_NECK + _HEAD)
        self._face(points, head_up)
        self.points: Floats = (points * height + center).astype(np.float32)
        self.head_px = self.head * height + center
        self.head_tilt = np.degrees(lean + tilt)
        self.faces = np.ones(COCO.num_joints, bool)
        if self.turn < -0.2:  # seen from behind
            self.faces[:3] = False
        elif abs(self.turn) < 0.35:  # in profile, the far half of the face is hidden
            self.faces[[2, 4] if self.turn >= 0 else [1, 3]] = False

    def _limb(
        self, start: Any, side: int, raise_by: float, bend: float, bones: tuple[float, float], leg: bool
    ) -> tuple[Any, Any]:
        """Returns the middle and end of a limb: raised sideways by ``raise_by`` from hanging down, bent by ``bend``."""
        outward = side * (self.turn if abs(self.turn) > 0.3 else 0.3 * (1 if self.turn >= 0 else -1))
        angle = outward * raise_by
        middle = start + np.array([np.sin(angle), np.cos(angle)]) * bones[0]
        angle += outward * bend * (-0.6 if leg else 1 if raise_by < 1.2 else -0.5)
        return middle, middle + np.array([np.sin(angle), np.cos(angle)]) * bones[1]

    def _face(self, points: Any, up: Any) -> None:
        """Places nose, eyes and ears on the head; turning the body moves them to the edge of the head."""
        across = np.array([-up[1], up[0]])
        aside = float(np.sqrt(1 - self.turn**2)) * (1 if self._rng.uniform() < 0.5 else -1)
        front = across * aside * _HEAD * 0.55
        points[0] = self.head + front * 1.4 - up * _HEAD * 0.1
        for side, eye, ear in ((1, 1, 3), (-1, 2, 4)):
            points[eye] = self.head + front + across * side * self.turn * _HEAD * 0.4 + up * _HEAD * 0.25
            points[ear] = self.head - front * 0.3 + across * side * self.turn * _HEAD * 0.95 + up * _HEAD * 0.05

    def paint(self, image: Image, mask: npt.NDArray[np.uint8]) -> None:
        """Paints the body on ``image`` and its silhouette on ``mask``, far limbs first."""
        rng, p, size = self._rng, self.points, self.height
        skin: Color = _SKINS[int(rng.integers(len(_SKINS)))]
        shirt, trousers, shoes, hair = (_color(rng) for _ in range(4))
        sleeves = shirt if rng.uniform() < 0.6 else skin
        legs = trousers if rng.uniform() < 0.75 else skin
        near_left = rng.uniform() < 0.5
        far, near = _SIDES[::-1] if near_left else _SIDES
        self._arm(image, mask, far[:3], sleeves, skin)
        for *_, hip, knee, ankle in (far, near):
            toes = p[ankle] + np.array([0.03 * size * self.turn, 0.02 * size])
            _capsule(image, mask, p[hip], p[knee], 0.075 * size, trousers)
            _capsule(image, mask, p[knee], p[ankle], 0.055 * size, legs)
            _capsule(image, mask, p[ankle], toes, 0.05 * size, shoes)
        self._torso(image, mask, shirt, trousers)
        _capsule(image, mask, (p[5] + p[6]) / 2, self.head_px, 0.06 * size, skin)
        self._head(image, mask, skin, hair)
        self._arm(image, mask, near[:3], sleeves, skin)

    def _arm(self, image: Image, mask: Any, joints: tuple[int, ...], sleeve: Color, skin: Color) -> None:
        shoulder, elbow, wrist = (self.points[joint] for joint in joints)
        _capsule(image, mask, shoulder, elbow, 0.05 * self.height, sleeve)
        _capsule(image, mask, elbow, wrist, 0.04 * self.height, sleeve)
        _capsule(image, mask, wrist, wrist + (wrist - elbow) * 0.2, 0.045 * self.height, skin)

    def _torso(self, image: Image, mask: Any, shirt: Color, trousers: Color) -> None:
        p, width = self.points, 0.1 * self.height
        corners = np.array([p[5], p[6], p[12], p[11]])
        for canvas, color in ((image, shirt), (mask, 255)):
            cv2.fillPoly(canvas, [_fixed(corners)], color, cv2.LINE_AA if canvas is image else cv2.LINE_8, _SHIFT)
        for first, second in ((5, 6), (5, 11), (6, 12)):
            _capsule(image, mask, p[first], p[second], width, shirt)
        _capsule(image, mask, p[11], p[12], width, trousers)

    def _head(self, image: Image, mask: Any, skin: Color, hair: Color) -> None:
        radius = _HEAD * self.height
        axes = _fixed(np.array([radius * 0.82, radius]))
        center = _fixed(self.head_px)
        behind = self.turn < -0.2
        cv2.ellipse(mask, center, axes, self.head_tilt, 0, 360, 255, -1, cv2.LINE_8, _SHIFT)
        face = hair if behind else skin
        cv2.ellipse(image, center, axes, self.head_tilt, 0, 360, face, -1, cv2.LINE_AA, _SHIFT)
        if not behind:
            cv2.ellipse(image, center, axes, self.head_tilt, 180, 360, hair, -1, cv2.LINE_AA, _SHIFT)
            for joint, tone in ((1, (30, 30, 30)), (2, (30, 30, 30)), (0, _darker(skin, 0.75))):
                self._dot(image, joint, max(radius * 0.13, 0.7), tone)
        for joint in (3, 4):
            self._dot(image, joint, radius * 0.2, _darker(skin, 0.9))

    def _dot(self, image: Image, joint: int, radius: float, color: Color) -> None:
        if self.faces[joint]:
            place = _fixed(self.points[joint])
            cv2.circle(image, place, int(radius * 2**_SHIFT), color, -1, cv2.LINE_AA, _SHIFT)


def _fixed(points: Any) -> Any:
    """Converts coordinates to OpenCV's fixed point: an array for polygons, a tuple for one point."""
    values = np.round(np.asarray(points) * 2**_SHIFT).astype(np.int32)
    return values if values.ndim > 1 else (int(values[0]), int(values[1]))


def _capsule(image: Image, mask: Any, start: Any, end: Any, width: float, color: Color) -> None:
    """Paints a limb as a round-ended stroke with a darker edge."""
    a, b = _fixed(start), _fixed(end)
    thick = max(round(width), 1)
    cv2.line(mask, a, b, 255, thick, cv2.LINE_8, _SHIFT)
    cv2.line(image, a, b, _darker(color, 0.72), thick, cv2.LINE_AA, _SHIFT)
    if thick > 2:
        cv2.line(image, a, b, color, max(round(width * 0.62), 1), cv2.LINE_AA, _SHIFT)


def _darker(color: Color, share: float) -> Color:
    red, green, blue = (int(channel * share) for channel in color)
    return red, green, blue


def _color(rng: np.random.Generator) -> Color:
    red, green, blue = (int(value) for value in rng.integers(20, 236, 3))
    return red, green, blue


def _inside(points: Floats, width: int, height: int) -> npt.NDArray[np.bool_]:
    return (points >= 0).all(axis=1) & (points[:, 0] < width) & (points[:, 1] < height)


def _hide(joints: Floats, owner: npt.NDArray[np.uint8]) -> None:
    """Marks joints that are occluded by a nearer person as hidden."""
    for person, rows in enumerate(joints, 1):
        seen = rows[:, 2] == 2
        x, y = rows[seen, 0].astype(int), rows[seen, 1].astype(int)
        rows[np.flatnonzero(seen)[owner[y, x] > person], 2] = 1


def _seen(owner: npt.NDArray[np.uint8], number: int) -> tuple[Floats, Floats]:
    """Returns boxes (N, 4) xyxy and areas (N,) of the visible part of each person, px."""
    boxes, areas = np.zeros((number, 4), np.float32), np.zeros(number, np.float32)
    for person in range(number):
        mine = (owner == person + 1).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(mine)
        boxes[person], areas[person] = (x, y, x + width, y + height), cv2.countNonZero(mine)
    return boxes, areas


def background(rng: np.random.Generator, height: int, width: int) -> Image:
    """Generates a coarse texture with rectangles, ellipses and bars as clutter."""
    coarse = rng.integers(40, 216, (int(rng.integers(2, 7)), int(rng.integers(2, 7)), 3)).astype(np.uint8)
    image: Image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    for _ in range(int(rng.integers(4, 16))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(value) for value in rng.integers(6, max(width, height) // 3, 2))
        kind = int(rng.integers(3))
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + w, y + h), _color(rng), -1)
        elif kind == 1:
            cv2.ellipse(
                image, (x, y), (w // 2, h // 2), float(rng.uniform(0, 180)), 0, 360, _color(rng), -1, cv2.LINE_AA
            )
        else:
            _capsule(
                image,
                np.zeros((1, 1), np.uint8),
                (x, y),
                (x + w, y + rng.integers(-h, h)),
                rng.uniform(2, 14),
                _color(rng),
            )
    return image.astype(np.uint8, copy=False)


def photograph(rng: np.random.Generator, image: Image) -> Image:
    """Applies blur, exposure and noise like those of a camera."""
    if rng.uniform() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4))).astype(np.uint8, copy=False)
    gain, offset, gamma = rng.uniform(0.7, 1.25), rng.uniform(-25, 25), rng.uniform(0.75, 1.35)
    levels = np.arange(256) / 255.0
    table = np.clip(levels**gamma * 255 * gain + offset, 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table).astype(np.uint8, copy=False)
    # The noise is grey, like most sensor noise.
    noise = rng.standard_normal(image.shape[:2], np.float32) * np.float32(rng.uniform(0, 9))
    noisy: Image = np.clip(image + noise.astype(np.int16)[..., None], 0, 255).astype(np.uint8)
    return noisy
