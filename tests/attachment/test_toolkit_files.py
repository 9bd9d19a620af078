"""``attach`` on files that Ultralytics and LibreYOLO themselves write, of untrained networks: a slow test.

They are installed into a folder of the test's own and run in a process of their own; nothing of them is kept.
"""

import ast
import os
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import onnxruntime
import pytest

from trt_pose import ExportError, Poses, open_runner
from trt_pose.attachment.attach import AttachOptions, attach
from trt_pose.inspection import inspect
from trt_pose.operators.selection import Selection

from .. import reference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRT_POSE_NETWORK") != "1", reason="downloads packages: set TRT_POSE_NETWORK=1"),
]
PACKAGES = ("libreyolo", "ultralytics", "ultralytics-thop", "psutil", "polars", "polars-runtime-32")
HEIGHT, WIDTH = 160, 192
# Name of the file: model, joints, classes, options of the export.
FILES: dict[str, tuple[str, tuple[int, int], int, dict[str, object]]] = {
    "v8": ("yolov8n-pose", (17, 3), 1, {}),
    "v8_xy": ("yolov8n-pose", (9, 2), 1, {}),
    "v8_half": ("yolov8n-pose", (17, 3), 1, {"half": True}),
    "v11": ("yolo11n-pose", (17, 3), 1, {"opset": 20}),
    "v11_dynamic": ("yolo11n-pose", (17, 3), 1, {"dynamic": True}),
    "v11_nms": ("yolo11n-pose", (17, 3), 1, {"nms": True, "conf": 0.001}),
    "v12": ("yolo12n-pose", (17, 3), 1, {"simplify": True}),
    "v26": ("yolo26n-pose", (17, 3), 1, {}),
    "v11_classes": ("yolo11n-pose", (17, 3), 3, {}),
}
SCRIPT = """
    import shutil, sys, torch
    from ultralytics import YOLO
    from ultralytics.nn.tasks import PoseModel

    torch.manual_seed(0)
    for name, (model, shape, classes, options) in {files!r}.items():
        made = YOLO(model + ".yaml")
        given = made.model.args
        made.model = PoseModel(model + ".yaml", nc=classes, data_kpt_shape=shape, verbose=False)
        made.model.args, made.model.task = given, "pose"
        made.model.names = {{number: "kind " + str(number) for number in range(classes)}}
        for head in made.model.model[-1].modules():  # untrained scores are all near 0
            if isinstance(head, torch.nn.Conv2d) and head.bias is not None and head.out_channels == classes:
                head.bias.data += 4.0
        written = made.export(format="onnx", imgsz=({height}, {width}), verbose=False, **{{"opset": 17, **options}})
        shutil.move(written, name + ".onnx")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ultralytics")
    packages = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, *PACKAGES]
    subprocess.run(pip, check=True)
    run_script(folder, textwrap.dedent(SCRIPT).format(files=FILES, height=HEIGHT, width=WIDTH))
    return folder


def run_script(folder, script):
    settings = {"PYTHONPATH": str(folder / "packages"), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    environment = {**os.environ, **settings, "YOLO_CONFIG_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def rows_of(path, pixels):
    """What the file itself finds: rows of box xyxy, score and joints (B, A, 5 + J * values), and whether it suppressed.

    Also the numbers per joint.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    element = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    (found,) = session.run(None, {session.get_inputs()[0].name: (pixels / 255).astype(element)})
    metadata = session.get_modelmeta().custom_metadata_map
    joints, values = ast.literal_eval(metadata["kpt_shape"])
    found = found.astype(np.float32)
    if found.shape[2] == 6 + joints * values:
        return np.concatenate([found[..., :5], found[..., 6:]], axis=2), True, values
    found = found.transpose(0, 2, 1)
    half = found[..., 2:4] / 2
    boxes = np.concatenate([found[..., :2] - half, found[..., :2] + half], axis=2)
    return np.concatenate([boxes, found[..., 4:]], axis=2), False, values


