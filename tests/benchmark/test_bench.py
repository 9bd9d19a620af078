"""The benchmark on ONNX Runtime: its figures by hand, its report, its command line."""

import csv
import io
import json
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from trt_pose import PosePredictor, RunnerError, SourceError, UsageError, open_runner
from trt_pose.benchmark import BenchOptions, bench
from trt_pose.benchmark.candidates import count_candidates
from trt_pose.benchmark.figures import percentile, ratio, summarize
from trt_pose.benchmark.measure import Target, measure
from trt_pose.benchmark.report import FileReport
from trt_pose.cli import main
from trt_pose.runtime.runner import QueryTimes, time_query

QUICK = {"warm_up_ms": 0.0, "duration_s": 0.02, "iterations": 4, "avg_runs": 2, "provider": "cpu"}


def test_figures_by_hand():
    figures = summarize([4.0, 1.0, 2.0, 10.0], (50.0, 90.0, 99.0, 100.0))
    assert (figures.min, figures.max, figures.mean, figures.median) == (1.0, 10.0, 4.25, 3.0)
    assert dict(figures.percentiles) == {50.0: 2.0, 90.0: 10.0, 99.0: 10.0, 100.0: 10.0}
    assert str(figures).startswith("min = 1 ms, max = 10 ms, mean = 4.25 ms, median = 3 ms, percentile(50%) = 2 ms")
    hundred = list(range(1, 101))
    assert [percentile(hundred, share) for share in (1, 50, 90, 95, 99, 100)] == [1, 50, 90, 95, 99, 100]
    assert percentile([7.0], 99) == 7.0


def test_a_spread_is_said_where_one_was_measured():
    assert str(ratio([2.0], [1.0])) == "2.000 (one turn)"
    assert str(ratio([2.0, 2.0], [1.0, 1.0])) == "2.000 (2 turns)"
    assert str(ratio([2.0, 2.2, 2.4], [1.0, 1.0, 1.0])) == "2.200 (2.000 to 2.400 over 3 turns)"


def test_a_ratio_is_taken_turn_by_turn():
    slow_machine = np.array([1.0, 5.0, 1.0, 3.0])  # what slows one turn slows both files
    found = ratio(list(2.0 * slow_machine), list(slow_machine))
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)
    wide = ratio([1.0] * 99 + [50.0], [1.0] * 100)
    assert (wide.median, wide.high) == (1.0, 1.0)  # one turn of a hundred is no spread


def test_latency_adds_copies_and_compute():
    query = QueryTimes(0.0, 1.0, compute_ms=3.0, enqueue_ms=0.5, h2d_ms=0.25, d2h_ms=0.125)
    assert query.latency_ms == 3.375
    assert QueryTimes(0.0, 1.0, 2.0).latency_ms == 2.0


class Clockwork:
    """A runner that takes so many ms, and says who called it."""

    def __init__(self, ms, log):
        self.ms, self.log = ms, log

    def run(self, _feeds):
        self.log.append((self.ms, threading.get_ident()))
        time.sleep(self.ms / 1e3)


def test_files_take_turns_until_each_has_had_its_time():
    log = []
    subjects = [Target(str(ms), [Clockwork(ms, log)], iter(dict, None)) for ms in (1, 4)]
    measure(subjects, BenchOptions(warm_up_ms=0, duration_s=0.02, iterations=6, avg_runs=3))
    assert [ms for ms, _ in log[2:14]] == [1, 1, 1, 4, 4, 4] * 2
    assert len(subjects[0].turns) == len(subjects[1].turns) >= 2
    for item, ms in zip(subjects, (1, 4), strict=True):
        assert item.walltime_s >= 0.02
        assert all(query.latency_ms >= ms for query in item.times)
    assert subjects[0].walltime_s < subjects[1].walltime_s  # the wait for the other file is not counted


def test_streams_run_at_once():
    log = []
    item = Target("m", [Clockwork(5, log)] * 3, iter(dict, None))
    measure([item], BenchOptions(warm_up_ms=0, duration_s=0, iterations=3, avg_runs=2, streams=3))
    assert len({thread for _, thread in log[3:]}) == 3
    assert item.walltime_s < 0.005 * 6  # six queries of 5 ms, three at a time


def test_a_runner_with_clocks_of_its_own_is_asked():
    own = SimpleNamespace(time_query=lambda _: QueryTimes(0.0, 1.0, 7.0, h2d_ms=1.0))
    assert time_query(own, {}).latency_ms == 8.0


@pytest.fixture(scope="module")
def report(tiny_onnx, tiny_dynamic_onnx, picture_folder):
    options = BenchOptions(**QUICK, images=str(picture_folder), end_to_end=True)
    return bench([tiny_onnx, tiny_dynamic_onnx], options)


