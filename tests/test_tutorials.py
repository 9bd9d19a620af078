"""The steps of super-gradients' export tutorials (objects, poses, Keypoint R-CNN), written anew on trt_pose.

Where ours differs on purpose the test says so: INT8 takes images, not noise, unless noise is asked for by name.
"""

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch.utils.data import DataLoader

from trt_pose import (
    DetectionOutputFormatMode,
    ExportQuantizationMode,
    ExportTargetBackend,
    open_runner,
)
from trt_pose.images import draw
from trt_pose.images.pixels import letterbox
from trt_pose.results.detections import Detections
from trt_pose.results.poses import Poses

from .conftest import make_tiny
from .export.test_detection_export import tiny as tiny_detector

pytestmark = pytest.mark.slow
FLAT = DetectionOutputFormatMode.FLAT_FORMAT
SIZE = {"input_image_shape": (320, 320)}  # the tutorials' 640 would only take longer


@pytest.fixture(scope="module")
def pose():
    return make_tiny()


@pytest.fixture(scope="module", params=["yolo_nas", "ppyoloe"])
def detector(request):
    return tiny_detector(request.param)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(export_result, images):
    """As every tutorial does it: names asked of the session, the image stretched, channels first."""
    height, width = export_result.input_image_shape
    batch = np.stack([cv2.resize(image, (width, height)).transpose(2, 0, 1) for image in images])
    session = onnxruntime.InferenceSession(export_result.output, providers=["CPUExecutionProvider"])
    inputs = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs()]
    return session.run(outputs, {inputs[0]: batch})


def per_image(predictions, batch_size):
    """Rows of each image out of the batch format."""
    counts, *rows = predictions
    for index in range(batch_size):
        yield [values[index, : counts[index, 0]] for values in rows]


def per_image_flat(predictions, batch_size):
    (rows,) = predictions
    for index in range(batch_size):
        own = rows[rows[:, 0] == index]
        yield own[:, 1:5], own[:, 5], own[:, 6:].reshape(len(own), -1, 3)


def test_poses_by_default_and_drawn(pose, photograph):
    result = pose.export("pose.onnx", confidence_threshold=0.05)
    assert result.input_image_shape == (640, 640)
    assert "pose.onnx" in repr(result)
    predictions = run(result, [photograph])
    assert [value.shape for value in predictions] == [(1, 1), (1, 1000, 4), (1, 1000), (1, 1000, 17, 3)]
    ((boxes, scores, joints),) = per_image(predictions, 1)
    assert len(boxes) == len(scores) == len(joints) > 3
    picture = draw.draw_poses(cv2.resize(photograph, (640, 640)), boxes, scores, joints, result.spec.skeleton)
    assert (picture != cv2.resize(photograph, (640, 640))).any()


def test_poses_flat(pose, photograph):
    options = {"confidence_threshold": 0.3, **SIZE}
    flat = run(pose.export("flat.onnx", output_predictions_format=FLAT, **options), [photograph])
    padded = run(pose.export("batch.onnx", **options), [photograph])
    (first,), (second,) = per_image_flat(flat, 1), per_image(padded, 1)
    assert len(first[0]) > 3
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_poses_of_several_images(pose, photograph):
    result = pose.export("batch.onnx", batch_size=3, confidence_threshold=0.3, **SIZE)
    images = [photograph, photograph[:, ::-1], photograph[100:400, 100:400]]
    together = list(per_image(run(result, images), 3))
    alone = pose.export("one.onnx", confidence_threshold=0.3, **SIZE)
    for image, rows in zip(images, together, strict=True):
        ((boxes, *_),) = per_image(run(alone, [image]), 1)
        assert len(boxes) == len(rows[0])
        np.testing.assert_allclose(boxes, rows[0], atol=1e-3)


@pytest.mark.parametrize("formats", [FLAT, DetectionOutputFormatMode.BATCH_FORMAT])
def test_exactly_one_person(photograph, formats):
    """Above 0.8, IoU 0.5, 100 before NMS, 1 after."""
    sure = make_tiny()  # of its people, which the small model is not
    with torch.no_grad():
        for head in (sure.heads.head1, sure.heads.head2, sure.heads.head3):
            head.cls_pred.bias[0] += 4
    result = sure.export(
        "top_1.onnx", confidence_threshold=0.8, nms_threshold=0.5, num_pre_nms_predictions=100,
        max_predictions_per_image=1, output_predictions_format=formats, **SIZE,
    )  # fmt: skip
    predictions = run(result, [photograph])
    ((boxes, scores, joints),) = (per_image_flat if formats is FLAT else per_image)(predictions, 1)
    assert (len(boxes), len(joints)) == (1, 1)
    everyone = run(sure.export("all.onnx", confidence_threshold=0.05, **SIZE), [photograph])
    assert scores[0] == pytest.approx(everyone[2].max(), abs=1e-5)
    assert scores[0] > 0.8


def test_int8_without_a_loader(pose, photograph):
    """The reference calibrates on noise here and says nothing; ours warns, and the file says it."""
    options = {"quantization_mode": ExportQuantizationMode.INT8, "output_predictions_format": FLAT, **SIZE}
    with pytest.warns(UserWarning, match="calibrating on noise"):
        result = pose.export("int8.onnx", **options)
    assert "images of noise" in result.spec.quantization
    assert result.quantization_mode is ExportQuantizationMode.INT8
    assert run(result, [photograph])[0].shape[1] == 57