@pytest.mark.parametrize("name", [name for name in FILES if name != "v11_classes"])
def test_files_of_ultralytics(files, tmp_path, name, rng):
    """The layout is read from the metadata; the people are those of NumPy's suppression over the file's own outputs."""
    source, (_, shape, _, options) = files / f"{name}.onnx", FILES[name]
    batch = 2 if options.get("dynamic") else 1
    pixels = rng.integers(0, 256, (batch, 3, HEIGHT, WIDTH), dtype=np.uint8)
    rows, suppressed, values = rows_of(source, pixels)
    confidence = float(np.sort(rows[..., 4], axis=1)[:, -40].min())
    spec = attach(source, tmp_path / "ours.onnx", AttachOptions(selection=Selection(confidence, 0.7, 300, 20)))
    assert (spec.skeleton.num_joints, spec.input.padding, spec.input.pad_value) == (shape[0], "center", 114)
    with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
        outputs = runner.run({"input": pixels})
    joints = rows[..., 5:].reshape(*rows.shape[:2], shape[0], values)
    if values == 2:
        joints = np.concatenate([joints, np.ones_like(joints[..., :1])], axis=3)
    want = reference.pose_nms(rows[..., :4], rows[..., 4:5], joints, confidence, 1.0 if suppressed else 0.7, 300, 20)  # type: ignore[call-arg]
    loose = 1.0 if options.get("half") else 1e-2
    for image in range(batch):
        found, count = Poses.from_outputs(outputs, spec, image), int(want[0][image, 0])
        assert abs(len(found) - count) <= (2 if options.get("half") else 0)
        assert count > 2
        if not options.get("half"):
            np.testing.assert_allclose(found.boxes, want[1][image, :count], atol=loose)
            np.testing.assert_allclose(found.joints, want[3][image, :count], atol=loose)
        np.testing.assert_allclose(found.scores[:3], want[2][image, :3], atol=5e-3)


def test_several_classes_are_refused_by_name(files, tmp_path):
    with pytest.raises(ExportError, match=r"it has 3 classes \(kind 0, kind 1, kind 2\) with 17 joints each"):
        attach(files / "v11_classes.onnx", tmp_path / "ours.onnx", AttachOptions())
    assert onnx.load(files / "v11_classes.onnx").graph.output[0].name == "output0"


@pytest.mark.parametrize("opset", [13, 17])
def test_files_of_libreyolo(files, tmp_path, opset, rng):
    """YOLO-NAS-Pose as LibreYOLO writes it by default: operator set 13, open sizes of the outputs."""
    run_script(
        files,
        "import torch; torch.manual_seed(0); from libreyolo import LibreYOLONAS;"
        f"LibreYOLONAS(None, size='n', task='pose').export(format='onnx', imgsz=160, opset={opset},"
        f" output_path='libre{opset}.onnx')",
    )
    source = files / f"libre{opset}.onnx"
    pixels = rng.integers(0, 256, (2, 3, 160, 160), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    boxes, scores, points, sure = session.run(None, {"images": (pixels[:, ::-1] / 255).astype(np.float32)})
    confidence = float(np.sort(scores[..., 0], axis=1)[:, -40].min())
    assert inspect(source).heads == ("yolo-nas-pose",)
    spec = attach(source, tmp_path / "ours.onnx", AttachOptions(selection=Selection(confidence, 0.7, 300, 20)))
    assert (spec.input.padding, spec.input.pad_value, spec.input.normalization.channels) == ("bottom_right", 127, "BGR")
    with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
        outputs = runner.run({"input": pixels})
    joints = np.concatenate([points, sure[..., None]], axis=3)
    want = reference.pose_nms(boxes, scores, joints, confidence, 0.7, 300, 20)  # type: ignore[call-arg]
    for image in range(2):
        found, count = Poses.from_outputs(outputs, spec, image), int(want[0][image, 0])
        assert len(found) == count > 2
        np.testing.assert_allclose(found.boxes, want[1][image, :count], atol=1e-2)
        np.testing.assert_allclose(found.joints, want[3][image, :count], atol=1e-2)
