"""``attach`` on files that super-gradients and MMDeploy themselves write, of untrained networks: a slow test.

Both are older than this torch: what of them an export needs is installed into a folder of the test's own, without their
dependencies, and modules that an export does not use are replaced by empty ones (``absent.py``). Nothing is kept.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from trt_pose import ExportError, Poses, open_runner
from trt_pose.attachment.attach import AttachOptions, attach
from trt_pose.choices import ExportTargetBackend
from trt_pose.inspection import inspect
from trt_pose.operators.selection import Selection

from .. import reference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRT_POSE_NETWORK") != "1", reason="downloads packages: set TRT_POSE_NETWORK=1"),
]
SIDE, CONFIDENCE = 160, 0.1
SUPER_GRADIENTS = (
    "super-gradients==3.7.1", "hydra-core==1.3.2", "omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3",
    "onnxsim==0.8.1", "setuptools==75.8.0", "psutil==7.2.2", "Deprecated==1.2.18", "wrapt==1.17.3",
)  # fmt: skip
# Untrained scores are all alike: the norms get the statistics of noise, and the score heads larger weights.
SUPER_GRADIENTS_SCRIPT = """
    import absent
    absent.pretend("boto3", "botocore", "data_gradients", "albumentations", "torch.utils.tensorboard", "jsonschema",
                   "rapidfuzz", "json_tricks", "imagesize", "torchmetrics", "treelib", "termcolor", "stringcase",
                   "einops")
    import functools, torch
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    from super_gradients.conversion import DetectionOutputFormatMode as Format
    from super_gradients.training import models
    from super_gradients.training.processing.processing import get_pretrained_processing_params

    torch.manual_seed(0)
    model = models.get("yolo_nas_pose_n", num_classes=17, pretrained_weights=None)
    model.set_dataset_processing_params(**get_pretrained_processing_params("yolo_nas_pose_n", "coco_pose"))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
            layer.reset_running_stats()
    with torch.no_grad():
        model.train()(torch.rand(8, 3, {side}, {side}))
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Conv2d) and name.endswith(("cls_pred", "pose_pred")):
                layer.weight.normal_(0, 0.1 if "cls" in name else 0.05)
                if "cls" in name:
                    layer.bias.fill_(-1.5)
    model.eval()
    nms = dict(postprocessing=True, confidence_threshold=0.25, nms_threshold=0.7, num_pre_nms_predictions=300,
               max_predictions_per_image=100)
    for name, options in dict(
        raw=dict(preprocessing=False, postprocessing=False),
        raw_uint8=dict(preprocessing=True, postprocessing=False),
        raw_open=dict(preprocessing=False, postprocessing=False, onnx_simplify=False, onnx_export_kwargs=dict(
            output_names=["boxes", "scores", "joints", "certain"], dynamic_axes={{"input": {{0: "batch"}}}})),
        batch=dict(preprocessing=False, batch_size=2, **nms),
        batch_uint8=dict(preprocessing=True, **nms),
        flat=dict(preprocessing=False, output_predictions_format=Format.FLAT_FORMAT, **nms),
    ).items():
        model.export(name + ".onnx", input_image_shape=({side}, {side}), **options)
"""
MMDEPLOY = (
    "mmdeploy==1.3.1", "mmpose==1.3.2", "mmdet==3.3.0", "mmengine==0.10.7", "mmcv-lite==2.1.0", "addict==2.4.0",
    "setuptools==75.8.0",
)  # fmt: skip
# The deploy configuration is that of configs/mmpose/pose-detection_*_onnxruntime_dynamic.py.
MMDEPLOY_SCRIPT = """
    import absent
    absent.pretend("mmcv.ops", "xtcocotools", "terminaltables", "shapely", "munkres", "json_tricks", "chumpy",
                   "multiprocess", "prettytable", "yapf", "termcolor", "aenum", "dill", "six", "einops")
    import functools, os
    import numpy as np, torch, torchvision, mmengine, mmcv.ops, mmcv.ops.nms
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)

    def nms(boxes, scores, iou_threshold, offset=0, score_threshold=0, max_num=-1):  # runs while it is traced only
        kept = torch.nonzero(scores > score_threshold).squeeze(1)
        kept = kept[torchvision.ops.nms(boxes[kept], scores[kept], iou_threshold)][:max_num]
        return torch.cat([boxes[kept], scores[kept, None]], 1), kept

    mmcv.ops.nms = nms
    export = torch.onnx.export
    from mmdeploy.apis import torch2onnx
    torch.onnx.export = lambda *given, **options: export.func(*given, **{{**options, "dynamo": False}})
    import mmpose
    from mmpose.registry import MODELS
    from mmpose.utils import register_all_modules

    def prepare(part):
        if isinstance(part, dict):
            if (part.get("init_cfg") or {{}}).get("type") == "Pretrained":
                part.pop("init_cfg")  # weights that would be downloaded
            for key, value in part.items():
                if key == "input_size":
                    part[key] = ({side}, {side})
                else:
                    prepare(value)
        elif isinstance(part, (list, tuple)):
            for item in part:
                prepare(item)

    configs = os.path.dirname(mmpose.__file__) + "/.mim/configs/body_2d_keypoint/"
    for name, file, before, kept in (
        ("rtmo", "rtmo/body7/rtmo-t_8xb32-600e_body7-416x416.py", 2000, 50),
        ("yoloxpose", "yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py", 5000, 100),
    ):
        model_config = mmengine.Config.fromfile(configs + file)
        prepare(model_config._cfg_dict)
        deploy = mmengine.Config(dict(
            onnx_config=dict(
                type="onnx", export_params=True, keep_initializers_as_inputs=False, opset_version=11,
                save_file="end2end.onnx", input_names=["input"], output_names=["dets", "keypoints"], input_shape=None,
                optimize=True, dynamic_axes={{part: {{0: "batch"}} for part in ("input", "dets", "keypoints")}}),
            codebase_config=dict(type="mmpose", task="PoseDetection", post_processing=dict(
                score_threshold=0.05, iou_threshold=0.5, max_output_boxes_per_class=200, pre_top_k=before,
                keep_top_k=kept, background_label_id=-1)),
            backend_config=dict(type="onnxruntime")))
        register_all_modules(True)
        torch.manual_seed(0)
        model = MODELS.build(model_config.model).train()
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
                layer.reset_running_stats()
        with torch.no_grad():
            model.head.head_module(model.neck(model.backbone(torch.rand(4, 3, {side}, {side}) * 255)))
            for part in ("conv_cls", "conv_obj", "out_cls", "out_obj"):
                for layer in getattr(model.head.head_module, part, []):
                    if isinstance(layer, torch.nn.Conv2d):
                        layer.weight *= 4
                        layer.bias -= 1.5
        torch.save(model.state_dict(), name + ".pth")
        picture = np.full(({side}, {side}, 3), 114, np.uint8)
        torch2onnx(picture, ".", name + ".onnx", deploy, model_config, name + ".pth", "cpu")
