"""The NMS plugins for TensorRT: the compiled library where there is one, else the same operators in Python.

All are found by name, version and namespace, so an engine built with one runs with the other. The specification is
plugins/README.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..nms.contract import DETECTION_NAME, EFFICIENT_NAME, EFFICIENT_VERSION, NAME, NAMESPACE, VERSION
from ..nms.tensorrt_plugin import make_creators
from .flavor import Flavor

LIBRARY = "libtrt_pose_plugins.so"
LIBRARY_VARIABLE = "TRT_POSE_PLUGINS"


@dataclass(frozen=True)
class LoadedPlugin:
    """How the operator came into this process.

    Attributes:
        kind: ``library``, ``python``, or ``existing`` when somebody else registered it.
        path: of the library or module. version: of the operator.
    """

    kind: str
    path: str
    version: str = VERSION

    def __str__(self) -> str:
        return f"{NAME} {self.version} from {self.path}" + (" (Python)" if self.kind == "python" else "")


def load_plugins(flavor: Flavor, library: str | Path | None = None) -> LoadedPlugin:
    """Registers the operators with TensorRT, once per process.

    Looked for in this order: ``library``, ``$TRT_POSE_PLUGINS``, the package, ``plugins/build`` of a checkout, the
    loader's path; where there is none, or ``python`` is asked for by name, the Python plugin serves.

    Raises:
        EngineError: a named library is missing, does not load, or lacks an operator.
    """
    registry = flavor.module.get_plugin_registry()
    wanted = str(library or os.environ.get(LIBRARY_VARIABLE) or "")
    if registry.get_creator(NAME, VERSION, NAMESPACE) is not None:
        found = _loaded.get(flavor.name, LoadedPlugin("existing", "this process"))
        if wanted and wanted != found.kind and Path(wanted).resolve() != Path(found.path).resolve():
            raise EngineError(
                f"loading plugins: {wanted} was asked for, but {found} is registered in this process already."
                " Ask for it first, or in a new process."
            )
        return found
    if wanted and wanted != "python":
        found = _load_library(registry, Path(wanted))
    else:
        places = () if wanted else find_libraries()
        found = next(filter(None, (_try_library(registry, path) for path in places)), None) or _register_python(
            registry, flavor.module
        )
    _loaded[flavor.name] = found
    return found


_loaded: dict[str, LoadedPlugin] = {}  # by flavor: the bindings of 10.3 give another registry object each time
_kept_alive: list[Any] = []  # TensorRT keeps no reference to a creator


def find_libraries() -> Iterator[Path]:
    """The compiled library wherever it lies, the package first."""
    return (path for path in _places() if path.exists())


def _places() -> Iterator[Path]:
    package = Path(__file__).resolve().parent.parent
    yield package / LIBRARY
    yield package.parent / "plugins" / "build" / LIBRARY
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")):
        yield Path(folder) / LIBRARY


def _load_library(registry: Any, path: Path) -> LoadedPlugin:
    if not path.exists():
        raise EngineError(f"loading plugins: there is no {path}. Build it with make plugin, or correct the path.")
    loaded = registry.load_library(str(path)) is not None
    missing = [name for name in (NAME, DETECTION_NAME) if registry.get_creator(name, VERSION, NAMESPACE) is None]
    if not loaded or missing:
        raise EngineError(
            f"loading plugins: {path} does not load into this TensorRT or has no {(missing or [NAME])[0]} version"
            f" {VERSION}. Build it again with make plugin."
        )
    return LoadedPlugin("library", str(path))


def _try_library(registry: Any, path: Path) -> LoadedPlugin | None:
    """A library that was found, not asked for: where it does not serve, the Python plugin does."""
    try:
        return _load_library(registry, path)
    except EngineError:
        return None


def _register_python(registry: Any, trt: Any) -> LoadedPlugin:
    for creator in make_creators(trt):
        if registry.get_creator(creator.name, VERSION, NAMESPACE) is not None:  # of a library that has only the other
            continue
        if not registry.register_creator(creator, NAMESPACE):
            raise EngineError(f"loading plugins: TensorRT refused to register {creator.name}. Restart Python.")
        _kept_alive.append(creator)
    return LoadedPlugin("python", __file__)


def registered(flavor: Flavor) -> tuple[str, ...]:
    """The NMS operators in the registry: ours, and TensorRT's own EfficientNMS_TRT, which TensorRT-RTX lacks."""
    if not flavor.is_rtx:  # puts TensorRT's own into the registry
        flavor.module.init_libnvinfer_plugins(None, "")
    registry = flavor.module.get_plugin_registry()
    known = ((NAME, VERSION), (DETECTION_NAME, VERSION), (EFFICIENT_NAME, EFFICIENT_VERSION))
    return tuple(name for name, version in known if registry.get_creator(name, version, NAMESPACE) is not None)