def test_the_report(report, tiny_onnx, picture_folder):
    first, second = report.files
    assert first.queries >= 4
    assert set(first.times) == {"latency_ms"}  # no GPU: its rows are absent, not zero
    assert first.queries_per_s == pytest.approx(first.queries / first.walltime_s)
    assert first.ratio is None
    assert second.ratio.low <= second.ratio.median <= second.ratio.high
    assert list(first.stages) == ["decode", "letterbox", "inference", "results"]
    with PosePredictor(tiny_onnx, providers=["cpu"]) as predictor:
        poses = [len(result) for result in predictor.predict(str(picture_folder))]
    assert first.detections == pytest.approx(np.mean(poses))
    assert first.candidates >= first.detections
    text = str(report)
    assert text.startswith("settings: warmUp 0 ms, duration 0.02 s")
    assert "CUDA graph" not in text
    for words in ("Throughput: ", " qps, ", "images/s", "Latency: min = ", "percentile(99%)", "Total Host Walltime"):
        assert words in text
    assert "GPU Compute" not in text
    assert "ONNX Runtime" in text
    assert "of the time" in text
    assert "streaming: " in text
    assert first.streamed_per_s > 0
    assert "relative to the first file" in text


def test_json_and_csv(report):
    record = json.loads(report.to_json())
    assert set(record) == {"machine", "settings", "files"}
    assert {"cpu", "cores", "gpu", "python", "packages"} == set(record["machine"])
    assert record["settings"]["avg_runs"] == 2
    first, second = record["files"]
    keys = {
        "file", "model", "precision", "runtime", "batch", "queries", "queries_per_s", "images_per_s", "walltime_s",
        "detections", "candidates", "latency_ms", "stages_ms", "streamed_per_s",
    }  # fmt: skip
    assert set(first) == keys
    assert set(second) == keys | {"ratio"}
    assert set(first["latency_ms"]) == {"min", "max", "mean", "median", "p90", "p95", "p99"}
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["file"] for row in rows] == [first["file"], second["file"]]
    assert float(rows[0]["latency_ms.median"]) == first["latency_ms"]["median"]
    times = json.loads(report.times_json())
    assert len(times) == first["queries"] + second["queries"]
    assert set(times[0]) == {"file", "startComputeMs", "endComputeMs", "computeMs", "latencyMs"}


def test_saved_in_every_form(report, tmp_path):
    for suffix in ("json", "csv", "png"):
        report.save(tmp_path / f"r.{suffix}")
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["files"]
    picture = cv2.imread(str(tmp_path / "r.png"))
    assert picture.shape[0] > 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    with pytest.raises(SourceError, match=r"expected \.json, \.csv or \.png\."):
        report.save(tmp_path / "r.txt")


def test_gpu_rows_where_a_runner_has_them():
    figures = summarize([1.0], (99.0,))
    times = dict.fromkeys(("latency_ms", "enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms"), figures)
    item = FileReport("m.engine", "m", "fp16", "TensorRT", 2, 10, 0.5, times, {}, None, None)
    names = [line.partition(":")[0] for line in item.lines()]
    assert names[3:9] == ["In flight", "Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency"]
    assert item.images_per_s == 40.0


def test_candidates_are_counted_before_nms(tiny_onnx, tiny_plugin_onnx, tiny, tmp_path, photograph):
    from trt_pose.predictor import place

    with open_runner(tiny_onnx, providers=["cpu"]) as runner:
        feeds = [{"input": place([photograph], runner.spec.input)[0]}]
        kept = int(runner.run(feeds[0])["num_predictions"][0, 0])
    (entered,), (everyone,) = (count_candidates(path, feeds) for path in (tiny_onnx, tiny_plugin_onnx))
    assert kept <= entered <= 100  # as many as enter NMS at most
    assert everyone >= entered  # the plugin sees every anchor
    tiny.export(tmp_path / "raw.onnx", postprocessing=False, input_image_shape=(128, 160))
    assert count_candidates(tmp_path / "raw.onnx", feeds) is None


