import gc
import resource
import threading
from dataclasses import replace

import numpy as np
import pytest

from trt_pose import PosePredictor, RunnerError, SourceError, UsageError
from trt_pose.images import draw
from trt_pose.images.pixels import letterbox, undo_letterbox
from trt_pose.images.reading import Unreadable
from trt_pose.results.pairing import compare_predictions

from . import tolerances
from .conftest import SMALL, make_tiny

CPU = {"providers": ["cpu"]}


def test_one_image_gives_one_result(tiny_onnx, photo_path, photograph):
    with PosePredictor(tiny_onnx, **CPU) as predictor:
        result = predictor.predict(photo_path)
        again = predictor(photograph)
    assert len(result) > 3
    assert result.source == str(photo_path)
    np.testing.assert_array_equal(result.image, photograph)
    np.testing.assert_array_equal(result.poses.joints, again.poses.joints)


def test_poses_are_in_pixels_of_the_source(tiny_onnx, photograph):
    """The path by hand: letterbox, run, undo."""
    with PosePredictor(tiny_onnx, **CPU) as predictor:
        result = predictor.predict(photograph)
        pixels, placed = letterbox(photograph, predictor.spec.input)
        outputs = predictor._runner.run({"input": pixels[None]})
    count = int(outputs["num_predictions"][0, 0])
    assert placed.scale_x == 0.25
    np.testing.assert_allclose(result.poses.boxes, outputs["pred_boxes"][0, :count] * 4, rtol=1e-6)
    np.testing.assert_allclose(
        result.poses.joints[..., :2], undo_letterbox(outputs["pred_joints"][0, :count, :, :2], placed)
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_change_nothing(tiny_dynamic_onnx, photograph, batch_size):
    images = [photograph, photograph[:, ::-1], photograph[:300], photograph[:, :200], photograph[::2, ::2]]
    with PosePredictor(tiny_dynamic_onnx, **CPU) as predictor:
        alone = [predictor.predict(image) for image in images]
        together = predictor.predict(images, batch_size=batch_size)
    assert [result.source for result in together] == [f"array {index}" for index in range(5)]
    for first, second in zip(alone, together, strict=True):
        assert compare_predictions(first.poses, second.poses).px < 0.01


def test_a_fixed_batch_is_filled_up(tiny, tmp_path, photograph, tiny_dynamic_onnx):
    tiny.export(tmp_path / "two.onnx", batch_size=2, **SMALL)
    images = [photograph, photograph[:, ::-1], photograph[:300]]
    with PosePredictor(tmp_path / "two.onnx", **CPU) as two, PosePredictor(tiny_dynamic_onnx, **CPU) as any_size:
        for first, second in zip(two.predict(images), any_size.predict(images), strict=True):
            gap = compare_predictions(first.poses, second.poses)
            assert gap.unmatched == 0
            assert gap.px < 0.01
        with pytest.raises(UsageError, match="expected 2"):
            two.predict(images, batch_size=3)


@pytest.mark.parametrize("output_format", ["batch", "flat"])
def test_a_higher_threshold_in_the_predictor(tiny, tmp_path, photograph, output_format):
    tiny.export(tmp_path / "m.onnx", output_predictions_format=output_format, **SMALL)
    with PosePredictor(tmp_path / "m.onnx", **CPU) as everyone:
        all_poses = everyone.predict(photograph).poses
    middle = float(np.median(all_poses.scores))
    with PosePredictor(tmp_path / "m.onnx", confidence=middle, **CPU) as sure:
        some = sure.predict(photograph).poses
    assert 0 < len(some) < len(all_poses)
    np.testing.assert_array_equal(some.boxes, all_poses.boxes[all_poses.scores > middle])


def test_a_lower_threshold_than_the_files_is_refused(tiny_onnx):
    with pytest.raises(UsageError, match=r"expected 0\.2"):
        PosePredictor(tiny_onnx, confidence=0.1, **CPU)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"postprocessing": False}, "postprocessing=True"), ({"preprocessing": False}, "preprocessing=True")],
)
def test_files_that_cannot_predict_say_why(tiny, tmp_path, options, words):
    tiny.export(tmp_path / "m.onnx", input_image_shape=64, verification=False, **options)
    with pytest.raises(RunnerError, match=words):
        PosePredictor(tmp_path / "m.onnx", **CPU)


def test_torch_predicts_the_same(tiny_onnx, photograph):
    model = make_tiny()
    model.processing = replace(model.processing, input=model.processing.input.with_size(128, 160))
    options = {"conf": 0.2, "pre_nms_max_predictions": 100, "post_nms_max_predictions": 100}
    in_torch, unfused = (model.predict(photograph, fuse_model=fuse, **options) for fuse in (True, False))
    with PosePredictor(tiny_onnx, **CPU) as predictor:
        in_onnx = predictor.predict(photograph)
    for other in (in_torch, unfused):
        gap = compare_predictions(in_onnx.poses, other.poses)
        assert gap.unmatched == 0
        assert gap.px < 0.05
        assert gap.score < 1e-4
    assert [len(result) for result in model.predict([photograph] * 2, **options)] == [len(in_torch)] * 2
    few = model.predict(photograph, conf=0.2, post_nms_max_predictions=2)
    assert len(few) == 2


