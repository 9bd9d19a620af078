"""Registration of the plugins with TensorRT: the compiled library if there is one, else the Python plugins.

TensorRT finds plugins by name, version and namespace, so an engine built with one kind runs with the other.
operators/README.md specifies the operators.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..files import cache_folder
from ..operators.contract import EFFICIENT_NAME, EFFICIENT_VERSION, NAME, NAMESPACE, OWN, VERSION
from ..operators.tensorrt_plugin import make_creators
from .flavor import Flavor

LIBRARY = "libtrt_pose_plugins.so"
LIBRARY_VARIABLE = "TRT_POSE_PLUGINS"


@dataclass(frozen=True)
class LoadedPlugin:
    """Origin of the operators registered in this process.

    Attributes:
        kind: ``library``, ``python``, or ``existing`` when other code registered the operators.
        path: path of the library or module.
        version: version of the operators.
    """

    kind: str
    path: str
    version: str = VERSION

    def __str__(self) -> str:
        return f"plugins {self.version} from {self.path}" + (" (Python)" if self.kind == "python" else "")


def load_plugins(flavor: Flavor, library: str | Path | None = None) -> LoadedPlugin:
    """Registers the operators with TensorRT, once per process.

    The library is searched in this order: ``library``, ``$TRT_POSE_PLUGINS``, the package, ``plugins/build`` of a
    checkout, the cache folder, ``$LD_LIBRARY_PATH``. If none loads, or the name given is ``python``, the Python plugins
    are registered.

    Raises:
        EngineError: a named library is missing, does not load or lacks an operator, or another one is registered.
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


_loaded: dict[str, LoadedPlugin] = {}  # by flavor: the bindings of 10.3 return a new registry object on each call
_kept_alive: list[Any] = []  # TensorRT keeps no reference to a creator


def named_libraries() -> Iterator[Path]:
    """Yields the library that ``$TRT_POSE_PLUGINS`` names, if it names one."""
    wanted = os.environ.get(LIBRARY_VARIABLE, "")
    if wanted and wanted != "python":
        yield Path(wanted)


def find_libraries() -> Iterator[Path]:
    """Yields the existing copies of the compiled library, the one in the package first."""
    return (path for path in _places() if path.exists())


def _places() -> Iterator[Path]:
    package = Path(__file__).resolve().parent.parent
    yield package / LIBRARY
    yield package.parent / "plugins" / "build" / LIBRARY
    yield cache_folder("plugins") / LIBRARY
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")):
        yield Path(folder) / LIBRARY


def _load_library(registry: Any, path: Path) -> LoadedPlugin:
    if not path.exists():
        raise EngineError(f"loading plugins: there is no {path}. Build it with make plugin, or correct the path.")
    loaded = registry.load_library(str(path)) is not None
    missing = [name for name in OWN if registry.get_creator(name, VERSION, NAMESPACE) is None]
    if not loaded or missing:
        raise EngineError(
            f"loading plugins: {path} does not load into this TensorRT or has no {(missing or [NAME])[0]} version"
            f" {VERSION}. Build it again with make plugin."
        )
    return LoadedPlugin("library", str(path))


def _try_library(registry: Any, path: Path) -> LoadedPlugin | None:
    """Loads a library that the caller did not name; returns None when it does not load."""
    try:
        return _load_library(registry, path)
    except EngineError:
        return None


def _register_python(registry: Any, trt: Any) -> LoadedPlugin:
    for creator in make_creators(trt):
        if registry.get_creator(creator.name, VERSION, NAMESPACE) is not None:  # of a library without the other
            continue
        if not registry.register_creator(creator, NAMESPACE):
            raise EngineError(f"loading plugins: TensorRT refused to register {creator.name}. Restart Python.")
        _kept_alive.append(creator)
    return LoadedPlugin("python", __file__)


def registered(flavor: Flavor) -> tuple[str, ...]:
    """Returns the registered NMS operators: those of trt_pose, and EfficientNMS_TRT, which TensorRT-RTX lacks."""
    if not flavor.is_rtx:  # registers TensorRT's own plugins
        flavor.module.init_libnvinfer_plugins(None, "")
    registry = flavor.module.get_plugin_registry()
    known = (*((name, VERSION) for name in OWN), (EFFICIENT_NAME, EFFICIENT_VERSION))
    return tuple(name for name, version in known if registry.get_creator(name, version, NAMESPACE) is not None)