def test_inputs_from_files(tiny_dynamic_onnx, tiny, tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 3, 128, 160), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    (tmp_path / "x.bin").write_bytes(pixels.tobytes())
    for name in ("x.npy", "x.bin"):
        inputs = (("input", str(tmp_path / name)),)
        batch = None if name == "x.npy" else 3  # an array says how many images it holds
        found = bench([tiny_dynamic_onnx], BenchOptions(**QUICK, inputs=inputs, batch=batch)).files[0]
        assert found.batch == 3
        assert found.images_per_s == pytest.approx(3 * found.queries_per_s)
    with pytest.raises(UsageError, match="--loadInputs has 3"):
        bench([tiny_dynamic_onnx], BenchOptions(**QUICK, inputs=(("input", str(tmp_path / "x.npy")),), batch=2))
    tiny.export(tmp_path / "raw.onnx", preprocessing=False, postprocessing=False, input_image_shape=(128, 160))
    with pytest.raises(RunnerError, match=r"does not take images\. Feed it with --loadInputs input:FILE\.npy"):
        bench([tmp_path / "raw.onnx"], BenchOptions(**QUICK))
    np.save(tmp_path / "f.npy", np.zeros((1, 3, 128, 160), np.float32))
    raw = bench([tmp_path / "raw.onnx"], BenchOptions(**QUICK, inputs=(("input", str(tmp_path / "f.npy")),))).files[0]
    assert raw.detections is None
    assert "detections" not in "".join(raw.lines())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"iterations": 0}, "--iterations"), ({"avg_runs": 0}, "--avgRuns"), ({"streams": 0}, "--infStreams"),
        ({"avg_runs": 99999999999}, "--avgRuns: got 99999999999, expected 1 to"),
        ({"streams": 99999999999}, "--infStreams"),
        ({"duration_s": -1.0}, "--duration"), ({"duration_s": float("nan")}, "--duration"),
        ({"percentiles": ()}, "--percentile"), ({"percentiles": (101.0,)}, "--percentile"),
        ({"end_to_end": True, "streams": 2}, "--end-to-end"),
        ({"end_to_end": True, "batch": 2}, "--end-to-end"),
        ({"images": "x", "inputs": (("a", "b"),)}, "both say what to feed"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range(change, words):
    with pytest.raises(UsageError, match=words):
        BenchOptions(**change)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 4}, UsageError, "the file takes 1"),
        ({"images": "/no/such"}, SourceError, "no such image, folder or glob"),
        ({"images": "/no/such*.jpg"}, SourceError, "no images in it"),
        ({"inputs": (("wrong", "x.npy"),)}, UsageError, "no input 'wrong'"),
        ({"inputs": (("input", "/no/such.npy"),)}, UsageError, "No such file"),
    ],
    ids=str,
)
def test_what_cannot_be_fed(tiny_onnx, options, error, words):
    with pytest.raises(error, match=words):
        bench([tiny_onnx], BenchOptions(**{**QUICK, **options}))


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *map(str, arguments)])
    return stopped.value.code


def test_on_the_command_line(tiny_onnx, tmp_path, capsys):
    quick = ("--duration", 0, "--iterations", 3, "--warmUp", 0, "--provider", "cpu")
    times = tmp_path / "times.json"
    assert call(tiny_onnx, *quick, "--json", "--exportTimes", times, "--save", tmp_path / "r.csv") == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["queries"] >= 3
    assert "file" not in json.loads(times.read_text(encoding="utf-8"))[0]  # one file: trtexec's own form
    assert (tmp_path / "r.csv").exists()
    for arguments, words in (
        ((tiny_onnx, "--percentile", "a"), "--percentile"),
        ((tiny_onnx, "--loadInputs", "nothing"), "--loadInputs"),
        ((tiny_onnx, "--trtexec"), "it runs engines"),
        ((tmp_path / "missing.onnx",), "no such file"),
        ((tiny_onnx, "--save", tmp_path / "no" / "r.json"), "writing"),
        ((tiny_onnx, "--save", tmp_path / "r.txt"), "expected .json, .csv or .png"),
    ):
        assert call(*arguments, *quick) == 1
        assert words in capsys.readouterr().err


def test_raw_files_have_no_end(tiny, tiny_onnx, tmp_path):
    tiny.export(tmp_path / "raw.onnx", postprocessing=False, verification=False, input_image_shape=(128, 160))
    with pytest.raises(RunnerError, match="not finished predictions"):
        bench([tmp_path / "raw.onnx"], BenchOptions(**QUICK, end_to_end=True))
    tiny.export(tmp_path / "two.onnx", batch_size=2, verification=False, input_image_shape=(128, 160))
    with pytest.raises(UsageError, match="one image at a time, the file takes 2"):
        bench([tmp_path / "two.onnx"], BenchOptions(**QUICK, end_to_end=True))


def test_a_symbolic_batch_of_images(tiny_dynamic_onnx, picture_folder):
    options = BenchOptions(**QUICK, images=f"{picture_folder}/*.png", batch=4)
    found = bench([tiny_dynamic_onnx], options).files[0]
    assert (found.batch, found.runtime.startswith("ONNX Runtime")) == (4, True)
