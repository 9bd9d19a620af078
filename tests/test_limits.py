"""What a process may take of the machine."""

import os
import resource

import pytest

from trt_pose import UsageError, limits
from trt_pose.runtime.ort import OnnxRunner


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("", 64)])
def test_the_cores_of_a_container(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(limits, "_CGROUP", tmp_path)
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert limits.usable_cores() == cores


@pytest.mark.parametrize(("threads", "expected"), [(None, 2), (5, 5)])
def test_onnx_runtime_takes_no_more_cores_than_it_may(monkeypatch, tiny_onnx, threads, expected):
    import onnxruntime

    seen = []
    session = onnxruntime.InferenceSession

    def keep(model, options, **rest):
        seen.append(options.intra_op_num_threads)
        return session(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", keep)
    monkeypatch.setattr("trt_pose.runtime.runner.usable_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    OnnxRunner(tiny_onnx, providers=["cpu"], threads=threads).close()
    assert seen == [expected]


def test_memory_is_compared_with_every_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "_CGROUP", tmp_path)
    assert limits.available_bytes() > 1 << 28
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("700000000\n")
    (tmp_path / "memory.stat").write_text("anon 400000000\nfile 300000000\nfile_mapped 5\n")
    assert limits.available_bytes() == 600_000_000
    limits.check_memory(500_000_000, "this", UsageError)
    with pytest.raises(UsageError, match=r"^this: it needs 0\.7 GB at least, 0\.6 GB are free"):
        limits.check_memory(700_000_000, "this", UsageError)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    with pytest.raises(UsageError, match=r"0\.0 GB are free"):
        limits.check_memory(1, "this", UsageError)
