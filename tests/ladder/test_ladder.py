"""One model on every rung: NumPy, torch, ONNX Runtime, OpenVINO, a TensorRT engine, each compared with the one before.

The tests of the rooms go into each pair; this shows the whole ladder in one place.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from trt_pose import Poses, build_engine, open_runner
from trt_pose.export import verify
from trt_pose.export.graph import assemble
from trt_pose.images.pixels import letterbox
from trt_pose.operators.selection import Selection
from trt_pose.spec import InputSpec

from .. import reference, tolerances
from ..conftest import SMALL

CONFIDENCE, IOU, ROWS = SMALL["confidence_threshold"], 0.7, SMALL["num_pre_nms_predictions"]


@pytest.fixture(scope="module")
def pixels(photograph):
    """A photograph and noise, (2, 3, 128, 160) uint8."""
    spec = InputSpec(height=128, width=160, resize_to=(128, 160))
    noise = np.random.default_rng(3).integers(0, 256, (3, 128, 160), dtype=np.uint8)
    return np.stack([letterbox(photograph, spec)[0], noise])


@pytest.fixture(scope="module")
def spec(tiny_dynamic_onnx):
    with open_runner(tiny_dynamic_onnx, providers="cpu") as runner:
        return runner.spec


def people(outputs, spec):
    return [Poses.from_outputs(outputs, spec, image) for image in range(2)]


@pytest.fixture(scope="module")
def by_numpy(tiny, pixels, spec):
    """The network by torch; decoding and selection by loops in NumPy."""
    with torch.inference_mode():
        boxes, scores, joints = (part.numpy() for part in assemble(tiny, 128, 160)(torch.from_numpy(pixels)))
    found = []
    for image in range(2):
        kept = reference.select(boxes[image], scores[image, :, 0], joints[image], CONFIDENCE, IOU, ROWS, ROWS)
        found.append(Poses(boxes[image][kept], scores[image, kept, 0], joints[image][kept], spec.skeleton))
    return found


@pytest.fixture(scope="module")
def by_torch(tiny, pixels, spec):
    graph = assemble(tiny, 128, 160, selection=Selection(CONFIDENCE, IOU, ROWS, ROWS))
    with torch.inference_mode():
        outputs = (part.numpy() for part in graph(torch.from_numpy(pixels)))
    return people(dict(zip(spec.output.names, outputs, strict=True)), spec)


@pytest.fixture(scope="module")
def by_onnx_runtime(tiny_dynamic_onnx, pixels):
    with open_runner(tiny_dynamic_onnx, providers="cpu") as runner:
        return people(runner.run({"input": pixels}), runner.spec)


def check(rung, first, second):
    assert all(len(found) > 5 for found in first), "the test would compare nothing"
    for one, other in zip(first, second, strict=True):
        rung.check(one, other)


def test_numpy_and_torch(by_numpy, by_torch):
    check(tolerances.NUMPY, by_numpy, by_torch)


def test_torch_and_onnx_runtime(by_torch, by_onnx_runtime):
    check(tolerances.ONNX, by_torch, by_onnx_runtime)


def test_onnx_runtime_and_openvino(by_onnx_runtime, tiny_dynamic_onnx, pixels):
    pytest.importorskip("openvino")
    with open_runner(tiny_dynamic_onnx, providers="openvino") as runner:
        check(tolerances.RUNNERS, by_onnx_runtime, people(runner.run({"input": pixels}), runner.spec))


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_onnx_runtime_and_an_engine(by_onnx_runtime, tiny, tmp_path, pixels):
    tiny.export(tmp_path / "m.onnx", engine="tensorrt", batch_size="dynamic", verification=False, **SMALL)
    build_engine(tmp_path / "m.onnx", tmp_path / "m.engine")
    with open_runner(tmp_path / "m.engine") as runner:
        check(tolerances.ENGINE, by_onnx_runtime, people(runner.run({"input": pixels}), runner.spec))


def test_the_comparison_inside_export_has_the_tolerance_of_the_table():
    assert (tolerances.EXPORT.px, tolerances.EXPORT.score) == (verify.PX, verify.SCORE)


def test_the_table_of_contributing_is_this_one():
    page = Path(__file__).parent.parent.parent / "CONTRIBUTING.md"
    assert tolerances.table() in page.read_text(encoding="utf-8")
