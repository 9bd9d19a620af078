"""Opens an engine in a process of its own: ``python -m trt_pose.trt.probe FILE FLAVOR`` prints JSON about it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import EngineError, PoseError
from ..files import file_sha256
from .flavor import find_flavor
from .inspector import open_engine, read_layers
from .logger import Log
from .plugins import load_plugins
from .sidecar import Sidecar

_TIMEOUT_S = 300


def probe(path: str | Path, flavor: str) -> dict[str, Any]:
    """What TensorRT says about an engine: ``tensors``, ``layers`` per type, ``device_memory_bytes``.

    Raises:
        EngineError: it does not load here, with TensorRT's reason.
    """
    command = [sys.executable, "-m", "trt_pose.trt.probe", str(path), flavor]
    try:
        done = subprocess.run(  # noqa: S603 - our own code
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"opening {path}: TensorRT gave no answer in {_TIMEOUT_S} s. Build it again.") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise EngineError(
            f"opening {path}: TensorRT crashed (exit code {done.returncode}): {last[:200]}. Build it again."
        )
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise EngineError(answer["error"])
    return dict(answer)


def _open(path: str, name: str) -> dict[str, Any]:
    flavor = find_flavor(name)
    load_plugins(flavor)
    log = Log(flavor)
    engine = open_engine(flavor.module, log.logger, Path(path).read_bytes(), _may_bring_code(path))
    if engine is None:
        reason = "; ".join(log.errors[:2]) or "no reason was given"
        raise EngineError(f"opening {path} with {flavor}: {reason[:400]}. Build it on this machine.")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    layers, note = read_layers(flavor.module, engine)
    return {
        "tensors": {
            item: {
                "mode": engine.get_tensor_mode(item).name.lower(),
                "dtype": engine.get_tensor_dtype(item).name.lower(),
                "shape": list(engine.get_tensor_shape(item)),
            }
            for item in names
        },
        "layers": layers,
        "note": note,
        "device_memory_bytes": getattr(engine, "device_memory_size_v2", None),
    }


def _may_bring_code(path: str) -> bool:
    """Whether the engine's own description says it is version compatible: those carry a runtime, which is code."""
    try:
        sidecar = Sidecar.read(path)
    except EngineError:
        return False
    return bool(sidecar.options.get("version_compatible")) and sidecar.engine_sha256 == file_sha256(path)


def main() -> None:
    try:
        answer = _open(sys.argv[1], sys.argv[2])
    except PoseError as error:
        answer = {"error": str(error)}
    except Exception as error:  # the process is the boundary
        answer = {"error": f"opening {sys.argv[1]}: {type(error).__name__}: {error}. Build it again."}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
