"""The options of ``trt-pose predict`` for many images: several processes, a share of the sources, going on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..trt.sidecar import SUFFIXES
from .app import read_gpus

if TYPE_CHECKING:
    from ..workers import Found, Job


@dataclass(frozen=True)
class LargeJob:
    """How the work is divided.

    Attributes:
        model: path of the file.
        workers: number of processes; None for one, or one per device.
        device: ``0`` or ``0,1``: GPUs of an engine.
        shard: ``i/n``: the i-th of n shares of the sources, from 1.
        lines: the file of JSON lines to go on with; None to begin anew.
    """

    model: str
    workers: int | None
    device: str | None
    shard: str | None
    lines: Path | None

    def __post_init__(self) -> None:
        if self.device is not None and Path(self.model).suffix.lower() not in SUFFIXES:
            raise UsageError(f"--device: it is for engines, got {self.model}. Use --provider cuda for .onnx files.")
        if self.processes > 1 and not Path(self.model).is_file():
            raise UsageError(f"--workers: it takes a file, got {self.model}. Export the model and give the file.")

    @property
    def devices(self) -> tuple[int, ...]:
        return read_gpus("--device", self.device)

    @property
    def processes(self) -> int:
        return max(self.workers or 1, len(self.devices))

    def choose(self, sources: list[str], recursive: bool) -> Any:
        """Returns the sources of this run: as they are, or a list of files, which is empty when nothing is left."""
        if self.processes == 1 and self.shard is None and self.lines is None:
            # Numbers are cameras; one source stays one.
            found = [int(text) if _is_camera(text) else text for text in sources]
            return found[0] if len(found) == 1 else found
        from ..images.sources import STANDARD_INPUT, list_sources
        from ..results.sinks import finished_sources

        for text in sources:
            if _is_camera(text) or text in STANDARD_INPUT:
                raise UsageError(
                    f"--workers, --device with several, --shard, --resume: they are for files, got {text!r}. Leave them"
                    " out, or name files."
                )
        files = list_sources(sources, recursive)
        if self.shard is not None:
            share, count = _parse_shard(self.shard)
            files = files[share - 1 :: count]
        if self.lines is not None and self.lines.exists():
            done = finished_sources(self.lines)
            files = [name for name in files if name not in done]
        return files

    def stream(self, job: Job) -> Iterator[Found]:
        """Yields the results of several processes, with a progress bar."""
        from ..progress import track
        from ..workers import stream

        with closing(stream(job, self.processes, self.devices)) as results:
            yield from track(results, "predicting", len(job.sources))


def _is_camera(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _parse_shard(text: str) -> Sequence[int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard: got {text!r}, expected I/N with I from 1 to N, as 3/8.")
    return int(match[1]), int(match[2])
