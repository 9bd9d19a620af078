"""Opens an engine in a process of its own: ``python -m trt_pose.engine.probe FILE FLAVOR`` prints JSON about it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import EngineError, PoseError
from .flavor import find_flavor
from .plugin import load_plugins
from .worker import Log, count_types

_TIMEOUT_S = 300


def probe(path: str | Path, flavor: str) -> dict[str, Any]:
    """What TensorRT says about an engine: ``tensors``, ``layers`` per type, ``device_memory_bytes``.

    Raises:
        EngineError: it does not load here, with TensorRT's reason.
    """
    command = [sys.executable, "-m", "trt_pose.engine.probe", str(path), flavor]
    done = subprocess.run(  # noqa: S603 - our own code
        command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
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
    trt = flavor.module
    load_plugins(flavor)
    log = Log(trt)
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        reason = "; ".join(log.errors[:2]) or "no reason was given"
        raise EngineError(f"opening {path} with {flavor}: {reason[:400]}. Build it on this machine.")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    layers, note = count_types(
        json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    )
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


def main() -> None:
    try:
        answer = _open(sys.argv[1], sys.argv[2])
    except PoseError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
