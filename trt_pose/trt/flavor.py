"""Detection and import of the installed TensorRT: TensorRT 10.3 to 11.x, or TensorRT-RTX."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, UsageError
from ..optional import missing

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"


@dataclass(frozen=True)
class Flavor:
    """An installed TensorRT.

    Attributes:
        name: ``tensorrt`` or ``tensorrt_rtx``.
        version: version of the package.
        module: the imported package; None if it is not imported in this process.
        plugin: origin of its plugins, if this was determined in another process.
        operators: the NMS operators that it has, if these were determined in another process.
        cuda: major version of the CUDA that it was built for; 0 when unknown, as for system packages.
    """

    name: str
    version: str
    module: Any
    plugin: str = ""
    operators: tuple[str, ...] = ()
    cuda: int = 0

    @property
    def is_rtx(self) -> bool:
        return self.name == RTX

    @property
    def has_implicit_int8(self) -> bool:
        """Whether it has calibrators and precision flags; TensorRT 10 is the last version with them."""
        return not self.is_rtx and int(self.version.partition(".")[0]) <= 10

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"


def element_name(trt: Any, kind: Any) -> str:
    """Returns NumPy's name of an element type of the TensorRT module ``trt``."""
    return str(np.dtype(trt.nptype(kind)).name)


def find_flavor(name: str | None = None) -> Flavor:
    """Imports TensorRT.

    Args:
        name: ``tensorrt`` or ``tensorrt_rtx``; None takes the first of them that is installed.

    Raises:
        MissingDependencyError: none is installed.
        UsageError: the name is unknown.
        EngineError: the package cannot be imported.
    """
    candidate = describe_flavor(name).name
    try:
        module = importlib.import_module(candidate)
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"importing {candidate}: {error}. Reinstall it with its libraries.") from error
    if candidate == RTX:
        mend_rtx_library()
    return Flavor(candidate, str(module.__version__), module, cuda=_cuda_of(candidate))


def describe_flavor(name: str | None = None) -> Flavor:
    """Returns name and version of the TensorRT that :func:`find_flavor` would import; ``module`` is None.

    Raises:
        MissingDependencyError: none is installed.
        UsageError: the name is unknown.
    """
    if name not in (None, TENSORRT, RTX):
        raise UsageError(f"choosing TensorRT: got {name!r}, expected {TENSORRT} or {RTX}.")
    for candidate in (name,) if name else (TENSORRT, RTX):
        found = importlib.util.find_spec(candidate)
        if found is not None and found.origin is not None:  # a folder of that name is not a package
            return Flavor(candidate, _installed_version(candidate), None, cuda=_cuda_of(candidate))
    raise missing(name or TENSORRT, "looking for TensorRT")


def _installed_version(name: str) -> str:
    # Distributions are named after their CUDA version; TensorRT from a system package has no distribution.
    for suffix in ("", "_cu13", "_cu12", "_cu13_bindings", "_cu12_bindings"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(f"{name}{suffix}")
    return str(importlib.import_module(name).__version__)


def _cuda_of(name: str) -> int:
    """Returns the CUDA version in the name of the distribution that holds the libraries; 0 without one."""
    for cuda in (13, 12):
        with suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(f"{name}_cu{cuda}_libs")
            return cuda
    return 0


def mend_rtx_library() -> None:
    """Links ``libtensorrt_rtx.so`` to the versioned library of the RTX wheel, if the link is missing.

    When a graph holds a plugin, TensorRT-RTX's parser looks for ``libtensorrt_rtx.so``. Wheels up to 1.7 have only
    ``libtensorrt_rtx.so.1``, with which the parser aborts the process.

    Raises:
        EngineError: the link is missing and cannot be made.
    """
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or not found.submodule_search_locations:
        return
    folder = Path(found.submodule_search_locations[0])
    link = folder / "libtensorrt_rtx.so"
    versioned = sorted(folder.glob("libtensorrt_rtx.so.*"))
    if link.exists() or not versioned:
        return
    try:
        link.symlink_to(versioned[0].name)
    except FileExistsError:  # another process made the link
        return
    except OSError as error:
        raise EngineError(
            f"preparing TensorRT-RTX: {link} is missing, and its parser aborts without it ({error.strerror})."
            f" Run: ln -s {versioned[0].name} {link}"
        ) from error