def test_videos_are_streamed(tiny_onnx, tmp_path, photograph):
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (512, 512))  # type: ignore[attr-defined]
    for shift in (0, 40, 80):
        writer.write(np.ascontiguousarray(np.roll(photograph, shift, axis=1)[:, :, ::-1]))
    writer.release()
    with PosePredictor(tiny_onnx, **CPU) as predictor:
        with pytest.raises(SourceError, match="stream"):
            predictor.predict(tmp_path / "clip.avi")
        results = list(predictor.stream(tmp_path / "clip.avi", progress=True))
    assert [result.source.rpartition("#")[2] for result in results] == ["0", "1", "2"]


def test_threads_may_share_a_predictor(tiny_dynamic_onnx, photograph):
    images = [photograph[:, shift:] for shift in range(0, 80, 10)]
    found: dict[int, object] = {}
    with PosePredictor(tiny_dynamic_onnx, **CPU) as predictor:
        want = [predictor.predict(image).poses.joints for image in images]

        def work(index):
            found[index] = predictor.predict(images[index]).poses.joints

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index in range(8):
        np.testing.assert_array_equal(found[index], want[index])


def test_memory_stays_constant_over_ten_thousand_frames(tiny, tmp_path, photograph):
    tiny.export(tmp_path / "m.onnx", input_image_shape=32, num_pre_nms_predictions=21, confidence_threshold=0.2)
    frame = np.ascontiguousarray(photograph[::4, ::4])
    with PosePredictor(tmp_path / "m.onnx", threads=1, **CPU) as predictor:
        results = predictor.stream(frame for _ in range(10_000))
        for _ in range(500):
            next(results)
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert sum(1 for _ in results) == 9_500
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 10  # MB


@pytest.fixture
def many(tmp_path, photograph):
    """Forty pictures; the eleventh is damaged."""
    for index in range(40):
        draw.save(photograph[index * 4 : index * 4 + 200, : 220 + index], tmp_path / f"{index:02}.png")
    (tmp_path / "10.png").write_bytes(b"no picture")
    return tmp_path


@pytest.mark.parametrize("providers", ["cpu", "openvino"])
@pytest.mark.parametrize("size", [1, 3])
def test_batches_that_run_at_once_give_what_they_give_alone(tiny_dynamic_onnx, many, monkeypatch, providers, size):
    if providers == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr("trt_pose.limits.usable_cores", lambda: 4)
    monkeypatch.setattr("trt_pose.runtime.runner.usable_cores", lambda: 4)
    monkeypatch.setattr("trt_pose.predictor._FEW_BATCHES", 2)
    with PosePredictor(tiny_dynamic_onnx, providers=providers) as predictor:
        found = list(predictor.stream(many, on_error="yield", batch_size=size))
        assert predictor._throughput is not None
        assert predictor._throughput[1] == 4
        assert predictor._throughput[0] is not predictor._runner
        for index, result in enumerate(found):
            if index == 10:
                assert isinstance(result, Unreadable)
                continue
            assert result.source.endswith(f"{index:02}.png")
            alone = predictor.predict(str(many / f"{index:02}.png"))
            tolerances.RUNNERS.check(alone.prediction, result.prediction)
        beside = predictor._throughput[0]
    with pytest.raises(RunnerError, match="closed"):
        beside.run({"input": np.zeros((1, 3, 128, 160), np.uint8)})


def test_threads_that_were_chosen_are_kept(tiny_dynamic_onnx, many, monkeypatch):
    monkeypatch.setattr("trt_pose.predictor._FEW_BATCHES", 2)
    with PosePredictor(tiny_dynamic_onnx, threads=1) as predictor:
        assert len(list(predictor.stream(many, on_error="yield"))) == 40
        assert predictor._throughput == (predictor._runner, 1)


def test_a_live_source_is_not_run_ahead(tiny_dynamic_onnx, photograph, monkeypatch):
    monkeypatch.setattr("trt_pose.predictor._FEW_BATCHES", 0)
    asked = []

    def feed():
        for index in range(6):
            asked.append(index)
            yield photograph[:200, : 200 + index]

    with PosePredictor(tiny_dynamic_onnx) as predictor:
        next(iter(predictor.stream(feed())))
    assert asked == [0]


@pytest.mark.parametrize("providers", ["cpu", "openvino"])
@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_file_that_has_changed_is_not_opened_again(
    tiny_dynamic_onnx, tiny_onnx, many, tmp_path_factory, monkeypatch, providers, change
):
    if providers == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr("trt_pose.runtime.runner.usable_cores", lambda: 4)
    monkeypatch.setattr("trt_pose.predictor._FEW_BATCHES", 2)
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    path.write_bytes(tiny_dynamic_onnx.read_bytes())
    with PosePredictor(path, providers=providers) as predictor:
        path.unlink()
        if change == "another":
            path.write_bytes(tiny_onnx.read_bytes())
        assert len(list(predictor.stream(many, on_error="yield"))) == 40
        assert predictor._throughput == (predictor._runner, 1)
