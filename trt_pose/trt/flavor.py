"""Which TensorRT is installed: TensorRT 10.3 to 11.x, or TensorRT-RTX."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError, UsageError
from ..optional import missing

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"


@dataclass(frozen=True)
class Flavor:
    """An importable TensorRT.

    Attributes:
        name: ``tensorrt`` or ``tensorrt_rtx``. version: of the package. module: the imported package.
        plugin: where its NMS plugin came from, when it was asked in another process.
        operators: the NMS operators it has, then.
    """

    name: str
    version: str
    module: Any
    plugin: str = ""
    operators: tuple[str, ...] = ()

    @property
    def is_rtx(self) -> bool:
        return self.name == RTX

    @property
    def has_implicit_int8(self) -> bool:
        """Whether it still has calibrators and precision switches, which ended with TensorRT 10."""
        return not self.is_rtx and int(self.version.partition(".")[0]) <= 10

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"


def find_flavor(name: str | None = None) -> Flavor:
    """Imports TensorRT.

    Args:
        name: ``tensorrt`` or ``tensorrt_rtx``; None takes the first of them that is installed.

    Raises:
        MissingDependencyError: none is installed. UsageError: an unknown name. EngineError: one that does not load.
    """
    candidate = describe_flavor(name).name
    try:
        module = importlib.import_module(candidate)
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"importing {candidate}: {error}. Reinstall it with its libraries.") from error
    if candidate == RTX:
        mend_rtx_library()
    return Flavor(candidate, str(module.__version__), module)


def describe_flavor(name: str | None = None) -> Flavor:
    """The TensorRT that would be imported, without importing it: name and version only.

    Raises:
        MissingDependencyError: none is installed. UsageError: an unknown name.
    """
    if name not in (None, TENSORRT, RTX):
        raise UsageError(f"choosing TensorRT: got {name!r}, expected {TENSORRT} or {RTX}. Correct it.")
    for candidate in (name,) if name else (TENSORRT, RTX):
        found = importlib.util.find_spec(candidate)
        if found is not None and found.origin is not None:  # a folder of that name is no package
            return Flavor(candidate, _installed_version(candidate), None)
    raise missing(name or TENSORRT, "looking for TensorRT")


def _installed_version(name: str) -> str:
    # The distributions are named after the CUDA they are for; TensorRT of a system package has no distribution.
    for suffix in ("", "_cu13", "_cu12", "_cu13_bindings", "_cu12_bindings"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(f"{name}{suffix}")
    return str(importlib.import_module(name).__version__)


def mend_rtx_library() -> None:
    """Gives the RTX wheel's library the unversioned name its own parser looks for when a graph holds a plugin.

    Without ``libtensorrt_rtx.so`` beside ``libtensorrt_rtx.so.1`` (wheels up to 1.7) the parser aborts the process.

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
    except FileExistsError:  # another process was quicker
        return
    except OSError as error:
        raise EngineError(
            f"preparing TensorRT-RTX: {link} is missing, and its parser aborts without it ({error.strerror})."
            f" Run: ln -s {versioned[0].name} {link}"
        ) from error
