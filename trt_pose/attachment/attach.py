"""Post-processing attached to the ONNX file of any pose detector, as ONNX operators or as the plugin node.

The parts before and after the original graph are the modules the export uses itself, traced and merged into the file.
Output layout of the Ultralytics pose models: https://docs.ultralytics.com/tasks/pose (boxes as centre and size).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from .._version import __version__
from ..choices import DetectionOutputFormatMode, ExportTargetBackend, HeadName
from ..errors import ExportError
from ..export.format_modules import FORMAT_MODULES
from ..export.preprocess import Normalize
from ..export.select import SelectDecoded
from ..export.select_pose_trt import PluginSelect
from ..files import check_writable
from ..formats import FORMATS, find_format
from ..graphs.file import check_suffix, save
from ..graphs.finish import finish, simplify
from ..graphs.surgery import join, rename, to_graph, to_model
from ..nms import contract
from ..nms.selection import Selection, check_limits
from ..progress import step
from ..skeleton import Skeleton
from ..spec import InputSpec, ModelSpec, OutputSpec
from ..tasks import POSE
from .heads import HEADS, Head, fitting
from .source import THEIRS, SourceTensor, check_rows, fixed, input_of, load, opset_of, outputs_of, own_name
from .ultralytics import Metadata, read_metadata

# Prefixes of the names in the file and in the two parts put around it, so that none can meet another.
FRONT, TAIL = "front/", "tail/"
# The newest operator set that torch's exporter writes, and the newest that ONNX Runtime 1.31 opens. The operators of
# the parts put around a file mean the same in both.
_TRACED, _OPENED = 20, 26


@dataclass(frozen=True)
class AttachOptions:
    """Options of :func:`attach`.

    Attributes:
        head: layout of the outputs; None takes what the file's metadata says, or else the only layout that fits.
            ``yolov8-pose``: one tensor (B, 4 + 1 + 3J, A) with boxes as centre and size. ``yolo-end2end-pose``: one
            tensor (B, N, 6 + 3J) of rows with box xyxy, score, class and joints, without overlaps. With ``-xy``: the
            same with joints of two numbers, which get the confidence 1. ``mmdeploy-pose``: ``dets`` (B, N, 5), rows of
            box xyxy and score without overlaps, and ``keypoints`` (B, N, J, 3), as MMDeploy writes RTMO and YOLOX-Pose;
            N may be open for ONNX Runtime. ``decoded``: boxes (B, A, 4) xyxy, scores
            (B, A, 1), joints (B, A, J, 3). ``yolo-nas-pose``: boxes, scores, joints (B, A, J, 2), joint confidences
            (B, A, J).
        tensors: names of these tensors in the file, in this order; None takes the file's outputs in their order.
        selection: thresholds and limits.
        layout: output format.
        target: the backend that will run the file.
        skeleton: the joints; None takes the file's joint names, or the known joint set of that size.
        input: image policy. None takes, for the ``yolo`` heads, Ultralytics' (RGB, long side, centre, padding 114); for
            ``yolo-nas-pose``, YOLO-NAS-Pose's (BGR, long side, bottom right, padding 127); for ``decoded``, the latter
            in RGB; for ``mmdeploy-pose``, BGR in 0..255, long side, bottom right, padding 114.
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
    proto = load(source)
    metadata = read_metadata({item.key: item.value for item in proto.metadata_props}, str(source))
    proto = fixed(proto, source)
    batch, height, width, element = input_of(proto, source)
    names = [THEIRS + name for name in options.tensors or ()] or [item.name for item in proto.graph.output]
    outputs = outputs_of(proto, names, source, named, batch)
    name, anchors, joints = _find_head(named, metadata, outputs, source)
    head = HEADS[name]
    check_rows(head, outputs, options.target, source)
    if options.skeleton is None and metadata is not None and metadata.joint_names:
        options = replace(options, skeleton=Skeleton.from_category({"keypoints": metadata.joint_names}, joints))
    # Without overlaps left, nothing may be suppressed: no IoU is over 1.
    chosen = replace(options.selection, iou=1.0) if head.suppressed else options.selection
    chosen = replace(chosen, candidates=min(chosen.candidates, anchors))
    chosen = replace(chosen, limit=min(chosen.limit, chosen.candidates))
    if options.target is ExportTargetBackend.TENSORRT:
        check_limits(chosen, anchors, joints)
    spec = _describe(
        Path(source), options, options.input or head.input, chosen, (batch, height, width, element), joints
    )
    with step("attaching"):
        merged = _merge_tail(proto, outputs, spec, _tail(head, spec, options, chosen))
        merged = _merge_front(merged, spec, element)
        merged = simplify(merged)
        finish(merged, spec)
    save(merged, output)
    return spec


