"""The text of the usage instructions, with ``$names`` for the values of a file."""

from __future__ import annotations

from string import Template

FACTS = Template("""\
$model is exported to $path

Input:  $input ($batch, $channels, $sides) $dtype, $pixels
Output: $outputs ($format format)""")

RUNS_IN = Template("\nRuns in: $quantization")

KEPT = Template("""
Kept:   scores above $confidence, IoU up to $iou, best $candidates candidates, at most $limit $many per image""")

TENSORRT = Template("""

It holds the plugin $plugins. With trtexec, on the GPU that will run it:

```shell
trtexec --onnx=$path --saveEngine=$stem.engine$shapes$library
```

$hint""")
PROFILE = Template(" --minShapes=$input:1x$size --optShapes=$input:1x$size --maxShapes=$input:8x$size")
OWN_LIBRARY = " --dynamicPlugins=libtrt_pose_plugins.so"
OWN_HINT = "plugins/README.md tells how to build and load libtrt_pose_plugins.so."
EFFICIENT_HINT = "TensorRT brings that operator; for TensorRT-RTX, trt-pose build writes its own in its place."

TRT_POSE = Template("""

With trt_pose:

```python
from trt_pose import PosePredictor

with PosePredictor($quoted) as predictor:
    result = predictor.predict("image.jpg")
found = result.$result
$loop
result.save("poses.jpg")
```""")
LOOPS = {
    "pose": """\
for pose in found:
    print(pose.scores[0], pose.boxes[0], pose.joints[0])""",
    "detection": """\
for name, score, box in zip(found.names, found.scores, found.boxes):
    print(name, score, box)""",
}

ONNXRUNTIME = Template("""

With ONNX Runtime alone:

```python
$feed

$read
```
""")

# Code that makes ``outputs``: for an input that takes pixels, and for any other.
FEED_IMAGE = Template("""\
import cv2
import numpy as np
import onnxruntime

image = cv2.cvtColor(cv2.imread("image.jpg"), cv2.COLOR_BGR2RGB)
$placement
$x

session = onnxruntime.InferenceSession($quoted)
outputs = session.run(None, {'$input': x})
offset, scale = np.array([left, top]), np.array([scale_x, scale_y])""")
FEED_TENSOR = Template("""\
import numpy as np
import onnxruntime

x = np.zeros(($images, $channels, $height, $width), np.$dtype)
session = onnxruntime.InferenceSession($quoted)
outputs = session.run(None, {'$input': x})""")

# Code that makes ``scale_x``, ``scale_y``, ``height`` and ``width``, by resize policy.
RESIZE = {
    "none": Template("""\
height, width = image.shape[:2]
scale_x, scale_y = width / image.shape[1], height / image.shape[0]"""),
    "shortest_side": Template("""\
scale = $short / min(image.shape[:2])
height, width = (max(round(n * scale / $divisor), 1) * $divisor for n in image.shape[:2])
scale_x, scale_y = width / image.shape[1], height / image.shape[0]"""),
    "stretch": Template("""\
height, width = $inner_height, $inner_width
scale_x, scale_y = width / image.shape[1], height / image.shape[0]"""),
    "longest_side": Template("""\
scale_x = scale_y = min($inner_height / image.shape[0], $inner_width / image.shape[1])
height, width = max(round(image.shape[0] * scale_y), 1), max(round(image.shape[1] * scale_x), 1)"""),
}
PLACE = {
    "center": Template("left, top = ($width - width) // 2, ($height - height) // 2"),
    "bottom_right": Template("left, top = 0, 0"),
}
X_ANY_SIZE = Template("x = (cv2.resize(image, (width, height)).transpose(2, 0, 1)[None]$unit).astype(np.$dtype)")
X_PADDED = Template("""\
padded = np.full(($height, $width, 3), $pad_value, np.uint8)
padded[top : top + height, left : left + width] = cv2.resize(image, (width, height))
x = np.stack([padded.transpose(2, 0, 1)] * $images).astype(np.$dtype)""")

# Code that reads ``outputs``, by output format; $body prints one prediction.
READ = {
    "batch": Template("""\
num_predictions, *rows = outputs
found = [(i, row) for i, count in enumerate(num_predictions[:, 0]) for row in range(count)]
for image_index, row in found:
    box, score, $extra = (values[image_index, row] for values in rows)
$body"""),
    "flat": Template("""\
(predictions,) = outputs
for row in predictions:
    image_index, box, score = int(row[0]), row[1:5], row[5]
    $columns
$body"""),
    "rcnn": Template("""\
for box, label, score, joints, logits in zip(*outputs):
    box = (box.reshape(2, 2) - offset) / scale  # px of the image: upper left, lower right
    print(int(label), score, box.tolist())
    for (x, y, _), logit in zip(joints, logits):
        print((x - left) / scale_x, (y - top) / scale_y, logit)"""),
}
READ_TENSORS = Template("""\
for name, value in zip($names, outputs):
    print(name, value.shape, value.dtype)""")
EXTRA = {"pose": "joints", "detection": "kind"}
COLUMNS = {"pose": Template("joints = row[6:].reshape($joints, 3)"), "detection": Template("kind = row[6]")}
BODY = {
    "pose": """\
    box = (box.reshape(2, 2) - offset) / scale  # px of the image: upper left, lower right
    print(image_index, score, box.tolist())
    for x, y, confidence in joints:
        print((x - left) / scale_x, (y - top) / scale_y, confidence)""",
    "detection": """\
    box = (box.reshape(2, 2) - offset) / scale  # px of the image: upper left, lower right
    print(image_index, score, box.tolist(), int(kind))  # the class, from 0""",
}
BODY_TENSOR = Template("    print(image_index, score, box, $extra)")
