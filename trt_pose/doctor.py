"""Checks of the installation, and of whether a model file runs on it."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import EngineError, MissingDependencyError, first_line
from .gpu.device import driver_version, find_gpu
from .gpu.kernels import nvrtc_version
from .operators import contract
from .optional import BACK_TO_HEADLESS, OVER_ONNXRUNTIME
from .spec import ModelSpec
from .trt.compatibility import Fit, check_buildable, check_description, device_fit, version_fit
from .trt.flavor import RTX, TENSORRT, Flavor, find_flavor
from .trt.inspector import probe
from .trt.isolated import call
from .trt.plugins import load_plugins, registered
from .trt.sidecar import SUFFIXES, PlanHeader, Sidecar, read_header

if TYPE_CHECKING:
    from .inspection import Inspection

_PACKAGES = (
    "trt-pose",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "av",
    "onnxruntime",
    "openvino",
    "torch",
    "onnx",
    "onnx-graphsurgeon",
    "onnxslim",
    "cuda-core",
    "cuda-bindings",
    "polygraphy",
    "faster-coco-eval",
    "matplotlib",
    "supervision",
    "trackers",
    "torchvision",
)
# Modules of NVIDIA-AI-IOT/trt_pose, whose package has the same name.
_OTHER_PROJECT = ("parse_objects.py", "draw_objects.py", "coco.py")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: the thing that was checked.
        fine: True when it works, False when it does not, None when it is only absent or cannot be judged.
        detail: version, reason or remedy.
    """

    what: str
    fine: bool | None
    detail: str


def examine(file: str | Path | None = None) -> list[Finding]:
    """Checks the installation and, when given, ``file`` (``.onnx`` or an engine).

    Raises:
        RunnerError: the ONNX file is missing or damaged.
        EngineError: the engine is missing, truncated or not a TensorRT plan.
    """
    engine = file is not None and Path(file).suffix.lower() in SUFFIXES
    onnx = None
    if file is not None and not engine:
        from .inspection import inspect

        onnx = inspect(file)
    header = read_header(str(file)) if engine else None
    findings = [Finding("python", True, platform.python_version())]
    findings += _other_project(sys.path)
    findings += [_package(name) for name in _PACKAGES]
    findings += [*_opencv(), *_onnxruntime()]
    flavors = []
    for name in (TENSORRT, RTX):
        finding, flavor = _flavor(name)
        findings.append(finding)
        flavors += [flavor] if flavor else []
    finding, gpu = _gpu()
    findings += [finding, *_cuda(flavors)]
    if onnx is not None:
        findings += _file(onnx, onnx.spec, flavors) if onnx.spec else _foreign(onnx)
    if header is not None:
        findings += _engine(Path(str(file)), header, flavors, gpu)
    return findings


def _other_project(folders: Sequence[str]) -> list[Finding]:
    """Returns a finding per folder that holds NVIDIA-AI-IOT/trt_pose, which shares the name of this package."""
    packages = [Path(folder or ".") / "trt_pose" for folder in folders]
    return [
        Finding(
            "another trt_pose",
            False,
            f"{package} is of NVIDIA-AI-IOT/trt_pose, another project, and hides this one or is hidden by it. Run: pip"
            " uninstall trt_pose, or use another environment or working directory",
        )
        for package in dict.fromkeys(packages)
        if any((package / name).exists() for name in _OTHER_PROJECT)
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, None, "not installed")


def _opencv() -> list[Finding]:
    """Returns a finding when two OpenCVs share the folder cv2, where the one installed last is used."""
    found = _package("opencv-python")
    if not found.fine:
        return []
    detail = (
        f"{found.detail} lies over opencv-python-headless. Where cv2 does not load for want of libGL, run:"
        f" {BACK_TO_HEADLESS}"
    )
    return [Finding("opencv-python", None, detail)]


def _onnxruntime() -> list[Finding]:
    """Returns what ONNX Runtime runs on, and why it does not on what a package for a GPU was installed for."""
    from .runtime.ort import find_providers

    providers = find_providers()
    loaded = ", ".join(name for name, fault in providers.items() if not fault)
    findings = [Finding("onnxruntime providers", True, loaded)]
    findings += [Finding(f"onnxruntime {name}", None, fault) for name, fault in providers.items() if fault]
    gpu = _package("onnxruntime-gpu")
    if gpu.fine and "CUDA" in providers:
        findings.append(gpu)
    elif gpu.fine:
        detail = f"{gpu.detail} lies under onnxruntime, which was installed later and lacks CUDA. Run: "
        findings.append(Finding("onnxruntime-gpu", None, detail + OVER_ONNXRUNTIME))
    return findings


def _flavor(name: str) -> tuple[Finding, Flavor | None]:
    try:
        # In a separate process: TensorRT and TensorRT-RTX cannot share one, and a crash must not end the checks.
        flavor = call(_load_flavor, name, doing=f"importing {name}")
    except MissingDependencyError as error:
        return Finding(name, None, str(error)), None
    except Exception as error:  # the bindings can raise any exception
        return Finding(name, False, first_line(error)), None
    return Finding(name, True, f"{flavor.version}; {flavor.plugin}; operators {', '.join(flavor.operators)}"), flavor


def _load_flavor(name: str) -> Flavor:
    """Returns an installed TensorRT with its plugin and NMS operators. Its module is left out: it cannot be pickled."""
    flavor = find_flavor(name)
    plugin = load_plugins(flavor)
    return replace(flavor, module=None, plugin=str(plugin), operators=registered(flavor))


