"""The engine runner on the strict driver, behind the real CUDA packages: what it finds, frees and refuses."""

import ctypes
import dataclasses
import json
import threading

import numpy as np
import pytest

from trt_pose import EngineError, MissingDependencyError, PosePredictor, RunnerError, UsageError, open_runner
from trt_pose.benchmark import BenchOptions, bench
from trt_pose.cli import main
from trt_pose.comparison import compare
from trt_pose.results.pairing import compare_predictions
from trt_pose.runtime import pipeline
from trt_pose.runtime.trt import TrtRunner

from .. import gpu_stand_in as stand_in
from ..conftest import SMALL

pytestmark = pytest.mark.usefixtures("tensorrt")


@pytest.fixture(scope="session")
def onnx_files(tiny, tmp_path_factory):
    """The tiny model for TensorRT: one image, two, any number; flat."""
    folder = tmp_path_factory.mktemp("for_engines")
    made = {}
    for name, options in {
        "one": {}, "two": {"batch_size": 2}, "any": {"batch_size": "dynamic"},
        "flat": {"batch_size": "dynamic", "output_predictions_format": "flat"},
    }.items():  # fmt: skip
        made[name] = folder / f"{name}.onnx"
        tiny.export(made[name], engine="tensorrt", verification=False, **{**SMALL, **options})
    return made


@pytest.fixture
def engine(tensorrt, onnx_files, tmp_path):
    return stand_in.write_engine(onnx_files["any"], tmp_path)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (3, 3, 128, 160), dtype=np.uint8)


@pytest.mark.parametrize("graph", [True, False])
def test_it_gives_what_onnxruntime_gives(driver, engine, onnx_files, pixels, graph):
    with TrtRunner(engine, cuda_graph=graph) as runner, open_runner(onnx_files["any"], providers=["cpu"]) as other:
        assert list(runner.run({"input": pixels})) == ["num_predictions", "pred_boxes", "pred_scores", "pred_joints"]
        for batch in (1, 1, 3, 2, 2, 3, 3, 1):
            got, want = (each.run({"input": pixels[:batch]}) for each in (runner, other))
            for name, values in want.items():
                np.testing.assert_array_equal(got[name], values)
    assert ("graph" in {kind for kind, _ in driver.calls}) is graph


def test_there_is_one_graph_captured_at_the_second_run_of_a_batch_size(driver, engine, pixels):
    def launches():
        return sum(kind == "graph" for kind, _ in driver.calls)

    with TrtRunner(engine) as runner:
        for batch, graphs, launched in (
            (2, 0, 0), (2, 1, 1), (2, 1, 2), (1, 0, 2), (2, 0, 2), (2, 1, 3), (1, 0, 3), (1, 1, 4), (1, 1, 5)
        ):  # fmt: skip
            runner.run({"input": pixels[:batch]})
            assert (driver.count("executable"), launches()) == (graphs, launched), batch
        assert driver.count("graph") == 0  # instantiated, then given back


def test_where_capture_is_refused_it_launches_plainly(driver, engine, pixels):
    driver.refuse_captures()
    with TrtRunner(engine) as runner:
        first, second = (runner.run({"input": pixels}) for _ in range(2))
        np.testing.assert_array_equal(first["pred_boxes"], second["pred_boxes"])
        assert driver.count("executable") == 0


def test_only_what_the_batch_needs_is_copied(driver, engine, pixels):
    with TrtRunner(engine) as runner:
        runner.run({"input": pixels[:2]})
        copied = [size for kind, size in driver.calls if kind == "h2d"]
        assert copied == [2 * 3 * 128 * 160]
        assert sum(size for kind, size in driver.calls if kind == "d2h") == 2 * 4 * (1 + 100 * (4 + 1 + 51))