def test_int8_with_a_loader(pose, photograph):
    noise = [torch.randn((3, 320, 320)) for _ in range(4)]
    options = {"quantization_mode": ExportQuantizationMode.INT8, "confidence_threshold": 0.3, **SIZE}
    with pytest.warns(UserWarning, match="calibrating on noise"):  # the tutorial's stand-in is no image
        pose.export("int8.onnx", calibration_loader=DataLoader(noise, batch_size=2), **options)
    crops = [photograph[i : i + 320, i : i + 320].transpose(2, 0, 1).copy() for i in (0, 60, 120, 190)]
    loader = DataLoader([(torch.from_numpy(crop), index) for index, crop in enumerate(crops)], batch_size=2)
    result = pose.export("int8.onnx", calibration_loader=loader, **options)
    plain = pose.export("fp32.onnx", confidence_threshold=0.3, **SIZE)
    fewer, more = sorted(int(run(item, [photograph])[0][0, 0]) for item in (result, plain))
    assert 0 < fewer <= more <= 2 * fewer


def test_fp16_without_a_gpu(pose, photograph):
    result = pose.export("fp16.onnx", quantization_mode=ExportQuantizationMode.FP16, confidence_threshold=0.3, **SIZE)
    assert int(run(result, [photograph])[0][0, 0]) > 3


def test_steps_of_ones_own_and_none_at_all(pose, photograph):
    """preprocessing and postprocessing off; a module in the place of either."""
    raw = pose.export("raw.onnx", preprocessing=False, postprocessing=False, **SIZE)
    assert raw.input_image_dtype == "float32"
    with open_runner("raw.onnx", providers=["cpu"]) as runner:
        outputs = runner.run({"input": np.zeros((1, 3, 320, 320), np.float32)})
    assert outputs["pred_joints"].shape == (1, 2100, 17, 3)

    class Half(torch.nn.Module):
        def forward(self, x):
            return x.float() / 510

    class Best(torch.nn.Module):
        def forward(self, decoded):
            boxes, scores, _ = decoded
            best = scores[..., 0].argmax(dim=1, keepdim=True)
            return boxes.gather(1, best[..., None].expand(-1, -1, 4))

    result = pose.export("own.onnx", preprocessing=Half(), postprocessing=Best(), input_image_dtype=torch.uint8, **SIZE)
    assert run(result, [photograph])[0].shape == (1, 1, 4)


def test_for_tensorrt(pose, photograph):
    result = pose.export("trt.onnx", engine=ExportTargetBackend.TENSORRT, confidence_threshold=0.3, **SIZE)
    assert "trtexec --onnx=trt.onnx" in result.usage_instructions
    with open_runner("trt.onnx", providers=["cpu"]) as runner:  # ONNX Runtime runs the node, too
        outputs = runner.run({"input": letterbox(photograph, result.spec.input)[0][None]})
    assert len(Poses.from_outputs(outputs, result.spec)) > 3


def test_objects_in_both_formats(detector, photograph):
    options = {"confidence_threshold": 0.2, "nms_threshold": 0.5, "num_pre_nms_predictions": 100, **SIZE}
    padded = detector.export("batch.onnx", max_predictions_per_image=30, **options)
    counts, boxes, scores, classes = run(padded, [photograph])
    assert (boxes.shape, scores.shape, classes.shape) == ((1, 30, 4), (1, 30), (1, 30))
    flat = detector.export("flat.onnx", max_predictions_per_image=30, output_predictions_format=FLAT, **options)
    (rows,) = run(flat, [photograph])
    assert len(rows) == counts[0, 0] > 3
    np.testing.assert_allclose(rows[:, 1:5], boxes[0, : len(rows)], atol=1e-3)
    np.testing.assert_array_equal(rows[:, 6], classes[0, : len(rows)])
    found = Detections.from_outputs({"flat_predictions": rows}, flat.spec)
    assert (found.draw(cv2.resize(photograph, (320, 320))) != cv2.resize(photograph, (320, 320))).any()


def test_five_objects_at_most(detector, photograph):
    result = detector.export(
        "top_5.onnx", confidence_threshold=0.1, nms_threshold=0.5, num_pre_nms_predictions=100,
        max_predictions_per_image=5, output_predictions_format=FLAT, **SIZE,
    )  # fmt: skip
    (rows,) = run(result, [photograph])
    assert len(rows) == 5
    assert (np.diff(rows[:, 5]) <= 0).all()


def test_keypoint_rcnn_from_checkpoint_to_picture(rcnn_onnx, photograph):
    """A fine-tuned state dict and its colormap were exported; ONNX Runtime by hand, keypoints in their colours."""
    path, result = rcnn_onnx
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [item.name for item in session.get_outputs()]
    assert outputs == ["boxes", "labels", "scores", "keypoints", "keypoints_scores"]
    image = cv2.resize(photograph, (256, 192))
    boxes, _, scores, keypoints, _ = session.run(outputs, {"input": image.transpose(2, 0, 1)[None]})
    assert len(boxes) == len(scores) == len(keypoints) > 3
    canvas = np.zeros_like(image)
    for person in keypoints:
        for (x, y, _), color in zip(person, result.spec.skeleton.joint_colors, strict=True):
            cv2.circle(canvas, (round(float(x)), round(float(y))), 2, color, -1)
    drawn = {tuple(pixel) for pixel in canvas.reshape(-1, 3)}
    assert drawn <= {(0, 0, 0), *result.spec.skeleton.joint_colors}
    assert len(drawn) > 3
