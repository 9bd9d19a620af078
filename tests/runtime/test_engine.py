"""How an engine is opened: TensorRT that does not start, engines without weights, and TensorRT-RTX's contexts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from trt_pose import EngineError, RunnerError, open_runner
from trt_pose.cli import main
from trt_pose.files import file_sha256
from trt_pose.runtime.engine import make_context
from trt_pose.runtime.trt import TrtRunner
from trt_pose.trt.flavor import Flavor

from .. import gpu_stand_in as stand_in


def test_a_tensorrt_that_does_not_start_says_why(monkeypatch, driver, tiny_dynamic_plugin_onnx, tmp_path):
    stand_in.install(monkeypatch, driver, starts=False)
    path = stand_in.write_engine(tiny_dynamic_plugin_onnx, tmp_path)
    with pytest.raises(
        EngineError, match=r"CUDA initialization failure with error: 35; the driver supports CUDA 13\.0"
    ):
        open_runner(path)


def test_engines_come_and_go_with_one_logger(tensorrt, tiny_dynamic_plugin_onnx, tmp_path, rng):
    """The stand-in asserts that the logger of the first engine lives."""
    path = stand_in.write_engine(tiny_dynamic_plugin_onnx, tmp_path)
    pixels = rng.integers(0, 256, (1, 3, 128, 160), dtype=np.uint8)
    first, second = TrtRunner(path), TrtRunner(path)
    first.close()
    del first
    tensorrt.log(stand_in.Severity.ERROR, "this is the second engine's")
    assert second.reason() == "this is the second engine's"
    with TrtRunner(path) as third:
        third.run({"input": pixels})
    second.close()


@pytest.fixture
def stripped(monkeypatch, driver, tiny_dynamic_plugin_onnx, tmp_path):
    module = stand_in.install(monkeypatch, driver, stripped=True)
    path = stand_in.write_engine(
        tiny_dynamic_plugin_onnx,
        tmp_path,
        options={"strip_weights": True},
        weights=["pose.onnx"],
        onnx_sha256=file_sha256(tiny_dynamic_plugin_onnx),
    )
    return module, path


def test_an_engine_without_weights_is_filled_from_its_file(stripped, tiny_dynamic_plugin_onnx, tmp_path, rng):
    module, path = stripped
    pixels = rng.integers(0, 256, (1, 3, 128, 160), dtype=np.uint8)
    with open_runner(path, weights=tiny_dynamic_plugin_onnx) as runner:
        assert runner.run({"input": pixels})["pred_boxes"].shape == (1, 100, 4)
    (tmp_path / "pose.onnx").write_bytes(tiny_dynamic_plugin_onnx.read_bytes())  # found beside it
    with open_runner(path) as runner:
        runner.run({"input": pixels})
    assert module.refitted == [str(tiny_dynamic_plugin_onnx), str(tmp_path / "pose.onnx")]


def test_an_engine_without_weights_is_not_run_as_it_is(stripped, tiny_onnx, tmp_path, picture_folder, capsys):
    _, path = stripped
    with pytest.raises(EngineError, match=r"built without weights \(--stripWeights\), and .*pose\.onnx is missing"):
        open_runner(path)
    with pytest.raises(EngineError, match="is not the file that it was built of"):
        open_runner(path, weights=tiny_onnx)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(path), str(picture_folder)])
    assert stopped.value.code == 1
    assert "Put the ONNX file that it was built of beside it" in capsys.readouterr().err


def test_weights_that_tensorrt_refuses(stripped, tiny_dynamic_plugin_onnx, monkeypatch):
    module, path = stripped
    refuses = SimpleNamespace(refit_cuda_engine=lambda: False, get_missing_weights=lambda: ["conv1.weight"])
    monkeypatch.setattr(module, "Refitter", lambda engine, logger: refuses, raising=False)
    with pytest.raises(EngineError, match=r"weights are missing: conv1\.weight"):
        open_runner(path, weights=tiny_dynamic_plugin_onnx)


class Config:
    """TensorRT-RTX's IRuntimeConfig."""

    def __init__(self):
        self.cache = None

    def create_runtime_cache(self):
        return Cache()

    def set_runtime_cache(self, cache):
        self.cache = cache


class Cache:
    def __init__(self):
        self.blob = b""

    def deserialize(self, blob):
        self.blob = bytes(blob)
        return True

    def serialize(self):
        return self.blob + b"compiled"


def rtx(folder):
    names = SimpleNamespace
    module = names(
        DynamicShapesKernelSpecializationStrategy=names(EAGER="eager"),
        CudaGraphStrategy=names(WHOLE_GRAPH_CAPTURE="whole"),
    )
    engine = names(create_runtime_config=Config, create_execution_context=lambda config: names(config=config))
    return Flavor("tensorrt_rtx", "1.7", module), engine


