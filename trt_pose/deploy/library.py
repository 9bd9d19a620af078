"""The plugin library that a server or a pipeline opens for an engine."""

from __future__ import annotations

from pathlib import Path

from ..errors import EngineError, UsageError
from ..files import check_readable
from ..operators.contract import EFFICIENT_NAME
from ..trt.plugins import LIBRARY, find_libraries, named_libraries
from .model_file import ModelFile

_ELF = b"\x7fELF"  # the first bytes of a shared library


def find_library(found: ModelFile, named: str | Path | None, doing: str) -> Path | None:
    """Returns the plugin library that another program has to open before it reads an engine; None if none is needed.

    Args:
        found: the model file.
        named: the library that the caller asks for; None takes the one that is found.
        doing: start of the message of an error.

    Raises:
        UsageError: the file needs no library.
        EngineError: there is none, or it is none.
    """
    sidecar, needed = found.sidecar, [name for name in found.spec.plugins_required if name != EFFICIENT_NAME]
    if sidecar is None or not needed or carries_plugins(found):
        if named is not None:
            raise UsageError(f"{doing}: {found.path.name} needs no plugin library. Leave plugins out.")
        return None
    places = [Path(named)] if named is not None else [*named_libraries(), *find_libraries()]
    if not places:
        raise EngineError(
            f"{doing}: {found.path.name} needs {', '.join(needed)}, which comes from a library, and there"
            " is none here. Make it with trt-pose plugin build, and name it with --plugins."
        )
    library = check_readable(places[0], "reading the plugin library", EngineError)
    with library.open("rb") as file:
        if file.read(len(_ELF)) != _ELF:
            raise EngineError(f"{doing}: {library} is not a shared library. Name {LIBRARY}.")
    return library.resolve()


def carries_plugins(found: ModelFile) -> bool:
    """Whether an engine holds the plugin library that it needs."""
    return bool(found.sidecar and found.sidecar.options.get("plugins_to_serialize"))
