"""Joint sets: names, edges, flip pairs and OKS sigmas.

Sources: the COCO keypoint task (https://cocodataset.org/#keypoints-eval) for names, skeleton and sigmas;
CrowdPose (https://github.com/Jeff-sjtu/CrowdPose) and AnimalPose (https://sites.google.com/view/animal-pose), with the
sigmas of MMPose's dataset descriptions (https://github.com/open-mmlab/mmpose).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from .documents import Magnitude, Name, convert, parse
from .errors import UsageError

_Level = Annotated[int, Meta(ge=0, le=255)]
Color = tuple[_Level, _Level, _Level]

# Approximate share of a box that the body covers; evaluators (also super-gradients) use it when there is no mask.
BODY_SHARE = 0.53

_PALETTE: tuple[Color, ...] = (
    (255, 111, 97), (255, 177, 61), (247, 220, 111), (130, 224, 110), (46, 204, 160),
    (72, 201, 233), (84, 153, 255), (142, 122, 255), (214, 112, 255), (255, 120, 190),
)  # fmt: skip


@dataclass(frozen=True)
class Skeleton:
    """A set of joints.

    Attributes:
        names: J joint names, in the order of the model's outputs.
        edges: pairs of joint indices that are joined by a line in drawings.
        flip_pairs: pairs of joint indices that swap when the image is mirrored.
        sigmas: J per-joint OKS constants (COCO's ``sigma``, not ``2 * sigma``).
        joint_colors: one RGB colour per joint.
        edge_colors: one RGB colour per edge.
    """

    names: tuple[Name, ...]
    edges: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[Magnitude, ...] = ()
    joint_colors: tuple[Color, ...] = ()
    edge_colors: tuple[Color, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        for pair in (*self.edges, *self.flip_pairs):
            if len(pair) != 2 or not all(0 <= joint < count for joint in pair):
                raise UsageError(f"skeleton: pair {pair} names a joint outside 0..{count - 1}. Correct the pair.")
        # Uniform sigmas when none are given: 0.05, near the mean of COCO's face and limb joints (0.026-0.107).
        _fill(self, "sigmas", count, tuple(0.05 for _ in range(count)))
        _fill(self, "joint_colors", count, _cycle(count))
        _fill(self, "edge_colors", len(self.edges), _cycle(len(self.edges)))

    @property
    def num_joints(self) -> int:
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Skeleton:
        """Makes a skeleton from the output of :meth:`to_dict`, or from a partial mapping with at least ``names``.

        Raises:
            ValueError: a value has another type, or is out of bounds; the message names its path.
        """
        return convert(dict(fields), cls)

    @classmethod
    def from_colormap(cls, path: str | Path) -> Skeleton:
        """Reads names and colours of joints from JSON: ``{"items": [{"label": "nose", "color": "#ff6f61"}, ...]}``.

        A colour is ``#rrggbb`` or three numbers 0..255, RGB.

        Raises:
            UsageError: the file cannot be read or is not of that form.
        """
        try:
            items = parse(Path(path).read_bytes())["items"]
            return cls(
                names=tuple(str(item["label"]) for item in items),
                joint_colors=tuple(_color(item["color"]) for item in items),
            )
        except OSError as error:
            raise UsageError(f"reading the colormap {path}: {error.strerror}. Check the path.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f'reading the colormap {path}: expected {{"items": [{{"label": "nose", "color": "#ff6f61"}}, ...]}},'
                f" got {type(error).__name__}: {error}. Correct the file."
            ) from error

    @classmethod
    def from_category(cls, category: Mapping[str, Any], num_joints: int) -> Skeleton:
        """Makes a skeleton from a category of COCO annotations, whose ``skeleton`` counts joints from 1.

        If the category does not name ``num_joints`` joints, or has the names of :meth:`for_joint_count`, that skeleton
        is returned. Otherwise flip pairs are the names that differ by left and right (or l and r), and ``sigmas`` is
        read from the category if present.
        """
        names = tuple(str(name) for name in category.get("keypoints") or ())
        known = cls.for_joint_count(num_joints)
        if len(names) != num_joints or names == known.names:
            return known
        return cls(
            names=names,
            edges=tuple((first - 1, second - 1) for first, second in _int_pairs(category.get("skeleton") or ())),
            flip_pairs=_mirrored(names),
            sigmas=tuple(float(sigma) for sigma in category.get("sigmas") or ()),
        )

    @classmethod
    def anonymous(cls, num_joints: int) -> Skeleton:
        """Makes joints named ``joint_0`` ... without edges, for checkpoints that do not name their joints."""
        return cls(names=tuple(f"joint_{index}" for index in range(num_joints)))

    @classmethod
    def for_joint_count(cls, num_joints: int) -> Skeleton:
        """Returns the published joint set of this size (17, 14 or 20 joints), or :meth:`anonymous` if there is none."""
        for known in (COCO, CROWDPOSE, ANIMALPOSE):
            if known.num_joints == num_joints:
                return known
        return cls.anonymous(num_joints)


def _mirrored(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Returns index pairs of names that differ by left/right, or by l/r as separate words (``L_Eye``, ``R_Eye``)."""
    lower = [name.lower() for name in names]
    other = [re.sub(r"(?<![a-z])l(?![a-z])", "r", name.replace("left", "right")) for name in lower]
    pairs = ((index, name) for index, name in enumerate(other) if name != lower[index])
    return tuple((index, lower.index(name)) for index, name in pairs if name in lower)


def _fill(skeleton: Skeleton, field: str, count: int, default: tuple[Any, ...]) -> None:
    value = getattr(skeleton, field)
    if not value:
        object.__setattr__(skeleton, field, default)
    elif len(value) != count:
        raise UsageError(f"skeleton: {field} has {len(value)} entries, expected {count}. Give one per item or none.")


def _cycle(count: int) -> tuple[Color, ...]:
    return tuple(_PALETTE[index % len(_PALETTE)] for index in range(count))


def _int_pairs(pairs: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(first), int(second)) for first, second in pairs)


