"""What every runner must do, whatever runs underneath."""

import threading
import warnings

import numpy as np
import pytest

from trt_pose import EngineError, Poses, Runner, RunnerError, open_runner
from trt_pose.export.torch_runner import TorchRunner
from trt_pose.runtime.openvino import OpenVinoRunner
from trt_pose.runtime.ort import OnnxRunner
from trt_pose.runtime.trt import TrtRunner

from .. import gpu_stand_in as stand_in
from ..conftest import make_tiny
from ..tolerances import RUNNERS


def torch_runner(path):
    from dataclasses import replace

    model = make_tiny()
    model.processing = replace(model.processing, input=model.processing.input.with_size(128, 160))
    return TorchRunner.of_model(model, confidence=0.2, candidates=100, limit=100)


OPENERS = {
    "torch": torch_runner,
    "onnxruntime": lambda path: OnnxRunner(path, providers=["cpu"]),
    "openvino": OpenVinoRunner,
    "tensorrt": None,  # on the strict driver and a stand-in for TensorRT
}


@pytest.fixture(params=OPENERS)
def runner(request, tiny_dynamic_onnx, tmp_path):
    if request.param == "tensorrt":
        request.getfixturevalue("tensorrt")
        with TrtRunner(stand_in.write_engine(tiny_dynamic_onnx, tmp_path)) as opened:
            yield opened
        return
    if request.param == "openvino":
        pytest.importorskip("openvino")
    with OPENERS[request.param](tiny_dynamic_onnx) as opened:
        yield opened


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (3, 3, 128, 160), dtype=np.uint8)


def test_it_is_a_runner(runner):
    assert isinstance(runner, Runner)
    assert runner.spec.skeleton.num_joints == 17
    assert runner.inputs["input"].dtype == "uint8"
    assert runner.inputs["input"].shape == (None, 3, 128, 160)


def test_named_arrays_in_named_arrays_out(runner, pixels):
    outputs = runner.run({"input": pixels})
    assert list(outputs) == ["num_predictions", "pred_boxes", "pred_scores", "pred_joints"]
    assert outputs["pred_joints"].shape == (3, 100, 17, 3)
    assert (outputs["num_predictions"] > 0).all()


def test_all_runners_agree(runner, pixels, tiny_dynamic_onnx):
    with OnnxRunner(tiny_dynamic_onnx, providers=["cpu"]) as first:
        want = first.run({"input": pixels})
    got = runner.run({"input": pixels})
    for image in range(3):
        RUNNERS.check(*(Poses.from_outputs(outputs, runner.spec, image) for outputs in (want, got)))


def test_a_batch_gives_what_its_images_give_alone(runner, pixels):
    together = runner.run({"input": pixels})
    for image in range(3):
        alone = runner.run({"input": pixels[image : image + 1]})
        RUNNERS.check(Poses.from_outputs(together, runner.spec, image), Poses.from_outputs(alone, runner.spec))


def test_results_belong_to_the_caller(runner, pixels):
    first = runner.run({"input": pixels})
    kept = {name: array.copy() for name, array in first.items()}
    runner.run({"input": 255 - pixels})
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_the_same_input_gives_the_same_output(runner, pixels):
    first, second = (runner.run({"input": pixels}) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_threads_may_share_a_runner(runner, pixels):
    want = runner.run({"input": pixels})
    found = []

    def work():
        found.append(runner.run({"input": pixels}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for outputs in found:
        np.testing.assert_array_equal(outputs["pred_boxes"], want["pred_boxes"])


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "got inputs"),
        ({"image": np.zeros((1, 3, 128, 160), np.uint8)}, "got inputs"),
        ({"input": np.zeros((1, 3, 128, 160), np.float32)}, "float32, expected a uint8"),
        ({"input": [[0]]}, "list, expected a uint8"),
        ({"input": np.zeros((1, 3, 160, 128), np.uint8)}, "expected any x 3 x 128 x 160"),
        ({"input": np.zeros((3, 128, 160), np.uint8)}, "expected any x 3 x 128 x 160"),
        ({"input": np.zeros((0, 3, 128, 160), np.uint8)}, "expected any x 3 x 128 x 160"),
    ],
    ids=["none", "name", "dtype", "list", "size", "rank", "empty"],
)
def test_wrong_input_is_one_sentence(runner, feeds, words):
    with pytest.raises(RunnerError, match=words):
        runner.run(feeds)


def test_a_closed_runner_says_so(runner, pixels):
    runner.close()
    runner.close()
    with pytest.raises(RunnerError, match="closed"):
        runner.run({"input": pixels})


def test_open_runner_picks_by_suffix(tiny_onnx, tmp_path):
    with open_runner(tiny_onnx, providers=["cpu"], threads=1) as runner:
        assert isinstance(runner, OnnxRunner)
    for name, error in (("m.engine", EngineError), ("m.plan", EngineError), ("m.pth", RunnerError), ("m", RunnerError)):
        with pytest.raises(error, match=name):
            open_runner(tmp_path / name)


def test_onnx_runtime_does_not_fall_back_in_silence(tiny_onnx, monkeypatch):
    """Asked for a GPU, it runs on the CPU by itself when a library is missing."""
    from trt_pose.runtime import ort as module

    monkeypatch.setattr(
        module.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of ONNX Runtime
        with pytest.raises(RunnerError, match="does not use CUDAExecutionProvider"):
            OnnxRunner(tiny_onnx, providers=["cuda"])


def test_a_library_that_does_not_load_is_named(broken_cuda_provider):
    from trt_pose.runtime import ort as module

    assert "ONNX Runtime's CUDA provider does not load: " in module._why_not("CUDAExecutionProvider")
    assert "onnxruntime-gpu[cuda,cudnn]" in module._why_not("CUDAExecutionProvider")
    assert module._why_not("CPUExecutionProvider") == ""
