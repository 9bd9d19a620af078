"""Releases of Triton's image, and the TensorRT in them.

An engine runs in the TensorRT that built it, or, built with ``--versionCompatible``, in a newer one of the same major
version. The images' release notes name their TensorRT for few releases; of the others only the image itself says it.
"""

from __future__ import annotations

import re

from ..errors import EngineError, UsageError
from ..trt.compatibility import version_fit
from ..trt.flavor import TENSORRT as RUNTIME, Flavor
from .model_file import ModelFile

# From docs/introduction/release_notes.md of the branches r24.12 and r25.01 of triton-inference-server/server.
TENSORRT = {"24.12": "10.7.0", "25.01": "10.8.0"}
LATEST = "26.08"  # the newest release whose notes were seen
_RELEASE = re.compile(r"2[3-9]\.(0[1-9]|1[0-2])")


def choose_release(found: ModelFile, asked: str | None) -> tuple[str, str]:
    """Returns the release of Triton for a file, and a note on it; the note is empty for an ``.onnx`` file.

    Args:
        found: the model file.
        asked: a release such as ``25.01``; None takes one that is known to fit, else the newest.

    Raises:
        UsageError: ``asked`` is no release.
        EngineError: ``asked`` is known to have a TensorRT that does not run the engine.
    """
    if asked is not None and not _RELEASE.fullmatch(asked):
        raise UsageError(f"deploying to Triton: release is {asked!r}, expected year and month as {LATEST}.")
    if found.header is None:
        return asked or LATEST, ""
    built = found.header.version
    fitting = [
        name
        for name, version in sorted(TENSORRT.items())
        if version_fit(found.header, Flavor(RUNTIME, version, None), found.sidecar).fine
    ]
    release = asked or (fitting[-1] if fitting else LATEST)
    if release not in TENSORRT:
        return release, (
            f"The engine needs TensorRT {built}. Which one Triton {release} has is not known here: see README.md."
        )
    if release not in fitting:
        raise EngineError(
            f"deploying to Triton: the engine was built by TensorRT {built}, Triton {release} has {TENSORRT[release]}."
            f" Build it in nvcr.io/nvidia/tensorrt:{release}-py3, or name another release."
        )
    return release, f"The engine and Triton {release} both have TensorRT {TENSORRT[release]}."
