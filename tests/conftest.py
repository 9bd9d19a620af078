import gc
import importlib.util
import os
import re
import shutil
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from trt_pose import models
from trt_pose.images import draw, pixels as image
from trt_pose.models.body import CSP, Body
from trt_pose.models.yolo_nas_pose.network import Variant, YoloNASPose
from trt_pose.trt.compile_plugins import build_plugin

from . import cuda, gpu_stand_in, kernel_on_cpu as kernel
from .bindings.fetch import FOLDER
from .keyed_weights import apply_keyed_weights
from .nothing_is_skipped import pytest_runtest_makereport  # noqa: F401 - a hook
from .rcnn_fixtures import rcnn, rcnn_checkpoint, rcnn_colormap, rcnn_onnx, rcnn_truth  # noqa: F401 - fixtures

DATA = Path(__file__).parent / "data"
BUILD = Path(__file__).parent.parent / "build"
LONG = (
    "test_readme.py", "test_trainer.py", "test_keypoint_rcnn_trt.py", "test_keypoint_rcnn.py", "test_build.py",
    "test_quantize.py", "test_detection_export.py", "test_demo_model.py", "test_tutorials.py", "test_export.py",
    "test_fuzz.py", "test_both_bindings.py",
)  # fmt: skip
MADE = ("bindings", "triton", "ray")  # what make fetches for the tests
# Folders of TensorRT's public headers, as many versions as there are, separated by colons.
HEADERS = [Path(folder) for folder in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep) if folder]


def headers_version(folder):
    """The version of TensorRT's headers, such as 10.3."""
    if folder is None:
        return "missing"
    text = (folder / "NvInferVersion.h").read_text(encoding="utf-8")
    found = dict(re.findall(r"#define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR)(?:_ENTERPRISE)? (\d+)", text))
    return f"{found['MAJOR']}.{found['MINOR']}"


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


# Before anything looks for a driver: the loader answers for libcuda.so.1 with what is loaded already.
STRICT = None if cuda.why_not() else cuda.StrictDriver(cuda.build())


@pytest.fixture
def driver():
    """A GPU of the strict driver, behind the real CUDA packages; at the end nothing may live or have been misused."""
    if STRICT is None:
        pytest.skip(cuda.why_not())
    STRICT.open()
    try:
        yield STRICT
    except BaseException:
        STRICT.library.strict_close()
        raise
    STRICT.close()


@pytest.fixture
def tensorrt(driver, monkeypatch):
    """The stand-in for TensorRT, over the strict driver."""
    return gpu_stand_in.install(monkeypatch, driver)


def has_tensorrt():
    """True if TensorRT or TensorRT-RTX is installed."""
    return any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))


def pytest_collection_finish():
    """Keeps the garbage collector from modules and tests, which stay to the end; each export would visit them."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    # Two files run at a time: the longest first, so that neither processor waits for the other at the end.
    items.sort(key=lambda item: next((place for place, name in enumerate(LONG) if name in item.nodeid), len(LONG)))
    if os.environ.get("TRT_POSE_REQUIRE_GPU") == "1":
        return
    present = {
        "gpu": torch.cuda.is_available(), "tensorrt": has_tensorrt(), "bindings": FOLDER.exists(),
        "triton": (BUILD / "triton" / "ready").exists(), "ray": (BUILD / "ray" / "ready").exists(),
    }  # fmt: skip
    for item in items:
        for marker, here in present.items():
            if item.get_closest_marker(marker) and not here:
                item.add_marker(pytest.mark.skip(reason=f"needs {'make ' * (marker in MADE)}{marker}"))


def slow_but_first(values):
    """Values of a parametrized test, of which make test takes the first and make test-slow the others."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in others)]


def make_tiny(num_joints=17):
    model = YoloNASPose("yolo_nas_pose_n", num_joints, TINY).eval()
    model.weights = "keyed"
    return apply_keyed_weights(model)


def make_model(name, **options):
    """A published size with keyed weights, without the warning about missing weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return apply_keyed_weights(models.get(name, **options))


@pytest.fixture(scope="session", params=HEADERS or [None], ids=lambda folder: f"headers {headers_version(folder)}")
def headers(request):
    """A folder of TensorRT's headers; each of TENSORRT_INCLUDE_DIR in turn."""
    if request.param is None:
        pytest.skip("needs TensorRT's headers (TENSORRT_INCLUDE_DIR)")
    return request.param


@pytest.fixture(scope="session")
def library(headers, tmp_path_factory):
    """The plugin library, for one architecture to be quick."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    return build_plugin(headers, "90-real", tmp_path_factory.mktemp("plugin"))


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
def tiny_dynamic_plugin_onnx(tiny, tmp_path_factory):
    """The tiny model for TensorRT, any number of images, 128 x 160."""
    path = tmp_path_factory.mktemp("tiny") / "tiny_dynamic_plugin.onnx"
    tiny.export(path, engine="tensorrt", batch_size="dynamic", verification=False, **SMALL)
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
def broken_cuda_provider(tmp_path, monkeypatch):
    """An ONNX Runtime whose library for CUDA does not load."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))


@pytest.fixture
def rng():
    return np.random.default_rng(7)
