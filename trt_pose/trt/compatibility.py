"""Compatibility of engines and models with the TensorRT and the GPU of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError
from ..files import file_sha256
from ..formats import find_format
from ..spec import ModelSpec
from .flavor import RTX, Flavor
from .sidecar import PlanHeader, Sidecar


@dataclass(frozen=True)
class Fit:
    """Result of a compatibility check.

    Attributes:
        fine: whether the engine fits; None when this is unknown.
        detail: the reason.
    """

    fine: bool | None
    detail: str


def version_fit(header: PlanHeader, here: Flavor, sidecar: Sidecar | None) -> Fit:
    """Checks whether the installed TensorRT loads a plan of the given version."""
    built, installed = _numbers(header.version), _numbers(here.version)
    common = min(len(built), len(installed))
    if built[:common] == installed[:common]:
        return Fit(True, f"{here} is what built it")
    forward = sidecar is not None and bool(sidecar.options.get("version_compatible"))
    # Newer versions load the plan within a major version, and from 10 to 11 (NVIDIA's engine compatibility page).
    if forward and built < installed and (built[0] == installed[0] or (built[0], installed[0]) == (10, 11)):
        return Fit(True, f"version compatible, built with {header.version}, {here} here")
    return Fit(False, f"built with {header.version}, {here} here: plans load in their own version")


def device_fit(sidecar: Sidecar | None, gpu: dict[str, str]) -> Fit:
    """Checks whether the engine was built for this GPU."""
    capability = gpu["compute_capability"]
    level = sidecar.options.get("hardware_compatibility") if sidecar else None
    wanted = sidecar.compute_capabilities if sidecar else ()
    if sidecar and not wanted and sidecar.flavor != RTX and sidecar.gpu:
        wanted = (sidecar.gpu["compute_capability"],)
    if sidecar is None or not wanted:
        built = sidecar.target if sidecar else "what is not known"
        return Fit(None, f"{gpu['name']} ({capability}); the engine is for {built}")
    fine = capability in wanted or (level == "AMPERE_PLUS" and _numbers(capability) >= [8, 0])
    return Fit(fine, f"built for compute capability {', '.join(wanted)}, {gpu['name']} has {capability}")


def check_description(path: str | Path, sidecar: Sidecar, header: PlanHeader) -> None:
    """Raises EngineError when the description beside the plan belongs to another engine."""
    if header.flavor != sidecar.flavor or sidecar.engine_sha256 != file_sha256(path):
        raise EngineError(
            f"opening {path}: {Path(path).name}.json belongs to another engine. Copy the right one along."
        )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:4]]


def check_buildable(spec: ModelSpec, flavor: Flavor) -> None:
    """Raises EngineError when ``flavor`` cannot build a model of this description."""
    if spec.input.takes_any_size:
        raise EngineError(
            f"building {spec.model} with {flavor}: it takes images of any size, and the shapes of its tensors"
            " depend on the image. Export it with --backend tensorrt --imgsz H W, or run this file with ONNX Runtime."
        )
    if not flavor.is_rtx:
        return
    layout = find_format(spec)
    if layout.rows_vary:
        raise EngineError(
            f"building {spec.model} with {flavor}: the {layout.name} format has a data-dependent number of rows"
            " (NonZero), which TensorRT-RTX cannot build. Export it in batch format."
        )
    if layout.finished and not spec.plugins_required:
        raise EngineError(
            f"building {spec.model} with {flavor}: it was exported for ONNX Runtime, and TensorRT-RTX cannot build its"
            " NonMaxSuppression. Export it with --backend tensorrt."
        )