def _colors(colors: Sequence[Sequence[int]]) -> tuple[Color, ...]:
    return tuple((int(r), int(g), int(b)) for r, g, b in colors)


def _color(value: Any) -> Color:
    if isinstance(value, str):
        if not re.fullmatch("#[0-9a-fA-F]{6}", value):
            raise ValueError(f"the color {value!r}")
        value = bytes.fromhex(value[1:])
    ((red, green, blue),) = _colors([value])
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"the color {(red, green, blue)}")
    return red, green, blue


_LEFT, _RIGHT, _MIDDLE = (84, 153, 255), (255, 140, 60), (90, 214, 120)

COCO = Skeleton(
    names=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    edges=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
    joint_colors=(_MIDDLE, *(_LEFT, _RIGHT) * 8),
    edge_colors=(
        _LEFT, _LEFT, _RIGHT, _RIGHT, _MIDDLE, _LEFT, _RIGHT, _MIDDLE, _LEFT, _RIGHT, _LEFT, _RIGHT,
        _MIDDLE, _LEFT, _RIGHT, _LEFT, _RIGHT, _LEFT, _RIGHT,
    ),
)  # fmt: skip

CROWDPOSE = Skeleton(
    names=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
    ),
    edges=(
        (0, 2), (2, 4), (1, 3), (3, 5), (0, 6), (1, 7), (6, 8), (8, 10), (7, 9), (9, 11), (6, 7), (12, 13), (13, 0),
        (13, 1),
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
)  # fmt: skip

ANIMALPOSE = Skeleton(
    names=(
        "left_eye", "right_eye", "left_ear_base", "right_ear_base", "nose", "throat", "tail_base", "withers",
        "left_front_elbow", "right_front_elbow", "left_back_elbow", "right_back_elbow", "left_front_knee",
        "right_front_knee", "left_back_knee", "right_back_knee", "left_front_paw", "right_front_paw", "left_back_paw",
        "right_back_paw",
    ),
    edges=(
        (0, 1), (0, 2), (1, 3), (0, 4), (1, 4), (4, 5), (5, 7), (6, 7), (5, 8), (8, 12), (12, 16), (5, 9), (9, 13),
        (13, 17), (6, 10), (10, 14), (14, 18), (6, 11), (11, 15), (15, 19),
    ),
    flip_pairs=((0, 1), (2, 3), (8, 9), (10, 11), (12, 13), (14, 15), (16, 17), (18, 19)),
    sigmas=(
        0.025, 0.025, 0.026, 0.035, 0.035, 0.1, 0.1, 0.1, 0.107, 0.107, 0.107, 0.107, 0.087, 0.087, 0.087, 0.087,
        0.089, 0.089, 0.089, 0.089,
    ),
)  # fmt: skip

# The 80 classes of COCO detection, in the order of their ids (https://cocodataset.org/#explore).
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