def test_closing_frees_everything_also_after_an_error(driver, engine, pixels, monkeypatch):
    runner = TrtRunner(engine)
    runner.run({"input": pixels})
    copy = runner.clone()
    copy.run({"input": pixels})
    runner.close()
    runner.close()
    assert copy.run({"input": pixels})["pred_boxes"].shape[0] == 3  # the engine goes with the last of them
    copy.close()
    assert driver.alive() == {}
    assert driver.contexts() == 0
    with pytest.raises(RunnerError, match="closed"):
        runner.run({"input": pixels})
    with pytest.raises(RunnerError, match="closed"):
        runner.clone()
    driver.memory_left(10)
    with pytest.raises(RunnerError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        TrtRunner(engine)
    assert driver.alive() == {}
    assert driver.contexts() == 0


def test_memory_stays_flat_over_many_calls(driver, engine, picture_folder, pixels):
    with TrtRunner(engine) as runner, PosePredictor(runner) as predictor:

        def work(times):
            for _ in range(times):
                predictor.predict(str(picture_folder), batch_size=4)
                runner.run({"input": pixels})
                runner.time_query({"input": pixels})
            return driver.alive()

        first, second = work(2), work(20)
        assert first["event"] > 4
        assert first == second


@pytest.mark.parametrize(("name", "batch"), [("one", None), ("two", None), ("any", 1), ("any", 4)])
@pytest.mark.parametrize("confidence", [None, 0.25])
def test_the_predictor_decodes_on_the_gpu(driver, onnx_files, tmp_path, picture_folder, name, batch, confidence):
    """Letterbox and packing are kernels; the poses are those of the same file in ONNX Runtime."""
    path = stand_in.write_engine(onnx_files[name], tmp_path)
    with (
        PosePredictor(path, confidence=confidence) as first,
        PosePredictor(onnx_files[name], confidence=confidence, providers=["cpu"]) as second,
    ):
        found = list(first.stream(str(picture_folder), batch_size=batch))
        want = list(second.stream(str(picture_folder), batch_size=batch))
    assert [item.source for item in found] == [item.source for item in want]
    assert sum(len(item) for item in want) > 10
    for got, expected in zip(found, want, strict=True):
        gap = compare_predictions(got.poses, expected.poses)
        assert (gap.unmatched, gap.first) == (0, len(expected))
        assert gap.px < 1e-3
        np.testing.assert_array_equal(got.image, expected.image)
    kernels = [name for kind, name in driver.calls if kind == "kernel"]
    batches = {None: {"one": 6, "two": 3}, 1: {"any": 6}, 4: {"any": 2}}[batch][name]
    assert (kernels.count("letterbox"), kernels.count("pack_rows")) == (batches, batches)


def test_more_images_than_the_engine_takes_touch_nothing(driver, engine, picture_folder):
    with PosePredictor(engine) as predictor:
        with pytest.raises(RunnerError, match="got 6 images, its profile ends at 4"):
            predictor.predict(str(picture_folder), batch_size=6)
        assert not [kind for kind, _ in driver.calls if kind in ("kernel", "h2d")]
        assert len(predictor.predict(str(picture_folder), batch_size=4)) == 6


def test_after_closing_the_predictor_says_so(driver, engine, picture_folder):
    predictor = PosePredictor(engine)
    frames = predictor.stream(str(picture_folder))
    next(frames)
    predictor.close()
    with pytest.raises(RunnerError, match="closed"):
        list(frames)
    with pytest.raises(RunnerError, match="closed"):
        predictor.predict(str(picture_folder))
    assert driver.alive() == {}


def test_a_failing_batch_gives_its_memory_back(driver, engine, picture_folder):
    with PosePredictor(engine, cuda_graph=False) as predictor:
        runner = predictor._runner
        predictor.predict(str(picture_folder))
        held = sum(driver.alive().values())
        runner._context.fails = True  # type: ignore[attr-defined]
        for _ in range(3):
            with pytest.raises(RunnerError, match="TensorRT failed"):
                predictor.predict(str(picture_folder))
        assert sum(driver.alive().values()) == held
        runner._context.fails = False  # type: ignore[attr-defined]
        assert len(predictor.predict(str(picture_folder))) == 6


def test_only_the_kept_rows_come_back(driver, engine, photograph):
    with PosePredictor(engine, confidence=0.9) as predictor:
        predictor.predict(photograph)
    back = [size for kind, size in driver.calls if kind == "d2h"]
    assert len(back) == 1
    assert back[0] < 100 * 56 * 4  # what the padded outputs would be


def test_many_rows_take_a_second_copy(driver, engine, photograph, monkeypatch):
    monkeypatch.setattr(pipeline, "_ROWS_AT_ONCE", 8)
    with PosePredictor(engine) as predictor:
        (result,) = predictor.predict([photograph])
    back = [size for kind, size in driver.calls if kind == "d2h"]
    assert len(result) > 8
    assert len(back) == 2


def test_big_images_after_small_ones(driver, engine, onnx_files, rng):
    images = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (10, 900, 50, 1300)]
    with PosePredictor(engine) as first, PosePredictor(onnx_files["any"], providers=["cpu"]) as second:
        for got, want in zip(first.predict(images), second.predict(images), strict=True):
            assert compare_predictions(got.poses, want.poses).unmatched == 0


