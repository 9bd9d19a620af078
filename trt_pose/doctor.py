"""What is installed here, what works, and whether a model file will."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import pose_nms
from .engine.flavor import RTX, TENSORRT, Flavor
from .engine.plugin import check_buildable
from .errors import EngineError
from .types import ModelSpec

_PACKAGES = ("trt-pose", "numpy", "opencv-python-headless", "onnxruntime", "torch", "onnx", "onnxslim", "cuda-bindings")
# In a process of its own: two TensorRTs do not share one, and one that crashes is a finding, not the end.
_PROBE = (
    "import sys; from trt_pose.engine.flavor import find_flavor; from trt_pose.engine.plugin import load_plugins;"
    " flavor = find_flavor(sys.argv[1]); print(flavor.version); print(load_plugins(flavor))"
)


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is fine (None: merely absent), and what was found or what mends it."""

    what: str
    fine: bool | None
    detail: str


def examine(file: str | Path | None = None) -> list[Finding]:
    """Looks at the installation, and at ``file`` (``.onnx``) when given.

    Raises:
        RunnerError: the file is missing, damaged or foreign.
    """
    spec = None
    if file is not None:
        from .inspect import inspect

        spec = inspect(file).spec
    findings = [Finding("python", True, platform.python_version())]
    findings += [_package(name) for name in _PACKAGES]
    findings.append(_providers())
    flavors = []
    for name in (TENSORRT, RTX):
        finding, flavor = _flavor(name)
        findings.append(finding)
        flavors += [flavor] if flavor else []
    if spec is not None:
        findings += _file(spec, flavors)
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, None, "not installed")


def _providers() -> Finding:
    import onnxruntime

    from .runtime.ort import openvino_devices

    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return Finding("onnxruntime providers", True, ", ".join([*names, *(["OpenVINO"] if openvino_devices() else [])]))


def _flavor(name: str) -> tuple[Finding, Flavor | None]:
    command = [sys.executable, "-c", _PROBE, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    if done.returncode == 0:
        version, plugin = done.stdout.splitlines()[-2:]
        return Finding(name, True, f"{version}; {plugin}"), Flavor(name, version, None)
    last = (done.stderr.strip().splitlines() or [f"the process died with code {done.returncode}"])[-1]
    reason = last.partition("Error: ")[2] or last
    absent = "MissingDependencyError" in last
    return Finding(name, None if absent else False, reason), None


def _file(spec: ModelSpec, flavors: list[Flavor]) -> list[Finding]:
    needs = ", ".join(spec.plugins_required) or "nothing beyond ONNX"
    findings = [Finding("file", True, f"{spec.model}, {spec.output.format} format, {spec.precision}; needs {needs}")]
    if pose_nms.NAME in spec.plugins_required:
        findings.append(Finding("in onnxruntime", False, "it was exported for TensorRT. Export it without --backend."))
    else:
        findings.append(Finding("in onnxruntime", True, "runs"))
    for flavor in flavors:
        try:
            check_buildable(spec, flavor)
            findings.append(Finding(f"in {flavor.name}", True, "can be built"))
        except EngineError as error:
            findings.append(Finding(f"in {flavor.name}", False, str(error)))
    return findings
