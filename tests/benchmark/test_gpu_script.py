"""benchmarks/gpu.py, as far as the strict driver carries it: its kernels run, its report says what was met."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .. import gpu_stand_in as stand_in
from ..cuda import why_not

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "gpu.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {"LAUNCHES": 2, "REPEATS": 1, "ANCHORS": 240, "CANDIDATES": 100}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_the_kernels_are_timed(driver, script):
    found = script.time_kernels()
    assert set(found) < set(script.GOALS)
    assert all(value > 0 for value in found.values())
    kernels = [name for kind, name in driver.calls if kind == "kernel"]
    assert kernels.count("pose_nms") == 2 * (1 + 2)  # once to compile, then the graph
    assert kernels.count("letterbox") == kernels.count("pack_rows") == 1 + 2


def test_the_runner_is_timed(tensorrt, script, tiny_dynamic_plugin_onnx, tmp_path):
    assert script.time_runner(stand_in.write_engine(tiny_dynamic_plugin_onnx, tmp_path), rounds=3) > 0


def test_the_report_says_what_was_met(script):
    engines = [
        {"model": "yolo_nas_pose_n", "precision": "fp16", "latency_ms": 1.5, "compute_ms": 1.2, "queries_per_s": 700.0}
    ]
    figures = {"NMS, batch 1, us": 12.0, "packing, us": 30.0, "throughput / trtexec's": 0.9}
    text = script.report({"machine": {"gpu": "GPU"}, "figures": figures, "engines": engines, "accuracy": {"fp16": 0.7}})
    assert "| NMS, batch 1, us | 12 | at most 15 | met |" in text
    assert "| packing, us | 30 | at most 10 | missed |" in text
    assert "| throughput / trtexec's | 0.9 | at least 0.97 | missed |" in text
    assert "| letterbox 1080p, us | not measured" in text
    assert "| yolo_nas_pose_n | fp16 | 1.500 | 1.200 | 700 | - |" in text
    assert "| fp16 | 0.7000 |" in text


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmarks/gpu.py: running an engine: there is no GPU here")


def test_where_everything_is_to_run_a_skip_fails(tmp_path):
    """What make test-gpu relies on."""
    (tmp_path / "test_it.py").write_text("import pytest\n\n\ndef test_it():\n    pytest.skip('no')\n")
    (tmp_path / "conftest.py").write_text("from tests.nothing_is_skipped import pytest_runtest_makereport\n")
    root = str(SCRIPT.parent.parent)
    for required, code in (("1", 1), ("", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
            env={**os.environ, "TRT_POSE_REQUIRE_GPU": required, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stdout
