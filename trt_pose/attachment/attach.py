"""Post-processing attached to the ONNX file of any pose detector, as ONNX operators or as the plugin node.

Output layout of the Ultralytics pose models: https://docs.ultralytics.com/tasks/pose (boxes as centre and size).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from .._version import __version__
from ..choices import DetectionOutputFormatMode, ExportTargetBackend, HeadName
from ..errors import ExportError
from ..files import check_writable
from ..formats import FORMATS
from ..graphs.file import check_suffix, save
from ..graphs.finish import finish, simplify
from ..graphs.surgery import join, rename, to_graph, to_model
from ..operators import contract
from ..operators.selection import Selection, check_limits
from ..progress import step
from ..skeleton import Skeleton
from ..spec import InputSpec, ModelSpec, OutputSpec
from ..tasks import POSE
from .fit import TheirFile, find_head, read_file
from .heads import HEADS, Head
from .parts import make_front, make_tail
from .source import check_tensors

# Prefixes of the names in the file and in the two parts put around it, so that none can meet another.
FRONT, TAIL = "front/", "tail/"


@dataclass(frozen=True)
class AttachOptions:
    """Options of :func:`attach`.

    Attributes:
        head: layout of the outputs; None takes what the file's metadata says, or else the only layout that fits.
            ``yolov8-pose``: one tensor (B, 4 + 1 + 3J, A) with boxes as centre and size. ``yolo-end2end-pose``: one
            tensor (B, N, 6 + 3J) of rows with box xyxy, score, class and joints, without overlaps. With ``-xy``: the
            same with joints of two numbers, which get the confidence 1. ``mmdeploy-pose``: ``dets`` (B, N, 5), rows of
            box xyxy and score, and ``keypoints`` (B, N, J, 3), as MMDeploy writes RTMO and YOLOX-Pose; N may be open
            for ONNX Runtime. ``decoded``: boxes (B, A, 4) xyxy, scores (B, A, 1), joints (B, A, J, 3).
            ``yolo-nas-pose``: boxes, scores, joints (B, A, J, 2), joint confidences (B, A, J). ``yolo-nas-pose-batch``:
            the batch format of super-gradients: number (B, 1), boxes (B, N, 4), scores (B, N), joints (B, N, J, 3).
        tensors: names of these tensors in the file, in this order; None takes the file's outputs in their order.
        selection: thresholds and limits.
        layout: output format.
        target: the backend that will run the file.
        skeleton: the joints; None takes the file's joint names, or the known joint set of that size.
        input: image policy; None takes that of the toolkit. Ultralytics' heads: RGB, long side, centre, padding 114.
            The ``yolo-nas`` heads: BGR, long side, bottom right, padding 127; ``decoded`` the same in RGB.
            ``mmdeploy-pose``: BGR in 0..255, long side, bottom right, padding 114.
        uint8_input: whether to put cast and normalization before a float input, so that the file takes uint8 images.
    """

    head: HeadName | str | None = None
    tensors: Sequence[str] | None = None
    selection: Selection = field(default_factory=lambda: Selection(0.25, 0.7, 1000, 300))
    layout: DetectionOutputFormatMode = DetectionOutputFormatMode.BATCH_FORMAT
    target: ExportTargetBackend = ExportTargetBackend.ONNXRUNTIME
    skeleton: Skeleton | None = None
    input: InputSpec | None = None
    uint8_input: bool = True


def attach(source: str | Path, output: str | Path, options: AttachOptions) -> ModelSpec:
    """Writes ``source`` with selection attached after it and, if requested, the photometric step before it.

    Args:
        source: path of the ONNX file.
        output: path of the new ``.onnx`` file, written atomically.
        options: the head layout, the selection and the input policy.

    Returns:
        The description stored in the new file.

    Raises:
        ExportError: ``source`` is not an ONNX file with such outputs, or the new graph fails the check.
        UsageError: an unknown head, or limits the plugin does not support.
    """
    named = None if options.head is None else HeadName.parse(options.head, "head")
    check_suffix(output)
    check_writable(output, ExportError)
    theirs = read_file(source, named, options.tensors)
    name, anchors, joints = find_head(theirs, named)
    head = HEADS[name]
    check_tensors(head, theirs.tensors, options.target, source)
    if options.skeleton is None and theirs.metadata is not None and theirs.metadata.joint_names:
        options = replace(options, skeleton=Skeleton.from_category({"keypoints": theirs.metadata.joint_names}, joints))
    # Without overlaps left, nothing may be suppressed: no IoU is over 1.
    chosen = replace(options.selection, iou=1.0) if head.suppressed else options.selection
    chosen = replace(chosen, candidates=min(chosen.candidates, anchors))
    chosen = replace(chosen, limit=min(chosen.limit, chosen.candidates))
    if options.target is ExportTargetBackend.TENSORRT:
        check_limits(chosen, anchors, joints)
    spec = _describe(Path(source), options, options.input or head.input, chosen, theirs, joints)
    with step("attaching"):
        made = simplify(_put_around(theirs, head, spec, chosen))
        finish(made, spec)
    save(made, output)
    return spec


def _describe(
    source: Path, options: AttachOptions, policy: InputSpec, chosen: Selection, theirs: TheirFile, joints: int
) -> ModelSpec:
    batch, height, width, element = theirs.image
    in_graph = element == "uint8" or options.uint8_input
    layout = FORMATS[options.layout]
    plugin = options.target is ExportTargetBackend.TENSORRT
    return ModelSpec(
        model=source.stem,
        input=replace(
            policy.with_size(height, width),
            batch=batch,
            dtype="uint8" if in_graph else "float32",
            normalized_in_graph=in_graph,
        ),
        output=OutputSpec(
            layout.name, layout.names(POSE), chosen.confidence, chosen.iou, chosen.limit, chosen.candidates
        ),
        skeleton=options.skeleton or Skeleton.for_joint_count(joints),
        weights=source.name,
        plugins_required=(contract.NAME,) if plugin else (),
        generator=f"trt_pose {__version__}",
    )


def _put_around(theirs: TheirFile, head: Head, spec: ModelSpec, chosen: Selection) -> onnx.ModelProto:
    """Returns the file with the selection behind its tensors and the photometric step before its input.

    Outputs and nodes that the predictions do not depend on are dropped.
    """
    proto = theirs.proto
    tail = rename(to_graph(make_tail(head, theirs.tensors, spec, chosen, proto)), TAIL, inside=True)
    links = {item.name: tensor.name for item, tensor in zip(tail.inputs, theirs.tensors, strict=True)}
    merged = join(to_graph(proto), tail, links)
    front = rename(to_graph(make_front(spec, theirs.image[3], proto)), FRONT, inside=True)
    return to_model(join(front, merged, {merged.inputs[0].name: front.outputs[0].name}), proto)
