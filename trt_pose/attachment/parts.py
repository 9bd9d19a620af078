"""The parts that are put around a file: behind it a head, the selection and the output format; before it the input.

They are ONNX text, whose syntax is that of https://onnx.ai/onnx/api/parser.html. The selection is one PoseNMS_TRT node.
For ONNX Runtime the node is replaced by the function of ``operators/onnx_functions.py`` that has its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import inliner, numpy_helper, parser

from ..formats import find_format
from ..graphs.surgery import normalize_graph
from ..operators import contract
from ..operators.onnx_functions import make_functions
from ..operators.selection import Selection
from ..spec import ModelSpec
from .heads import Head
from .source import SourceTensor, opset_of

# How the tensors of a file become float32 and int64.
_CONVERSIONS = {"float32": "Identity", "float16": "Cast <to = 1>", "int64": "Identity", "int32": "Cast <to = 7>"}
# Heads have other names for their tensors.
_FLAT = """
  column_axis = Constant <value_ints = [2]> ()
  score_column = Unsqueeze (pred_scores, column_axis)
  one_row_each = Constant <value_ints = [0, 0, -1]> ()
  joint_columns = Reshape (pred_joints, one_row_each)
  table = Concat <axis = 2> (pred_boxes, score_column, joint_columns)
  nothing = Constant <value_float = 0.0> ()
  valid = Greater (pred_scores, nothing)
  coordinates = NonZero (valid)
  places = Transpose <perm = [1, 0]> (coordinates)
  kept = GatherND (table, places)
  halves = Constant <value_ints = [1, 1]> ()
  image, row = Split <axis = 1> (places, halves)
  image_column = Cast <to = 1> (image)
  flat_predictions = Concat <axis = 1> (image_column, kept)
"""


def make_tail(
    head: Head, tensors: Sequence[SourceTensor], spec: ModelSpec, selection: Selection, like: onnx.ModelProto
) -> onnx.ModelProto:
    """Returns the part that makes the outputs of ``spec`` of ``tensors``; its inputs are in their order.

    Args:
        head: the layout of the tensors.
        tensors: the tensors of the file.
        spec: the description of the new file; says the format, the batch size, the joints, and whether the node stays.
        selection: thresholds and limits.
        like: the file, whose operator set and IR version the part gets.
    """
    batch, joints = spec.input.batch or "batch", spec.skeleton.num_joints
    inputs = [
        _declare(item.element, [batch, "rows" if item.open_rows else item.shape[1], *item.shape[2:]], f"{name}_of_file")
        for name, item in zip(head.tensors, tensors, strict=True)
    ]
    nodes = [
        f"{name} = {_CONVERSIONS[item.element]} ({name}_of_file)"
        for name, item in zip(head.tensors, tensors, strict=True)
    ]
    nodes += [head.text.format(width=joints * head.values), _select(selection)]
    # ONNX Runtime's files count in int64, as torch does; the node counts in int32.
    whole, counted = ("int32", "Identity") if spec.plugins_required else ("int64", "Cast <to = 7>")
    nodes.append(_FLAT if spec.output.format == "flat" else f"num_predictions = {counted} (count)")
    axes = find_format(spec).axes(spec)
    outputs = [
        _declare(
            whole if name == "num_predictions" else "float32",
            [axes.get(name, {}).get(axis) or str(size) for axis, size in enumerate(shape)],
            name,
        )
        for name, shape in find_format(spec).shapes(spec).items()
    ]
    return _parse(inputs, outputs, nodes, like, inline=not spec.plugins_required)


def _select(selection: Selection) -> str:
    return f"""
  count, pred_boxes, pred_scores, pred_joints = {contract.DOMAIN}.{contract.NAME} <
    score_threshold = {float(selection.confidence)}, iou_threshold = {float(selection.iou)},
    max_output_boxes = {selection.limit}, num_pre_nms_predictions = {selection.candidates},
    plugin_version = "{contract.VERSION}", plugin_namespace = "{contract.NAMESPACE}"
  > (boxes, scores, joints)
"""


def make_front(spec: ModelSpec, element: str, like: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the part from the input of ``spec`` to ``pixels``, which the file takes as ``element``.

    Where the new file takes uint8 images and the file does not, it is a cast, the order of the channels, and
    (x - mean) / std.
    """
    steps = ["Identity ({})"]
    constants = {}
    if spec.input.dtype == "uint8" != element:
        steps.append("Cast <to = 1> ({})")
        normalization = spec.input.normalization
        mean, std = (np.array(part, np.float32).reshape(1, 3, 1, 1) for part in (normalization.mean, normalization.std))
        if normalization.channels == "BGR":
            steps.append("Gather <axis = 1> ({}, order)")
            constants["order"] = np.array([2, 1, 0])
        if mean.any():
            steps.append("Sub ({}, mean)")
            constants["mean"] = mean
        if (std != 1).any():
            steps.append("Mul ({}, gain)")
            constants["gain"] = np.float32(1) / std
    if element == "float16":
        steps.append("Cast <to = 10> ({})")
    names = [spec.input.name, *(f"step{number}" for number in range(1, len(steps))), "pixels"]
    nodes = [f"{after} = {step.format(name)}" for step, name, after in zip(steps, names, names[1:], strict=False)]
    shape = [spec.input.batch or "batch", 3, spec.input.height, spec.input.width]
    inputs, outputs = _declare(spec.input.dtype, shape, spec.input.name), _declare(element, shape, "pixels")
    front = _parse([inputs], [outputs], nodes, like)
    front.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return front


def _declare(element: str, shape: Sequence[int | str], name: str) -> str:
    return f"{element.replace('float32', 'float')}[{', '.join(map(str, shape))}] {name}"


def _parse(
    inputs: list[str], outputs: list[str], nodes: list[str], like: onnx.ModelProto, inline: bool = False
) -> onnx.ModelProto:
    """Returns the model of a text, in the operator set and IR version of ``like``."""
    opset = opset_of(like)
    body = "\n".join(nodes)
    part = parser.parse_model(
        f'<ir_version: {like.ir_version}, opset_import: ["": {opset}, "{contract.DOMAIN}": 1]>'
        f"part ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {body} }}"
    )
    if inline:
        functions = make_functions().functions
        for function in functions:  # their operators mean the same in every operator set that attach takes
            function.opset_import[0].version = opset
        part.functions.extend(functions)
        part = inliner.inline_local_functions(part)
        del part.opset_import[1:]
    return normalize_graph(part)
