"""trtexec beside ours: the command line it gets, and the summary it prints."""

import json
import struct

import pytest

from trt_pose import EngineError, MissingDependencyError
from trt_pose.benchmark import BenchOptions
from trt_pose.benchmark.trtexec import arguments, read_summary, run_trtexec
from trt_pose.spec import InputSpec, ModelSpec

# The shape of its lines, not its figures: [time] [I] name: value.
SUMMARY = """
[11/21/2026-10:00:00] [I] === Performance summary ===
[11/21/2026-10:00:00] [I] Throughput: 123.4 qps
[11/21/2026-10:00:00] [I] Latency: min = 1 ms, max = 2 ms, mean = 1.5 ms, median = 1.5 ms, percentile(99%) = 2 ms
[11/21/2026-10:00:00] [I] GPU Compute Time: min = 1 ms, max = 2 ms, mean = 1.5 ms, median = 1.5 ms
[11/21/2026-10:00:00] [I] Total Host Walltime: 3 s
"""


def plan(folder, major, batch=1, plugins=()):
    path = folder / "m.engine"
    path.write_bytes(b"ftrt" + b"\0" * 20 + struct.pack("4B", major, 3, 0, 1) + b"\0" * 100)
    spec = ModelSpec("yolo_nas_pose_n", input=InputSpec(batch=batch))
    record = {
        "trt_pose_engine": 1, "spec": json.loads(spec.to_json()), "engine_sha256": "", "engine_bytes": 1,
        "onnx_sha256": "", "flavor": "tensorrt", "flavor_version": f"{major}.3.0", "plugins": plugins,
    }  # fmt: skip
    (folder / "m.engine.json").write_text(json.dumps(record))
    return path


def test_switches_of_both_major_versions(tmp_path):
    ten = arguments(plan(tmp_path, 10), BenchOptions(), 1)
    assert {"--useCudaGraph", "--useSpinWait"} <= set(ten)
    assert not {"--noDataTransfers", "--includeDataTransfers"} & set(ten)
    assert "--percentile=90,95,99" in ten
    assert not any(word.startswith("--shapes") for word in ten)
    eleven = arguments(plan(tmp_path, 11), BenchOptions(), 1)
    assert "--includeDataTransfers" in eleven
    assert not {"--useCudaGraph", "--useSpinWait", "--noCudaGraph", "--noSpinWait"} & set(eleven)
    off = BenchOptions(cuda_graph=False, spin_wait=False, transfers=False)
    assert {"--noCudaGraph", "--noSpinWait"} <= set(arguments(plan(tmp_path, 11), off, 1))
    assert "--noDataTransfers" in arguments(plan(tmp_path, 10), off, 1)


def test_shapes_and_the_plugin(tmp_path, monkeypatch):
    (tmp_path / "libtrt_pose_plugins.so").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    words = arguments(plan(tmp_path, 11, batch=None, plugins=("PoseNMS_TRT",)), BenchOptions(), 4)
    assert "--shapes=input:4x3x640x640" in words
    assert sum(word.startswith("--dynamicPlugins=") for word in words) == 1


def test_the_summary():
    found = read_summary(SUMMARY, "trtexec")
    assert found["Throughput"] == "123.4 qps"
    assert found["Latency"].startswith("min = 1 ms")
    assert list(found) == ["Throughput", "Latency", "GPU Compute Time"]
    with pytest.raises(EngineError, match=r"no performance summary.*: trtexec --loadEngine=pose\.engine"):
        read_summary("nothing", "trtexec --loadEngine=pose.engine")


def test_the_program_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no trtexec on the path"):
        run_trtexec(plan(tmp_path, 11), BenchOptions(), 1)
    program = tmp_path / "trtexec"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{SUMMARY}'\n")
    program.chmod(0o755)
    assert run_trtexec(plan(tmp_path, 11), BenchOptions(), 1)["Throughput"] == "123.4 qps"
    program.write_text("#!/bin/sh\necho no such engine >&2\nexit 3\n")
    with pytest.raises(EngineError, match="exit code 3: no such engine"):
        run_trtexec(plan(tmp_path, 11), BenchOptions(), 1)