def test_a_stream_given_up_halfway_blocks_nothing(driver, engine, picture_folder):
    with PosePredictor(engine) as predictor:
        for _ in range(3):
            frames = predictor.stream(str(picture_folder))
            next(frames)
            frames.close()  # type: ignore[attr-defined]
        assert len(predictor.predict(str(picture_folder))) == 6


def test_a_broken_frame_leaves_the_others(driver, engine, picture_folder, tmp_path):
    paths = [str(path) for path in sorted(picture_folder.iterdir())][:3]
    (tmp_path / "broken.png").write_bytes(b"nothing")
    found = []
    with PosePredictor(engine) as predictor:
        with pytest.raises(Exception, match="not an image"):
            found += iter(predictor.stream([*paths, str(tmp_path / "broken.png")]))
        assert len(predictor.predict(paths)) == 3


def test_threads_share_one_predictor(driver, engine, picture_folder):
    with PosePredictor(engine) as predictor:
        want = [len(item) for item in predictor.predict(str(picture_folder))]
        found = []

        def work():
            found.append([len(item) for item in predictor.predict(str(picture_folder))])

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [want] * 8


def test_flat_outputs_have_the_size_they_turn_out_to_have(driver, onnx_files, tmp_path, pixels, picture_folder):
    path = stand_in.write_engine(onnx_files["flat"], tmp_path)
    with open_runner(path) as runner, open_runner(onnx_files["flat"], providers=["cpu"]) as other:
        for feed in (pixels, 255 - pixels, pixels[:1]):
            got, want = (each.run({"input": feed})["flat_predictions"] for each in (runner, other))
            np.testing.assert_array_equal(got, want)
            assert len(got) > 10
        assert driver.count("executable") == 0  # data-dependent shapes are not captured
        assert pipeline.open_pipeline(runner) is None
    with PosePredictor(path) as predictor:
        assert len(predictor.predict(str(picture_folder))) == 6


def test_outputs_that_stay_on_the_gpu(driver, engine, pixels):
    with TrtRunner(engine) as runner:
        want = runner.run({"input": pixels})
        before = len(driver.calls)
        kept = runner.run({"input": pixels}, device=True)
        assert not [kind for kind, _ in driver.calls[before:] if kind == "d2h"]
        for name, array in kept.items():
            interface = array.__cuda_array_interface__
            assert (interface["shape"], interface["version"]) == (want[name].shape, 3)
            assert interface["typestr"] == want[name].dtype.str
            block = (ctypes.c_uint8 * want[name].nbytes).from_address(interface["data"][0])
            found = np.ctypeslib.as_array(block).view(want[name].dtype).reshape(want[name].shape)
            np.testing.assert_array_equal(found, want[name])
            assert array.__dlpack_device__() == (2, 0)


def test_dlpack_and_memory_that_outlives_its_runner(driver, engine, pixels):
    """What was taken from a runner stays readable after it is closed; then nothing is left."""
    from cuda.core.utils import StridedMemoryView

    with TrtRunner(engine) as runner:
        want = runner.run({"input": pixels})
        kept = runner.run({"input": pixels}, device=True)
    views = {name: StridedMemoryView.from_dlpack(array, stream_ptr=-1) for name, array in kept.items()}
    capsule = kept["pred_boxes"].__dlpack__()  # no consumer takes it, so it must free its memory itself
    with pytest.raises(BufferError, match="a copy"):
        kept["pred_boxes"].__dlpack__(copy=True)
    del kept
    assert driver.count("memory") == len(want)
    for name, view in views.items():
        assert (tuple(view.shape), view.dtype) == (want[name].shape, want[name].dtype)
        assert driver.holds(view.ptr, want[name].nbytes)
        block = (ctypes.c_uint8 * want[name].nbytes).from_address(view.ptr)
        np.testing.assert_array_equal(np.ctypeslib.as_array(block).view(want[name].dtype), want[name].reshape(-1))
    del views, view, capsule
    assert driver.alive() == {}


@pytest.mark.parametrize("transfers", [True, False])
def test_the_benchmark_reads_its_events(driver, engine, picture_folder, transfers):
    options = BenchOptions(
        warm_up_ms=0, duration_s=0, iterations=4, avg_runs=2, transfers=transfers, streams=2, images=str(picture_folder)
    )
    (found,) = bench([engine], options).files
    rows = {"latency_ms", "enqueue_ms", "compute_ms"} | ({"h2d_ms", "d2h_ms"} if transfers else set())
    assert set(found.times) == rows
    assert found.runtime == "TensorRT 11.4.0.1 on Strict GPU"
    assert found.candidates is None
    assert found.detections > 5
    report = bench([engine], options)
    assert "CUDA graph on" in str(report)
    assert "GPU Compute Time: min" in str(report)
    assert ("H2D Latency" in str(report)) is transfers
    staged = bench([engine], dataclasses.replace(options, streams=1, end_to_end=True)).files[0]
    assert list(staged.stages) == ["decode", "submit", "wait"]
    assert staged.streamed_per_s > 0
    assert driver.alive() == {}


