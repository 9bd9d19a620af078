import importlib.util
import os
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from trt_pose import models
from trt_pose.images import draw, pixels as image
from trt_pose.models.body import CSP, Body
from trt_pose.models.yolo_nas_pose.network import Variant, YoloNASPose

from . import kernel_on_cpu as kernel
from .keyed_weights import apply_keyed_weights
from .rcnn_fixtures import rcnn, rcnn_checkpoint, rcnn_colormap, rcnn_onnx, rcnn_truth  # noqa: F401 - fixtures

DATA = Path(__file__).parent / "data"
# The same layers as the published sizes, few and narrow: exports in a second, runs in milliseconds.
TINY = Variant(
    Body(
        8,
        (CSP(16, 1, 8), CSP(16, 1, 8, True), CSP(16, 1, 8), CSP(32, 1, 8)),
        (CSP(16, 1, 8), CSP(16, 1, 8), CSP(16, 1, 8), CSP(16, 1, 8)),
    ),
    0.125,
    0.03,
)


def has_tensorrt():
    """True if TensorRT or TensorRT-RTX is installed."""
    return any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))


def pytest_collection_modifyitems(items):
    if os.environ.get("TRT_POSE_REQUIRE_GPU") == "1":
        return
    present = {"gpu": torch.cuda.is_available(), "tensorrt": has_tensorrt()}
    for item in items:
        for marker, here in present.items():
            if item.get_closest_marker(marker) and not here:
                item.add_marker(pytest.mark.skip(reason=f"needs {marker}"))


def make_tiny(num_joints=17):
    model = YoloNASPose("yolo_nas_pose_n", num_joints, TINY).eval()
    model.weights = "keyed"
    return apply_keyed_weights(model)


def make_model(name, **options):
    """A published size with keyed weights, without the warning about missing weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return apply_keyed_weights(models.get(name, **options))


@pytest.fixture(scope="session")
def tiny():
    """A model nobody changes; take make_tiny() to change one."""
    return make_tiny()


@pytest.fixture(scope="session")
def photograph():
    """(512, 512, 3) uint8 RGB: the astronaut Eileen Collins, a public-domain NASA picture."""
    return image.example()


@pytest.fixture(scope="session")
def photo_path():
    return resources.files("trt_pose").joinpath("assets/astronaut.jpg")


SMALL = {"input_image_shape": (128, 160), "confidence_threshold": 0.2, "num_pre_nms_predictions": 100}


@pytest.fixture(scope="session")
def tiny_onnx(tiny, tmp_path_factory):
    """The tiny model in batch format, one image, 128 x 160."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    tiny.export(path, **SMALL)
    return path


@pytest.fixture(scope="session")
def tiny_dynamic_onnx(tiny, tmp_path_factory):
    """The tiny model in batch format, any number of images, 128 x 160."""
    path = tmp_path_factory.mktemp("tiny") / "tiny_dynamic.onnx"
    tiny.export(path, batch_size="dynamic", **SMALL)
    return path


@pytest.fixture(scope="session")
def tiny_plugin_onnx(tiny, tmp_path_factory):
    """The tiny model for TensorRT, one image, 128 x 160: it ends in the plugin node."""
    path = tmp_path_factory.mktemp("tiny") / "tiny_plugin.onnx"
    tiny.export(path, engine="tensorrt", **SMALL)
    return path


@pytest.fixture(scope="session")
def picture_folder(photograph, tmp_path_factory):
    """Six crops of the photograph, of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, (y, x, height, width) in enumerate(
        [
            (0, 0, 512, 512),
            (0, 100, 300, 400),
            (100, 0, 400, 200),
            (50, 50, 200, 350),
            (0, 0, 128, 160),
            (200, 200, 300, 300),
        ]
    ):
        draw.save(photograph[y : y + height, x : x + width], folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What is kept between runs (histograms, kernels) lands in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def kernel_on_cpu(tmp_path_factory):
    """The CUDA kernel of the plugin as a function of arrays."""
    return kernel.build(tmp_path_factory.mktemp("kernel"))


@pytest.fixture
def rng():
    return np.random.default_rng(7)
