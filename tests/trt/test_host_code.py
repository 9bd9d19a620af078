"""Engines that bring code of their own run only where that is allowed."""

import pytest

from trt_pose import EngineError
from trt_pose.spec import ModelSpec
from trt_pose.trt.inspector import HOST_CODE, allow_host_code, check_host_code
from trt_pose.trt.sidecar import Sidecar


def sidecar(compatible):
    return Sidecar(ModelSpec("m"), "", 1, "", "tensorrt", "10.3.0", options={"version_compatible": compatible})


def test_a_description_does_not_allow_its_engine_to_bring_code(monkeypatch):
    monkeypatch.delenv(HOST_CODE, raising=False)
    assert check_host_code(sidecar(False), "x.engine") is False
    with pytest.raises(EngineError, match="--allow-host-code"):
        check_host_code(sidecar(True), "x.engine")
    monkeypatch.setenv(HOST_CODE, "0")
    allow_host_code()
    assert check_host_code(sidecar(True), "x.engine") is True
    assert check_host_code(sidecar(False), "x.engine") is False
