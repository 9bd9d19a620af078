"""Drawing of poses and boxes with OpenCV.

supervision is not used here, because it would add matplotlib, SciPy and FFmpeg to every installation;
``Poses.to_supervision`` converts poses for its annotators.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..files import write_atomically
from ..skeleton import Skeleton
from .pixels import Image

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
_BOX_COLOR = (235, 235, 235)
# cv2 takes int32 coordinates in units of 1/16 px; coordinates are clipped to _LIMIT_PX, far outside any image.
_SHIFT, _LIMIT_PX = 4, 1e6


def draw_poses(
    image: Image,
    boxes: Floats,
    scores: Floats,
    joints: Floats,
    skeleton: Skeleton,
    *,
    joint_confidence: float = 0.3,
    show_boxes: bool = True,
    ids: Ids | None = None,
) -> Image:
    """Draws people on a copy of ``image``.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4) xyxy px.
        scores: (N,).
        joints: (N, J, 3) x, y px, confidence.
        skeleton: edges and colours.
        joint_confidence: joints with a lower confidence, and their edges, are not drawn.
        show_boxes: draw each box with its score.
        ids: (N,) tracks, -1 for none, which give the boxes their colours and are written beside the scores.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    canvas: Image = image.copy()
    # The thickness is proportional to the image, 2 px at 640 px, so that lines stay visible in 4K images.
    thickness = max(1, round(max(image.shape[:2]) / 320))
    for row, (box, score, person) in enumerate(zip(boxes, scores, joints, strict=True)):
        if show_boxes:
            track = -1 if ids is None else int(ids[row])
            color = _BOX_COLOR if track < 0 else _bright_color(track)
            _box(canvas, box, f"{_track_text(track)}{float(score):.2f}", thickness, color)
        visible = (person[:, 2] >= joint_confidence) & np.isfinite(person[:, :2]).all(axis=1)
        for (first, second), color in zip(skeleton.edges, skeleton.edge_colors, strict=True):
            if visible[first] and visible[second]:
                cv2.line(canvas, _point(person[first]), _point(person[second]), color, thickness, cv2.LINE_AA, _SHIFT)
        for joint in np.flatnonzero(visible):
            radius = (thickness + 1) << _SHIFT
            cv2.circle(canvas, _point(person[joint]), radius, skeleton.joint_colors[joint], -1, cv2.LINE_AA, _SHIFT)
    return canvas


def draw_boxes(
    image: Image, boxes: Floats, scores: Floats, classes: Ids, names: Sequence[str], ids: Ids | None = None
) -> Image:
    """Draws objects on a copy of ``image``.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4) xyxy px.
        scores: (N,).
        classes: (N,) class indices, which select the colours.
        names: the class name of each box, N in all.
        ids: (N,) tracks, -1 for none, which are written before the names.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    canvas: Image = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 320))
    for row, (box, score, kind, name) in enumerate(zip(boxes, scores, classes, names, strict=True)):
        track = _track_text(-1 if ids is None else int(ids[row]))
        _box(canvas, box, f"{track}{name} {score:.2f}", thickness, _bright_color(int(kind)))
    return canvas


def _track_text(track: int) -> str:
    return "" if track < 0 else f"#{track} "


def _bright_color(number: int) -> tuple[int, int, int]:
    """Returns a bright colour for a class or track; the hues of successive numbers are a golden section apart."""
    hue = np.array([[[int(number * 111.246) % 180, 150, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)


def _box(canvas: Image, box: Floats, label: str, thickness: int, color: tuple[int, int, int] = _BOX_COLOR) -> None:
    if not np.isfinite(box).all():
        return
    corner = _point(box[:2])
    cv2.rectangle(canvas, corner, _point(box[2:]), color, max(1, thickness // 2), cv2.LINE_AA, _SHIFT)
    scale = 0.15 * (thickness + 1)
    (width, height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    # The label stays inside the image when the box starts above it.
    x, y = corner[0] >> _SHIFT, max(corner[1] >> _SHIFT, height + 4)
    cv2.rectangle(canvas, (x, y - height - 4), (x + width + 4, y), color, -1)
    cv2.putText(canvas, label, (x + 2, y - 2), cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)


def _point(xy: Floats) -> tuple[int, int]:
    x, y = np.clip(xy[:2], -_LIMIT_PX, _LIMIT_PX) * (1 << _SHIFT)
    return int(x), int(y)


def save(image: Image, path: str | Path) -> Path:
    """Writes an image, (H, W, 3) uint8 RGB, in the format given by the suffix of ``path``.

    Raises:
        SourceError: the suffix is unknown, or the file cannot be written.
    """
    path = Path(path)
    data = encode(image, path.suffix, str(path))
    return write_atomically(path, lambda target: target.write_bytes(data), SourceError)


def encode(image: Image, suffix: str, name: str = "a picture") -> bytes:
    """Encodes an image, (H, W, 3) uint8 RGB, in the format of ``suffix``. Raises SourceError for an unknown one."""
    try:
        encoded, buffer = cv2.imencode(suffix.lower() or ".", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise SourceError(f"writing {name}: OpenCV writes no {suffix or 'suffix-less'} images. Use .jpg or .png.")
    return bytes(buffer.tobytes())


def check_viewer() -> None:
    """Raises SourceError when this machine has no program that shows pictures."""
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        raise SourceError("showing pictures: no viewer on this machine. Use --save instead.") from None


def show(image: Image) -> None:
    """Opens an image, (H, W, 3) uint8 RGB, in the desktop's viewer. Raises SourceError when there is no viewer."""
    import tempfile
    import webbrowser

    check_viewer()
    path = Path(tempfile.mkdtemp(prefix="trt_pose_")) / "poses.png"
    save(image, path)
    if not webbrowser.open(path.as_uri()):
        raise SourceError(f"showing the picture: no viewer on this machine. It is kept as {path}; use --save instead.")
