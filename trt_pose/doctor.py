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
from .engine.plan import SUFFIXES, PlanHeader, Sidecar, file_sha256, read_header
from .engine.plugin import check_buildable
from .engine.probe import probe
from .errors import EngineError, MissingDependencyError
from .runtime.cuda import find_gpu
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
    """Looks at the installation, and at ``file`` (``.onnx`` or an engine) when given.

    Raises:
        RunnerError, EngineError: the file is missing, damaged or foreign.
    """
    engine = file is not None and Path(file).suffix.lower() in SUFFIXES
    spec = None
    if file is not None and not engine:
        from .inspect import inspect

        spec = inspect(file).spec
    header = read_header(str(file)) if engine else None
    findings = [Finding("python", True, platform.python_version())]
    findings += [_package(name) for name in _PACKAGES]
    findings.append(_providers())
    flavors = []
    for name in (TENSORRT, RTX):
        finding, flavor = _flavor(name)
        findings.append(finding)
        flavors += [flavor] if flavor else []
    gpu = _gpu()
    findings.append(
        Finding("gpu", None, "none, or no driver") if gpu is None else Finding("gpu", True, " ".join(gpu.values()))
    )
    if spec is not None:
        findings += _file(spec, flavors)
    if header is not None:
        findings += _engine(Path(str(file)), header, flavors, gpu)
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
    through = " (the plugin node in ONNX's own operators)" if pose_nms.NAME in spec.plugins_required else ""
    findings.append(Finding("in onnxruntime", True, f"runs{through}"))
    for flavor in flavors:
        try:
            check_buildable(spec, flavor)
            findings.append(Finding(f"in {flavor.name}", True, "can be built"))
        except EngineError as error:
            findings.append(Finding(f"in {flavor.name}", False, str(error)))
    return findings


def _gpu() -> dict[str, str] | None:
    try:
        return find_gpu()
    except MissingDependencyError:
        return None


def _engine(path: Path, header: PlanHeader, flavors: list[Flavor], gpu: dict[str, str] | None) -> list[Finding]:
    """Whether an engine will load here, and if not, what mends it."""
    made = f"{header.flavor} {header.version}"
    findings = [Finding("engine", True, f"built with {made}, {path.stat().st_size / 1e6:.1f} MB")]
    mend = f"Build it here: trt-pose build MODEL.onnx -o {path.name}"
    sidecar = None
    try:
        sidecar = Sidecar.read(path)
        findings.append(_described(path, sidecar))
    except EngineError as error:
        findings.append(Finding("description", False, str(error)))
    here = next((item for item in flavors if item.name == header.flavor), None)
    if here is None:
        extra = "rtx" if header.flavor == RTX else "tensorrt"
        findings.append(Finding("runtime", False, f"{header.flavor} is not installed: pip install 'trt-pose[{extra}]'"))
    else:
        findings.append(_version(header, here, sidecar, mend))
    if gpu is None:
        findings.append(Finding("device", False, "an engine needs a GPU and its driver, and there is none here"))
        return findings
    findings.append(_device(sidecar, gpu, mend))
    if here is not None:
        try:
            probe(path, here.name)
            findings.append(Finding("loads", True, "yes"))
        except EngineError as error:
            findings.append(Finding("loads", False, str(error)))
    return findings


def _described(path: Path, sidecar: Sidecar) -> Finding:
    if sidecar.engine_sha256 != file_sha256(path):
        return Finding("description", False, f"{path.name}.json belongs to another engine. Copy the right one along.")
    plugins = ", ".join(sidecar.plugins) or "none"
    return Finding("description", True, f"{sidecar.spec.model}, {sidecar.spec.precision}; plugins: {plugins}")


def _version(header: PlanHeader, here: Flavor, sidecar: Sidecar | None, mend: str) -> Finding:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")[:3]]

    forward = sidecar is not None and bool(sidecar.options.get("version_compatible"))
    if numbers(header.version) == numbers(here.version):
        return Finding("version", True, f"{here} is what built it")
    if forward and numbers(header.version) < numbers(here.version):
        return Finding("version", True, f"version compatible, built with {header.version}, {here} here")
    return Finding(
        "version", False, f"built with {header.version}, {here} here: plans load in their own version. {mend}"
    )


def _device(sidecar: Sidecar | None, gpu: dict[str, str], mend: str) -> Finding:
    capability = gpu["compute_capability"]
    wanted = () if sidecar is None else sidecar.compute_capabilities or ((sidecar.gpu or {}).get("compute_capability"),)
    wanted = tuple(filter(None, wanted))
    if not wanted:
        return Finding("device", None, f"{gpu['name']} ({capability}); what the engine is for is not known")
    compatible = sidecar is not None and bool(sidecar.options.get("hardware_compatibility"))
    fine = capability in wanted or compatible
    detail = f"built for compute capability {', '.join(map(str, wanted))}, {gpu['name']} has {capability}"
    return Finding("device", fine, detail if fine else f"{detail}. {mend}")