def test_rtx_captures_itself_and_keeps_what_it_compiled(tmp_path):
    flavor, engine = rtx(tmp_path)
    file = tmp_path / "kernels" / "engine.bin"
    made = make_context(flavor, engine, graphs=True, cache=file)
    config = made.context.config
    assert made.captures_itself
    assert (config.cuda_graph_strategy, config.dynamic_shapes_kernel_specialization_strategy) == ("whole", "eager")
    made.save_kernels()
    assert file.read_bytes() == b"compiled"
    again = make_context(flavor, engine, graphs=True, cache=file)
    assert again.context.config.cache.blob == b"compiled"
    plain = make_context(flavor, engine, graphs=False, cache=None)
    assert not plain.captures_itself
    assert not hasattr(plain.context.config, "cuda_graph_strategy")
    plain.save_kernels()
    unwritable = make_context(flavor, engine, cache=tmp_path / "kernels" / "engine.bin" / "no")
    unwritable.save_kernels()  # the next process compiles again


def test_tensorrt_gets_a_plain_context():
    engine = SimpleNamespace(create_execution_context=lambda: "context")
    made = make_context(Flavor("tensorrt", "10.16", None), engine, graphs=True)
    assert (made.context, made.captures_itself, made.kernels) == ("context", False, None)


def test_closing_after_an_error_that_sticks_frees_the_rest(driver, tensorrt, tiny_dynamic_plugin_onnx, tmp_path, rng):
    """After an illegal access waiting fails, too; the process goes on."""
    runner = TrtRunner(stand_in.write_engine(tiny_dynamic_plugin_onnx, tmp_path))
    runner.run({"input": rng.integers(0, 256, (1, 3, 128, 160), dtype=np.uint8)})
    driver.fail_waits()
    runner.close()
    driver.fail_waits(False)
    assert driver.alive() == {}


def test_an_allocator_that_fails_says_why(driver, tensorrt, tiny, tmp_path, rng):
    """TensorRT swallows what its callbacks raise."""
    from ..conftest import SMALL

    onnx = tmp_path / "flat.onnx"
    tiny.export(
        onnx, engine="tensorrt", batch_size="dynamic", output_predictions_format="flat", verification=False, **SMALL
    )
    with TrtRunner(stand_in.write_engine(onnx, tmp_path)) as runner:
        pixels = rng.integers(0, 256, (4, 3, 128, 160), dtype=np.uint8)
        (allocator,) = runner._allocators.values()
        allocator.memory = runner.device.memory(64) if driver.contexts() else _small(runner)
        driver.memory_left(10)
        with pytest.raises(RunnerError, match=r"TensorRT failed: allocating \d+ bytes: CUDA_ERROR_OUT_OF_MEMORY"):
            runner.run({"input": pixels})
        driver.memory_left(1 << 30)
        assert len(runner.run({"input": pixels})["flat_predictions"]) > 10


def _small(runner):
    with runner.device.current("testing"):
        return runner.device.memory(64)


def test_the_plugin_of_the_environment_goes_to_trtexec(tmp_path, monkeypatch):
    from trt_pose.benchmark import BenchOptions
    from trt_pose.benchmark.trtexec import arguments

    from ..benchmark.test_trtexec import plan

    monkeypatch.setenv("TRT_POSE_PLUGINS", "/opt/libtrt_pose_plugins.so")
    words = arguments(plan(tmp_path, 10, plugins=("PoseNMS_TRT",)), BenchOptions(), 1)
    assert "--dynamicPlugins=/opt/libtrt_pose_plugins.so" in words
    assert "--exposeDMA" in words  # one query at a time, as ours
    monkeypatch.setenv("TRT_POSE_PLUGINS", "python")
    assert "--dynamicPlugins=python" not in arguments(plan(tmp_path, 10, plugins=("PoseNMS_TRT",)), BenchOptions(), 1)


@pytest.mark.parametrize(
    ("version", "nvrtc", "cuda", "wrong"),
    [((13, 0), (13, 0), 13, []), ((12, 4), (13, 0), 13, ["nvrtc", "cuda of tensorrt"]), ((12, 4), (12, 9), 12, [])],
)
def test_doctor_compares_driver_nvrtc_and_tensorrt(monkeypatch, version, nvrtc, cuda, wrong):
    from trt_pose import doctor

    monkeypatch.setattr(doctor, "driver_version", lambda: version)
    monkeypatch.setattr(doctor, "nvrtc_version", lambda: nvrtc)
    found = doctor._cuda([Flavor("tensorrt", "11.4", None, cuda=cuda)])
    assert [finding.what for finding in found if finding.fine is False] == wrong
    for finding in found:
        if finding.fine is False:
            assert "Update the driver, or" in finding.detail
    assert json.dumps([finding.detail for finding in found])