def test_the_command_line_takes_engines(driver, engine, picture_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(engine), str(picture_folder), "--json", str(tmp_path / "p.json"), "--save", str(tmp_path)])
    assert stopped.value.code in (0, None)
    assert len(json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))) == 6
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(engine), str(picture_folder), "--threads", "2"])
    assert stopped.value.code == 1
    assert "threads belongs to ONNX Runtime, and it is an engine" in capsys.readouterr().err
    with pytest.raises(UsageError, match="cuda_graph belongs to TensorRT, and it is an ONNX file"):
        open_runner(engine.with_suffix(".onnx"), cuda_graph=True)
    with pytest.raises(UsageError, match="every file here is an engine"):
        bench([engine], BenchOptions(threads=2))


def test_compare_takes_engines(driver, engine, onnx_files, picture_folder):
    result = compare(onnx_files["any"], engine, str(picture_folder), tensors=True)
    assert result.found == result.matched > 10
    assert result.outputs["pred_boxes"].max_abs < 1e-3
    assert result.noise_db == {}  # an engine does not show its inner tensors
    assert result.px_mean < 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine_sha256": "0"}, "belongs to another engine"),
        ({"flavor": "tensorrt_rtx"}, "belongs to another engine"),
        ({"gpu": {"name": "T4", "compute_capability": "7.5"}}, "built for compute capability 7.5, Strict GPU has 9.0"),
        ({"plugins": ["OtherNMS_TRT"]}, "it calls OtherNMS_TRT, which is not registered here"),
    ],
    ids=str,
)
def test_engines_that_do_not_fit(driver, onnx_files, tmp_path, changes, words):
    path = stand_in.write_engine(onnx_files["one"], tmp_path, **changes)
    with pytest.raises(EngineError, match=words) as caught:
        open_runner(path)
    assert str(caught.value).count("\n") == 0
    assert driver.alive() == {}
    assert driver.contexts() == 0


def test_plans_that_are_damaged_or_of_another_version(driver, onnx_files, tmp_path, monkeypatch):
    path = stand_in.write_engine(onnx_files["one"], tmp_path)
    record = json.loads((tmp_path / "one.engine.json").read_text(encoding="utf-8"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(EngineError, match="belongs to another engine"):
        open_runner(path)
    from trt_pose.files import file_sha256

    (tmp_path / "one.engine.json").write_text(json.dumps({**record, "engine_sha256": file_sha256(path)}))
    with pytest.raises(EngineError, match="the plan is damaged"):
        open_runner(path)
    path.write_bytes(b"ftrt")
    with pytest.raises(EngineError, match="4 bytes are not an engine"):
        open_runner(path)
    monkeypatch.setattr(stand_in, "VERSION", (10, 3, 0, 1))
    older = stand_in.write_engine(onnx_files["two"], tmp_path)
    with pytest.raises(EngineError, match=r"built with 10\.3\.0\.1, TensorRT 11\.4\.0\.1 here"):
        open_runner(older)


def test_a_batch_outside_the_profile(driver, engine, rng):
    with TrtRunner(engine) as runner, pytest.raises(RunnerError, match="got 5 images, its profile ends at 4"):
        runner.run({"input": rng.integers(0, 256, (5, 3, 128, 160), dtype=np.uint8)})


def test_a_run_that_fails_says_why(driver, engine, pixels):
    with TrtRunner(engine, cuda_graph=False) as runner:
        runner._context.fails = True
        runner._log.note("the kernel did not like it")
        with pytest.raises(RunnerError, match="TensorRT failed: the kernel did not like it"):
            runner.run({"input": pixels})


def test_without_a_gpu_or_cuda_core(engine, monkeypatch):
    """No stand-in here: this machine as it is, and one without cuda-core."""
    import importlib

    from trt_pose.gpu import device

    monkeypatch.setattr(device, "find_gpu", lambda index=0: None)
    with pytest.raises(RunnerError, match="there is no GPU here, or no driver"):
        TrtRunner(engine)
    monkeypatch.undo()
    monkeypatch.setattr(importlib, "import_module", _none)
    with pytest.raises(MissingDependencyError, match="cuda-core is not installed"):
        TrtRunner(engine)


def _none(name):
    raise ImportError(name)
