"""Usage instructions printed for an exported file. The tests execute every code block in them."""

from __future__ import annotations

from ...formats import find_format
from ...nms.contract import EFFICIENT_NAME
from ...spec import InputSpec, ModelSpec


def usage_instructions(path: str, spec: ModelSpec) -> str:
    """Returns Markdown: the inputs and outputs of the file, and code that runs it."""
    if spec.plugins_required:
        return "\n".join([_facts(path, spec), *_tensorrt_section(path, spec), *_trt_pose_section(path, spec)])
    return "\n".join([_facts(path, spec), *_trt_pose_section(path, spec), *_onnxruntime_section(path, spec)])


def _facts(path: str, spec: ModelSpec) -> str:
    batch = spec.input.batch or "any"
    sides = "H, W" if spec.input.takes_any_size else f"{spec.input.height}, {spec.input.width}"
    shape = f"({batch}, {spec.input.channels}, {sides})"
    lines = [
        f"{spec.model} is exported to {path}",
        "",
        f"Input:  {spec.input.name} {shape} {spec.input.dtype}, {_pixels(spec.input)}",
        f"Output: {', '.join(spec.output.names)} ({spec.output.format} format)",
    ]
    if spec.quantization:
        lines.append(f"Runs in: {spec.quantization}")
    if spec.output.confidence_threshold is not None:
        lines.append(
            f"Kept:   scores above {spec.output.confidence_threshold:g}, IoU up to {spec.output.nms_threshold:g},"
            f" best {spec.output.num_pre_nms_predictions} candidates,"
            f" at most {spec.output.max_predictions_per_image} {_plural(spec)} per image"
        )
    return "\n".join(lines)


def _pixels(size: InputSpec) -> str:
    """Returns a description of the pixels of the input."""
    if size.custom_preprocessing:
        return "as the module before the network takes it"
    if not size.normalized_in_graph:
        return f"{size.normalization.channels}, minus {size.normalization.mean}, over {size.normalization.std}"
    if size.takes_any_size:
        how = "of any size"
        if size.resize == "shortest_side":
            how = f"the shorter side {min(size.resize_to)} px, both multiples of {size.divisor}"
        return f"RGB in 0..{size.white}, {how}"
    inner = f"{size.resize_to[0]} x {size.resize_to[1]}"
    how = f"stretched to {inner}" if size.resize == "stretch" else f"scaled to fit {inner}"
    where = "around it" if size.padding == "center" else "below and to the right"
    padded = size.resize == "longest_side" or size.resize_to != (size.height, size.width)
    return f"RGB in 0..255, {how}" + (f", {where} {size.pad_value}" if padded else "")


def _tensorrt_section(path: str, spec: ModelSpec) -> list[str]:
    """Returns the section that explains how to build an engine with the required plugin."""
    stem = path.removesuffix(".onnx")
    size = f"{spec.input.channels}x{spec.input.height}x{spec.input.width}"
    shapes = (
        ""
        if spec.input.batch
        else "".join(
            f" --{which}Shapes={spec.input.name}:{batch}x{size}"
            for which, batch in (("min", 1), ("opt", 1), ("max", 8))
        )
    )
    ours = EFFICIENT_NAME not in spec.plugins_required
    library = " --dynamicPlugins=libtrt_pose_plugins.so" if ours else ""
    return [
        "",
        f"It holds the plugin node {', '.join(spec.plugins_required)}. With trtexec, on the GPU that will run it:",
        "",
        "```shell",
        f"trtexec --onnx={path} --saveEngine={stem}.engine{shapes}{library}",
        "```",
        "",
        "plugins/README.md tells how to build and load libtrt_pose_plugins.so."
        if ours
        else "TensorRT brings that operator; for TensorRT-RTX, trt-pose build writes its own in its place.",
    ]


def _trt_pose_section(path: str, spec: ModelSpec) -> list[str]:
    if not find_format(spec).finished or not spec.input.normalized_in_graph:
        return []
    return [
        "",
        "With trt_pose:",
        "",
        "```python",
        "from trt_pose import PosePredictor",
        "",
        f"with PosePredictor({path!r}) as predictor:",
        '    result = predictor.predict("image.jpg")',
        f"found = result.{'detections' if spec.task == 'detection' else 'poses'}",
        *(
            ["for name, score, box in zip(found.names, found.scores, found.boxes):", "    print(name, score, box)"]
            if spec.task == "detection"
            else ["for pose in found:", "    print(pose.scores[0], pose.boxes[0], pose.joints[0])"]
        ),
        'result.save("poses.jpg")',
        "```",
    ]


def _onnxruntime_section(path: str, spec: ModelSpec) -> list[str]:
    return ["", "With ONNX Runtime alone:", "", "```python", *_feed(path, spec), "", *_read(spec), "```", ""]