def _foreign(onnx: Inspection) -> list[Finding]:
    """Describes a file that trt_pose did not write."""
    heads = onnx.heads or ()
    use = f"trt-pose attach {Path(onnx.path).name} -o pose.onnx{f' --head {heads[0]}' if len(heads) == 1 else ''}"
    fits = f"fits {', '.join(heads)}: {use}" if heads else "its outputs fit no head of trt-pose attach"
    return [
        Finding("file", True, f"of another toolkit, {onnx.precision}; {fits}"),
        Finding("in onnxruntime", not onnx.refusal, onnx.refusal or "opens"),
    ]


def _file(onnx: Inspection, spec: ModelSpec, flavors: list[Flavor]) -> list[Finding]:
    needs = ", ".join(spec.plugins_required) or "nothing beyond ONNX"
    findings = [Finding("file", True, f"{spec.model}, {spec.output.format} format, {spec.precision}; needs {needs}")]
    through = " (its plugin nodes in ONNX's own operators)" if spec.plugins_required else ""
    findings.append(Finding("in onnxruntime", not onnx.refusal, onnx.refusal or f"runs{through}"))
    if onnx.changed is not None:
        changed = (
            "changed since trt_pose wrote it: copy or export it again; if a tool of yours changed it, describe it anew"
            " with trt-pose attach --spec-from"
        )
        findings.append(Finding("contents", not onnx.changed, changed if onnx.changed else "as trt_pose wrote them"))
    for flavor in flavors:
        try:
            check_buildable(spec, flavor)
            findings.append(Finding(f"in {flavor.name}", True, "can be built"))
        except EngineError as error:
            # A file that was exported for ONNX Runtime is not wrong because TensorRT cannot build it.
            meant = False if spec.plugins_required else None
            findings.append(Finding(f"in {flavor.name}", meant, str(error)))
    return findings


def _gpu() -> tuple[Finding, dict[str, str] | None]:
    try:
        gpu = find_gpu()
    except MissingDependencyError as error:
        return Finding("gpu", None, str(error)), None
    if gpu is None:
        return Finding("gpu", None, "none, or no driver"), None
    return Finding("gpu", True, f"{gpu['name']}, compute capability {gpu['compute_capability']}"), gpu


def _cuda(flavors: list[Flavor]) -> list[Finding]:
    """Compares the CUDA of the driver with that of NVRTC and of TensorRT; a driver takes nothing newer than its own."""
    try:
        driver, nvrtc = driver_version(), nvrtc_version()
    except MissingDependencyError:
        return []
    if driver is None:
        return []
    findings = [Finding("driver", True, f"supports CUDA {driver[0]}.{driver[1]}")]
    if nvrtc is not None:
        fits = nvrtc[0] <= driver[0]
        mend = f". Update the driver, or run: pip install 'cuda-bindings[all]<{driver[0] + 1}'"
        findings.append(Finding("nvrtc", fits, f"of CUDA {nvrtc[0]}.{nvrtc[1]}{'' if fits else mend}"))
    for flavor in flavors:
        if flavor.cuda > driver[0]:
            mend = f"Update the driver, or install {flavor.name}-cu{driver[0]}"
            findings.append(Finding(f"cuda of {flavor.name}", False, f"built for CUDA {flavor.cuda}. {mend}"))
    return findings


def _engine(path: Path, header: PlanHeader, flavors: list[Flavor], gpu: dict[str, str] | None) -> list[Finding]:
    """Checks whether an engine loads here, and names the remedy where it does not."""
    made = f"{header.flavor} {header.version}"
    findings = [Finding("engine", True, f"built with {made}, {path.stat().st_size / 1e6:.1f} MB")]
    mend = f"Build it here: trt-pose build MODEL.onnx -o {path.name}"
    sidecar = None
    try:
        sidecar = Sidecar.read(path)
        findings.append(_described(path, sidecar, header))
    except EngineError as error:
        findings.append(Finding("description", False, str(error)))
    here = next((item for item in flavors if item.name == header.flavor), None)
    if here is None:
        findings.append(Finding("runtime", False, f"{header.flavor} is not installed: pip install {header.flavor}"))
    else:
        findings.append(_finding("version", version_fit(header, here, sidecar), mend))
        findings += _plugins(sidecar, here) if sidecar else []
    if gpu is None:
        findings.append(Finding("device", False, "an engine needs a GPU and its driver, and there is none here"))
        return findings
    findings.append(_finding("device", device_fit(sidecar, gpu), mend))
    if here is not None:
        try:
            probe(path, here.name)
            findings.append(Finding("loads", True, "yes"))
        except EngineError as error:
            findings.append(Finding("loads", False, str(error)))
    return findings


def _described(path: Path, sidecar: Sidecar, header: PlanHeader) -> Finding:
    try:
        check_description(path, sidecar, header)
    except EngineError as error:
        return Finding("description", False, str(error))
    return Finding("description", True, f"{sidecar.spec.model}, {sidecar.spec.precision}, for {sidecar.target}")


def _finding(what: str, fit: Fit, mend: str) -> Finding:
    return Finding(what, fit.fine, f"{fit.detail}. {mend}" if fit.fine is False else fit.detail)


def _plugins(sidecar: Sidecar, here: Flavor) -> list[Finding]:
    """Checks whether the plugins that an engine needs are registered."""
    findings = []
    for name in sidecar.plugins:
        found = name in here.operators
        ours = name in contract.OWN
        mend = "Build the library: make plugin" if ours else "Load its library first"
        where = here.plugin if ours else "TensorRT's own"
        findings.append(Finding(f"plugin {name}", found, where if found else f"not registered. {mend}"))
    return findings
