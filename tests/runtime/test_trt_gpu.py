"""The engine runner on a GPU, with whichever TensorRT is installed: what the stand-in cannot show."""

import threading

import numpy as np
import pytest

from trt_pose import PosePredictor, open_runner
from trt_pose.benchmark import BenchOptions, bench
from trt_pose.builder.build import build_engine
from trt_pose.builder.options import BuildOptions
from trt_pose.results.pairing import compare_predictions, pair_boxes
from trt_pose.runtime.trt import TrtRunner

from ..tolerances import ENGINE

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]


@pytest.fixture(scope="module")
def engine(tiny, tmp_path_factory):
    """The tiny model, up to eight images of 128 x 160, in FP32, so that it can be compared."""
    folder = tmp_path_factory.mktemp("engine")
    limits = {"confidence_threshold": 0.2, "num_pre_nms_predictions": 100, "input_image_shape": (128, 160)}
    tiny.export(folder / "m.onnx", engine="tensorrt", batch_size="dynamic", verification=False, **limits)
    build_engine(folder / "m.onnx", folder / "m.engine", options=BuildOptions(max_shapes={"input": (8, 3, 128, 160)}))
    return folder / "m.engine"


@pytest.mark.parametrize("graph", [True, False])
def test_the_engine_finds_what_the_onnx_file_finds(engine, picture_folder, graph):
    with (
        PosePredictor(engine, cuda_graph=graph) as first,
        PosePredictor(engine.with_suffix(".onnx"), providers=["cpu"]) as second,
    ):
        for batch in (1, 4, 1):
            for got, want in zip(
                first.stream(str(picture_folder), batch_size=batch),
                second.stream(str(picture_folder), batch_size=batch),
                strict=True,
            ):
                gap = compare_predictions(got.poses, want.poses)
                assert gap.unmatched <= 1
                assert gap.px < ENGINE.px
                assert gap.score < ENGINE.score


def test_keypoint_rcnn_finds_what_its_onnx_file_finds(rcnn, photograph, tmp_path):
    """Both decodes of the engine and the kernel of its heatmaps, with equal values of which another may win."""
    rcnn.export(tmp_path / "m.onnx", engine="tensorrt", input_image_shape=(160, 256), verification=False)
    build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options=BuildOptions(tf32=False))
    picture = np.ascontiguousarray(photograph[:160, :256])
    with PosePredictor(tmp_path / "m.engine") as first, PosePredictor(tmp_path / "m.onnx", providers=["cpu"]) as second:
        found, want = first.predict(picture).poses, second.predict(picture).poses
    pairs = pair_boxes(found.boxes, want.boxes)
    assert len(pairs) >= len(want) - 1 > 5
    one, other = found[pairs[:, 0]], want[pairs[:, 1]]
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.1)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
    apart = np.abs(one.joints - other.joints)[..., :2].max(axis=2)
    assert (apart < 0.5).mean() > 0.95


def test_device_memory_is_flat_over_ten_thousand_calls(engine, photograph):
    image = np.ascontiguousarray(photograph[:128, :160])

    def free():
        from cuda.bindings import driver

        result, left, _ = driver.cuMemGetInfo()
        assert int(result) == 0
        return left

    with TrtRunner(engine) as runner, PosePredictor(runner) as predictor:
        for _ in range(100):
            predictor.predict(image)
        with runner.device.current("measuring"):
            before = free()
        for _ in range(10_000):
            predictor.predict(image)
        with runner.device.current("measuring"):
            assert before - free() < 1 << 20


def test_threads_and_clones(engine, picture_folder):
    with TrtRunner(engine) as runner:
        found = []

        def work(own):
            with PosePredictor(own) as predictor:
                found.append([len(item) for item in predictor.predict(str(picture_folder))])

        threads = [threading.Thread(target=work, args=(runner.clone(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    assert all(item == found[0] for item in found)


def test_torch_reads_what_stays_on_the_gpu(engine, rng):
    import torch

    with TrtRunner(engine) as runner:
        pixels = rng.integers(0, 256, (2, 3, 128, 160), dtype=np.uint8)
        want = runner.run({"input": pixels})
        kept = runner.run({"input": pixels}, device=True)
        for name, values in want.items():
            for tensor in (torch.as_tensor(kept[name], device="cuda"), torch.from_dlpack(kept[name])):
                np.testing.assert_array_equal(tensor.cpu().numpy(), values)


def test_torch_feeds_and_its_streams(engine, rng):
    import torch

    pixels = rng.integers(0, 256, (2, 3, 128, 160), dtype=np.uint8)
    with TrtRunner(engine) as runner:
        want = runner.run({"input": pixels})
        stream = torch.cuda.Stream()
        for _ in range(3):
            with torch.cuda.stream(stream):
                feed = torch.from_numpy(pixels).cuda(non_blocking=True)
                found = runner.run({"input": feed}, device=True, stream=stream)
                tensors = {name: array.to_torch().clone() for name, array in found.items()}
            stream.synchronize()
            for name, values in want.items():
                np.testing.assert_array_equal(tensors[name].cpu().numpy(), values)


def test_the_benchmark_measures(engine):
    (found,) = bench([engine], BenchOptions(duration_s=0.5)).files
    assert set(found.times) == {"latency_ms", "enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms"}
    assert 0 < found.times["compute_ms"].median < 50
    assert found.detections > 0


def test_a_truncated_engine_is_one_sentence(engine, tmp_path):
    from trt_pose import EngineError

    path = tmp_path / "m.engine"
    path.write_bytes(engine.read_bytes()[:1000])
    (tmp_path / "m.engine.json").write_text(engine.with_suffix(".engine.json").read_text(encoding="utf-8"))
    with pytest.raises(EngineError, match="belongs to another engine"):
        open_runner(path)