def _feed(path: str, spec: ModelSpec) -> list[str]:
    size, batch = spec.input, spec.input.batch or 1
    if not size.normalized_in_graph or size.custom_preprocessing:
        return [
            "import numpy as np",
            "import onnxruntime",
            "",
            f"x = np.zeros(({batch}, {size.channels}, {size.height}, {size.width}), np.{size.dtype})",
            f"session = onnxruntime.InferenceSession({path!r})",
            f"outputs = session.run(None, {{{size.name!r}: x}})",
        ]
    return [
        "import cv2",
        "import numpy as np",
        "import onnxruntime",
        "",
        'image = cv2.cvtColor(cv2.imread("image.jpg"), cv2.COLOR_BGR2RGB)',
        *_placement(size),
        *_pixels_in_place(size, batch),
        "",
        f"session = onnxruntime.InferenceSession({path!r})",
        f"outputs = session.run(None, {{{size.name!r}: x}})",
        "offset, scale = np.array([left, top]), np.array([scale_x, scale_y])",
    ]


def _pixels_in_place(size: InputSpec, batch: int) -> list[str]:
    """Returns code for ``x``: the resized image, padded when the input has a fixed size."""
    if size.takes_any_size:
        unit = " / 255" if size.white == 1 else ""
        return [f"x = (cv2.resize(image, (width, height)).transpose(2, 0, 1)[None]{unit}).astype(np.{size.dtype})"]
    return [
        f"padded = np.full(({size.height}, {size.width}, 3), {size.pad_value}, np.uint8)",
        "padded[top : top + height, left : left + width] = cv2.resize(image, (width, height))",
        f"x = np.stack([padded.transpose(2, 0, 1)] * {batch}).astype(np.{size.dtype})",
    ]


def _placement(size: InputSpec) -> list[str]:
    """Returns code for scale_x, scale_y, width, height, left and top: the letterbox of one input policy."""
    target_h, target_w = size.resize_to
    scales = "scale_x, scale_y = width / image.shape[1], height / image.shape[0]"
    if size.resize == "none":
        lines = ["height, width = image.shape[:2]", scales]
    elif size.resize == "shortest_side":
        lines = [
            f"scale = {min(target_h, target_w)} / min(image.shape[:2])",
            f"height, width = (max(round(n * scale / {size.divisor}), 1) * {size.divisor} for n in image.shape[:2])",
            scales,
        ]
    elif size.resize == "stretch":
        lines = [
            f"height, width = {target_h}, {target_w}",
            scales,
        ]
    else:
        lines = [
            f"scale_x = scale_y = min({target_h} / image.shape[0], {target_w} / image.shape[1])",
            "height, width = max(round(image.shape[0] * scale_y), 1), max(round(image.shape[1] * scale_x), 1)",
        ]
    if size.padding == "center":
        return [*lines, f"left, top = ({size.width} - width) // 2, ({size.height} - height) // 2"]
    return [*lines, "left, top = 0, 0"]


def _read(spec: ModelSpec) -> list[str]:
    if spec.output.format in ("batch", "flat") and not spec.input.normalized_in_graph:
        return [*_rows(spec), f"    print(image_index, score, box, {_what(spec)})"]
    if spec.output.format in ("batch", "flat"):
        box = "    box = (box.reshape(2, 2) - offset) / scale  # px of the image: upper left, lower right"
        if spec.task == "detection":
            return [*_rows(spec), box, "    print(image_index, score, box.tolist(), int(kind))  # the class, from 0"]
        return [
            *_rows(spec),
            "    box = (box.reshape(2, 2) - offset) / scale  # px of the image: upper left, lower right",
            "    print(image_index, score, box.tolist())",
            "    for x, y, confidence in joints:",
            "        print((x - left) / scale_x, (y - top) / scale_y, confidence)",
        ]
    if spec.output.format == "rcnn":
        return [
            "for box, label, score, joints, logits in zip(*outputs):",
            "    box = (box.reshape(2, 2) - offset) / scale  # px of the image: upper left, lower right",
            "    print(int(label), score, box.tolist())",
            "    for (x, y, _), logit in zip(joints, logits):",
            "        print((x - left) / scale_x, (y - top) / scale_y, logit)",
        ]
    return [
        f"for name, value in zip({list(spec.output.names)!r}, outputs):",
        "    print(name, value.shape, value.dtype)",
    ]


def _rows(spec: ModelSpec) -> list[str]:
    """Returns code that loops over the predictions of all images."""
    if spec.output.format == "flat":
        return [
            "(predictions,) = outputs",
            "for row in predictions:",
            "    image_index, box, score = int(row[0]), row[1:5], row[5]",
            "    kind = row[6]"
            if spec.task == "detection"
            else f"    joints = row[6:].reshape({spec.skeleton.num_joints}, 3)",
        ]
    return [
        "num_predictions, *rows = outputs",
        "found = [(i, row) for i, count in enumerate(num_predictions[:, 0]) for row in range(count)]",
        "for image_index, row in found:",
        f"    box, score, {_what(spec)} = (values[image_index, row] for values in rows)",
    ]


def _what(spec: ModelSpec) -> str:
    """Returns the name of the variable that holds the rest of a row: the class or the joints."""
    return "kind" if spec.task == "detection" else "joints"


def _plural(spec: ModelSpec) -> str:
    return "objects" if spec.task == "detection" else "people"
