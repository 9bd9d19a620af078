"""Options of a benchmark, named as in trtexec."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True)
class BenchOptions:
    """Settings of a measurement; the defaults of times and counts are those of trtexec.

    Attributes:
        warm_up_ms: time of unmeasured queries per file, ms.
        duration_s: least measured time per file, s.
        iterations: least number of queries per file.
        avg_runs: queries per stream in one turn of a file.
        percentiles: percentiles to report, %.
        streams: number of concurrent queries, each on its own thread or CUDA stream.
        batch: images per query of a file with a symbolic batch; 1 when None.
        cuda_graph: engines only: whether to launch captured work. trtexec 11 does by default, trtexec 10 does not.
        spin_wait: engines only: whether to poll for completion. trtexec 11 does by default, trtexec 10 does not.
        transfers: engines only: whether to count the copies. trtexec 10 does by default, trtexec 11 does not.
        end_to_end: whether to also measure decoding, letterbox and reading of the results.
        images: folder, glob or file; None takes the photograph in the package.
        inputs: pairs of input name and ``.npy`` or raw file to use instead of images.
        threads: number of threads of ONNX Runtime.
        provider: execution provider of ONNX Runtime.
    """

    warm_up_ms: float = 200.0
    duration_s: float = 3.0
    iterations: int = 10
    avg_runs: int = 10
    percentiles: tuple[float, ...] = (90.0, 95.0, 99.0)
    streams: int = 1
    batch: int | None = None
    cuda_graph: bool = True
    spin_wait: bool = True
    transfers: bool = True
    end_to_end: bool = False
    images: str | None = None
    inputs: tuple[tuple[str, str], ...] = ()
    threads: int | None = None
    provider: str | None = None

    def __post_init__(self) -> None:
        for name, most in (("iterations", None), ("avg_runs", 100_000), ("streams", 1024), ("batch", None)):
            value = getattr(self, name)
            if value is not None and not (value >= 1 and (most is None or value <= most)):
                expected = "1 or more" if most is None else f"1 to {most}"
                raise UsageError(f"--{_word(name)}: got {value}, expected {expected}.")
        for name in ("warm_up_ms", "duration_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"--{_word(name)}: got {value}, expected a number from 0.")
        if not self.percentiles or not all(0 < share <= 100 for share in self.percentiles):
            raise UsageError(f"--percentile: got {self.percentiles}, expected numbers over 0 up to 100.")
        if self.end_to_end and (self.streams > 1 or self.inputs or (self.batch or 1) != 1):
            raise UsageError(
                "--end-to-end: it follows one image at a time from its file on; --infStreams, --batch and --loadInputs"
                " are for queries alone. Leave them out."
            )
        if self.images is not None and self.inputs:
            raise UsageError("--images and --loadInputs: both say what to feed. Give one of them.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Parses percentiles such as ``90,95,99``. Raises UsageError for other text."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--percentile: got {text!r}, expected numbers with commas between.") from None


def parse_inputs(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """Parses ``name:file`` pairs. Raises UsageError for other text or a missing file."""
    pairs = []
    for text in texts:
        name, colon, path = text.rpartition(":")
        if not colon or not name or not Path(path).is_file():
            raise UsageError(f"--loadInputs: got {text!r}, expected name:file with a file that exists.")
        pairs.append((name, path))
    return tuple(pairs)


def _word(name: str) -> str:
    """Returns trtexec's name of a field."""
    return {
        "avg_runs": "avgRuns",
        "streams": "infStreams",
        "warm_up_ms": "warmUp",
        "duration_s": "duration",
    }.get(name, name)