"""


def make(folder, packages, script):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "packages", *packages]
    subprocess.run(pip, check=True)
    places = os.pathsep.join((str(folder / "packages"), str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script).format(side=SIDE)],
        cwd=folder, env={**os.environ, "PYTHONPATH": places, "HOME": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def of_super_gradients(tmp_path_factory):
    return make(tmp_path_factory.mktemp("super_gradients"), SUPER_GRADIENTS, SUPER_GRADIENTS_SCRIPT)


@pytest.fixture(scope="module")
def of_mmdeploy(tmp_path_factory):
    return make(tmp_path_factory.mktemp("mmdeploy"), MMDEPLOY, MMDEPLOY_SCRIPT)


def own_outputs(source, pixels, scale):
    """What the file itself gives for RGB pixels (B, 3, H, W) uint8; float files take BGR."""
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    taken = pixels if "uint8" in image.type else (pixels[:, ::-1] * scale).astype(np.float32)
    return session.run(None, {image.name: taken})


def compare(source, folder, pixels, candidates, iou):
    spec = attach(source, folder / "ours.onnx", AttachOptions(selection=Selection(CONFIDENCE, 0.7, 300, 20)))
    with open_runner(folder / "ours.onnx", providers=["cpu"]) as runner:
        outputs = runner.run({"input": pixels})
    want = reference.pose_nms(*candidates, CONFIDENCE, iou, 300, 20)  # type: ignore[call-arg]
    for image in range(len(pixels)):
        found, count = Poses.from_outputs(outputs, spec, image), int(want[0][image, 0])
        assert len(found) == count > 2
        np.testing.assert_allclose(found.boxes, want[1][image, :count], atol=0.02)
        np.testing.assert_allclose(found.joints, want[3][image, :count], atol=0.02)
    return spec


@pytest.mark.parametrize("name", ["raw", "raw_uint8", "raw_open"])
def test_decoded_heads_of_super_gradients(of_super_gradients, tmp_path, rng, name):
    source = of_super_gradients / f"{name}.onnx"
    assert inspect(source).heads == ("yolo-nas-pose",)
    pixels = rng.integers(0, 256, (2 if name == "raw_open" else 1, 3, SIDE, SIDE), dtype=np.uint8)
    boxes, scores, points, certain = own_outputs(source, pixels, 1 / 255)
    joints = np.concatenate([points, certain[..., None]], axis=3)
    spec = compare(source, tmp_path, pixels, (boxes, scores, joints), 0.7)
    assert (spec.input.padding, spec.input.pad_value) == ("bottom_right", 127)


@pytest.mark.parametrize("name", ["batch", "batch_uint8"])
def test_the_batch_format_of_super_gradients(of_super_gradients, tmp_path, rng, name):
    """Rows past the count are what was suppressed, and are not taken."""
    source = of_super_gradients / f"{name}.onnx"
    assert inspect(source).heads == ("yolo-nas-pose-batch",)
    pixels = rng.integers(0, 256, (2 if name == "batch" else 1, 3, SIDE, SIDE), dtype=np.uint8)
    count, boxes, scores, joints = own_outputs(source, pixels, 1 / 255)
    assert (scores[:, -1] > 0).all()
    scores = np.where(np.arange(scores.shape[1]) < count, scores, 0)[..., None]
    compare(source, tmp_path, pixels, (boxes, scores, joints), 1.0)
    attach(source, tmp_path / "trt.onnx", AttachOptions(target=ExportTargetBackend.TENSORRT))


def test_the_flat_format_of_super_gradients_is_refused(of_super_gradients, tmp_path):
    with pytest.raises(ExportError, match=r"flat_predictions has batch"):
        attach(of_super_gradients / "flat.onnx", tmp_path / "ours.onnx", AttachOptions())


@pytest.mark.parametrize("name", ["rtmo", "yoloxpose"])
def test_files_of_mmdeploy(of_mmdeploy, tmp_path, rng, name):
    """Operator set 11, open sizes; the rows that fill a batch up are repeated ones, and are suppressed."""
    source = of_mmdeploy / f"{name}.onnx"
    assert inspect(source).heads == ("mmdeploy-pose",)
    pixels = rng.integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8)
    dets, joints = own_outputs(source, pixels, 1.0)
    spec = compare(source, tmp_path, pixels, (dets[..., :4], dets[..., 4:5], joints), 0.7)
    assert (spec.input.pad_value, spec.input.normalization.std) == (114, (1.0, 1.0, 1.0))
