"""The instructions printed for an exported file. Every code block in them is executed by the tests."""

from __future__ import annotations

from ..types import ModelSpec


def usage_instructions(path: str, spec: ModelSpec) -> str:
    """Markdown: what the file takes, what it gives, and code for both ways of running it."""
    if spec.plugins_required:
        return "\n".join([_facts(path, spec), *_tensorrt_section(path, spec)])
    return "\n".join([_facts(path, spec), *_trt_pose_section(path, spec), *_onnxruntime_section(path, spec)])


def _facts(path: str, spec: ModelSpec) -> str:
    batch = spec.input.batch or "any"
    shape = f"({batch}, {spec.input.channels}, {spec.input.height}, {spec.input.width})"
    pixels = (
        f"RGB in 0..255, long side resized to {max(spec.input.resize_to)}, padded with {spec.input.pad_value}"
        if spec.input.normalized_in_graph
        else f"{spec.input.normalization.channels}, minus {spec.input.normalization.mean}, over"
        f" {spec.input.normalization.std}"
    )
    lines = [
        f"{spec.model} is exported to {path}",
        "",
        f"Input:  {spec.input.name} {shape} {spec.input.dtype}, {pixels}",
        f"Output: {', '.join(spec.output.names)} ({spec.output.format} format)",
    ]
    if spec.output.confidence_threshold is not None:
        lines.append(
            f"Kept:   scores above {spec.output.confidence_threshold:g}, IoU up to {spec.output.nms_threshold:g},"
            f" best {spec.output.num_pre_nms_predictions} candidates,"
            f" at most {spec.output.max_predictions_per_image} people per image"
        )
    return "\n".join(lines)


def _tensorrt_section(path: str, spec: ModelSpec) -> list[str]:
    """The file is for TensorRT alone: ONNX Runtime has no such operator."""
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
    return [
        "",
        f"It holds the plugin node {', '.join(spec.plugins_required)}. With trtexec, on the GPU that will run it:",
        "",
        "```shell",
        f"trtexec --onnx={path} --saveEngine={stem}.engine{shapes} --dynamicPlugins=libtrt_pose_plugins.so",
        "```",
        "",
        "plugins/README.md tells how to build and load libtrt_pose_plugins.so.",
        "",
    ]


def _trt_pose_section(path: str, spec: ModelSpec) -> list[str]:
    if spec.output.format not in ("batch", "flat") or not spec.input.normalized_in_graph:
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
        "for pose in result.poses:",
        "    print(pose.scores[0], pose.boxes[0], pose.joints[0])",
        'result.save("poses.jpg")',
        "```",
    ]


def _onnxruntime_section(path: str, spec: ModelSpec) -> list[str]:
    return ["", "With ONNX Runtime alone:", "", "```python", *_feed(path, spec), "", *_read(spec), "```", ""]


def _feed(path: str, spec: ModelSpec) -> list[str]:
    size, batch = spec.input, spec.input.batch or 1
    if not size.normalized_in_graph:
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
        f"scale = min({size.resize_to[0]} / image.shape[0], {size.resize_to[1]} / image.shape[1])",
        "height, width = round(image.shape[0] * scale), round(image.shape[1] * scale)",
        f"padded = np.full(({size.height}, {size.width}, 3), {size.pad_value}, np.uint8)",
        "padded[:height, :width] = cv2.resize(image, (width, height))",
        f"x = np.stack([padded.transpose(2, 0, 1)] * {batch}).astype(np.{size.dtype})",
        "",
        f"session = onnxruntime.InferenceSession({path!r})",
        f"outputs = session.run(None, {{{size.name!r}: x}})",
    ]


def _read(spec: ModelSpec) -> list[str]:
    joints = spec.skeleton.num_joints
    if spec.output.format == "batch":
        return [
            "num_predictions, boxes, scores, joints = outputs",
            "for image_index in range(len(num_predictions)):",
            "    for row in range(num_predictions[image_index, 0]):",
            "        print(image_index, scores[image_index, row], boxes[image_index, row] / scale)",
            "        for x, y, confidence in joints[image_index, row]:",
            "            print(x / scale, y / scale, confidence)",
        ]
    if spec.output.format == "flat":
        return [
            "(predictions,) = outputs",
            "for row in predictions:",
            "    image_index, box, score = int(row[0]), row[1:5], row[5]",
            "    print(image_index, score, box / scale)",
            f"    for x, y, confidence in row[6:].reshape({joints}, 3):",
            "        print(x / scale, y / scale, confidence)",
        ]
    return [
        f"for name, value in zip({list(spec.output.names)!r}, outputs):",
        "    print(name, value.shape, value.dtype)",
    ]
