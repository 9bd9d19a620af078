"""Which TensorRT is installed: TensorRT 10.3 to 11.x, or TensorRT-RTX."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError, MissingDependencyError, UsageError

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"


@dataclass(frozen=True)
class Flavor:
    """An importable TensorRT.

    Attributes:
        name: ``tensorrt`` or ``tensorrt_rtx``. version: of the package. module: the imported package.
    """

    name: str
    version: str
    module: Any

    @property
    def is_rtx(self) -> bool:
        return self.name == RTX

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"


def find_flavor(name: str | None = None) -> Flavor:
    """Imports TensorRT.

    Args:
        name: ``tensorrt`` or ``tensorrt_rtx``; None takes the first of them that is installed.

    Raises:
        MissingDependencyError: none is installed. UsageError: an unknown name. EngineError: one that does not load.
    """
    if name not in (None, TENSORRT, RTX):
        raise UsageError(f"choosing TensorRT: got {name!r}, expected {TENSORRT} or {RTX}. Correct it.")
    for candidate in (name,) if name else (TENSORRT, RTX):
        if importlib.util.find_spec(candidate) is None:
            continue
        try:
            module = importlib.import_module(candidate)
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(f"importing {candidate}: {error}. Reinstall it with its libraries.") from error
        if candidate == RTX:
            mend_rtx_library()
        return Flavor(candidate, str(module.__version__), module)
    extra = "rtx" if name == RTX else "tensorrt"
    raise MissingDependencyError(
        f"looking for {name or 'TensorRT'}: it is not installed. Run: pip install 'trt-pose[{extra}]'"
    )


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