def _find_head(
    named: HeadName | None, metadata: Metadata | None, outputs: list[SourceTensor], source: str | Path
) -> tuple[HeadName, int, int]:
    """Returns the head of a file and the numbers of anchors and joints.

    Raises:
        ExportError: the shapes of the outputs are not those of the head; or no head fits, or several do.
    """
    listed = ", ".join(f"{own_name(item.name)} {item.shape}" for item in outputs)
    fits = fitting([item.shape for item in outputs])
    if named is not None:
        fits = {name: sizes for name, sizes in fits.items() if name is named}
    said = ""
    if metadata is not None:
        # 23 columns are 6 joints of three numbers or 9 of two; the metadata says which.
        xy = metadata.values == 2
        fits = {
            name: sizes for name, sizes in fits.items() if sizes[1] == metadata.joints and name.endswith("-xy") == xy
        }
        said = f" with the {metadata.joints} joints of {metadata.values} numbers that its metadata says"
    if not fits:
        of = f"head {named}" if named else "a known head"
        raise ExportError(
            f"attaching to {source}: {listed} are not the outputs of {of}{said}. Choose one of {', '.join(HEADS)}."
        )
    if len(fits) > 1:
        ways = ", ".join(f"{name} ({joints} joints)" for name, (_, joints) in fits.items())
        raise ExportError(f"attaching to {source}: {listed} may be the outputs of {ways}. Name the head.")
    return next((name, *sizes) for name, sizes in fits.items())


def _describe(
    source: Path,
    options: AttachOptions,
    policy: InputSpec,
    chosen: Selection,
    size: tuple[int | None, int, int, str],
    joints: int,
) -> ModelSpec:
    batch, height, width, element = size
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


class _Tail(nn.Module):
    """A head, the selection and the output format, in a row."""

    def __init__(self, head: nn.Module, select: nn.Module, layout: nn.Module) -> None:
        super().__init__()
        self.head, self.select, self.layout = head, select, layout

    def forward(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        decoded = self.head(*(output.float() for output in outputs))
        return self.layout(self.select(decoded))  # type: ignore[no-any-return]


def _tail(head: Head, spec: ModelSpec, options: AttachOptions, chosen: Selection) -> _Tail:
    joints = spec.skeleton.num_joints
    plugin = options.target is ExportTargetBackend.TENSORRT
    select: nn.Module = PluginSelect(chosen, spec.input.batch, joints) if plugin else SelectDecoded(chosen)
    return _Tail(head.module(), select, FORMAT_MODULES[options.layout]())


def _merge_tail(proto: onnx.ModelProto, outputs: list[SourceTensor], spec: ModelSpec, module: _Tail) -> onnx.ModelProto:
    inputs = [f"{TAIL}in{index}" for index in range(len(outputs))]
    tail = _trace(
        module,
        [torch.rand(item.shape).to(getattr(torch, item.element)) for item in outputs],
        inputs,
        list(spec.output.names),
        proto,
        spec,
        TAIL,
        {name: {1: "rows"} for name, item in zip(inputs, outputs, strict=True) if item.open_rows},
    )
    links = dict(zip(inputs, (item.name for item in outputs), strict=True))
    # Drops every output and node that the predictions do not depend on.
    return to_model(join(to_graph(proto), to_graph(tail), links), proto)


def _merge_front(proto: onnx.ModelProto, spec: ModelSpec, element: str) -> onnx.ModelProto:
    """Names the input as the description does, and adds the photometric step when uint8 images feed a float input."""
    converts = spec.input.dtype == "uint8" and element != "uint8"
    module: nn.Module = Normalize(spec.input.normalization) if converts else nn.Identity()
    if element == "float16":
        module = nn.Sequential(module, _Half())
    shape = (spec.input.batch or 2, 3, spec.input.height, spec.input.width)
    example = torch.zeros(shape, dtype=torch.uint8 if spec.input.dtype == "uint8" else torch.float32)
    pixels = f"{FRONT}pixels"
    front = _trace(module, [example], [spec.input.name], [pixels], proto, spec, FRONT)
    return to_model(join(to_graph(front), to_graph(proto), {proto.graph.input[0].name: pixels}), proto)


class _Half(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.half()


def _trace(
    module: nn.Module,
    examples: list[Tensor],
    inputs: list[str],
    outputs: list[str],
    like: onnx.ModelProto,
    spec: ModelSpec,
    prefix: str,
    open_axes: Mapping[str, dict[int, str]] | None = None,
) -> onnx.ModelProto:
    """Traces a part with the opset and IR version of the file it is merged into."""
    opset = opset_of(like)
    if not 16 <= opset <= _OPENED:
        raise ExportError(f"attaching: the file has opset {opset}, expected 13 to {_OPENED}. Export it with opset 17.")
    batches = {} if spec.input.batch else {0: "batch"}
    axes = {name: {**batches, **(open_axes or {}).get(name, {})} for name in inputs}
    if outputs == list(spec.output.names):
        axes |= find_format(spec).axes(spec)
    elif not spec.input.batch:
        axes |= {name: {0: "batch"} for name in outputs}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), tuple(examples), buffer, dynamo=False, opset_version=min(opset, _TRACED), input_names=inputs,  # type: ignore[arg-type]
            output_names=outputs, dynamic_axes=axes,
        )  # fmt: skip
    traced = onnx.load_model_from_string(buffer.getvalue())
    traced.ir_version = like.ir_version
    traced.opset_import[0].version = opset
    return to_model(rename(to_graph(traced), prefix, inside=True), traced)
