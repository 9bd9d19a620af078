"""Runs of NVIDIA's trtexec on the same plan, for comparison with our figures."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from ..errors import EngineError, MissingDependencyError
from ..trt.flavor import RTX
from ..trt.plugins import find_libraries, named_libraries
from ..trt.sidecar import Sidecar, read_header
from .options import BenchOptions

_LINE = re.compile(
    r"\] (Throughput|Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): (.+)$", re.MULTILINE
)


def find_trtexec(engine: str | Path) -> str:
    """Returns the path of the program for a plan.

    Raises:
        EngineError: the file is not a plan.
        MissingDependencyError: the program is not on the path.
    """
    name = "tensorrt_rtx" if read_header(engine).flavor == RTX else "trtexec"
    program = shutil.which(name)
    if program is None:
        raise MissingDependencyError(
            f"--trtexec: there is no {name} on the path. It comes with TensorRT's archives, Debian packages and"
            " containers, not with pip."
        )
    return program


def run_trtexec(engine: str | Path, options: BenchOptions, size: int) -> dict[str, str]:
    """Runs trtexec (TensorRT-RTX: ``tensorrt_rtx``) on a plan with the same settings; it feeds its own random data.

    Args:
        engine: path of the plan.
        options: settings.
        size: images per query, for plans with a symbolic batch.

    Returns:
        The lines of its summary by name: ``Throughput``, ``Latency`` and so on.

    Raises:
        MissingDependencyError: the program is not on the path.
        EngineError: the file is not a plan, or trtexec failed; the message has the last line of its output.
    """
    program = find_trtexec(engine)
    command = [program, *arguments(engine, options, size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a program the user named
    if done.returncode:
        last = ((done.stdout + done.stderr).strip().splitlines() or ["it printed nothing"])[-1]
        raise EngineError(f"--trtexec: {Path(program).name} failed with exit code {done.returncode}: {last[:300]}.")
    return read_summary(done.stdout, shlex.join(command))


def arguments(engine: str | Path, options: BenchOptions, size: int) -> list[str]:
    """Returns the command-line arguments; switches are included only where they change the default of the version."""
    words = [
        f"--loadEngine={engine}",
        f"--warmUp={options.warm_up_ms:g}",
        f"--duration={options.duration_s:g}",
        f"--iterations={options.iterations}",
        f"--avgRuns={options.avg_runs}",
        f"--percentile={','.join(f'{share:g}' for share in options.percentiles)}",
        f"--infStreams={options.streams}",
        "--exposeDMA",  # one query at a time on each stream, as ours: its default overlaps two
    ]
    eleven = int(read_header(engine).version.partition(".")[0]) >= 11
    if eleven:
        words += [] if options.cuda_graph else ["--noCudaGraph"]
        words += [] if options.spin_wait else ["--noSpinWait"]
        words += ["--includeDataTransfers"] if options.transfers else []
    else:
        words += ["--useCudaGraph"] if options.cuda_graph else []
        words += ["--useSpinWait"] if options.spin_wait else []
        words += [] if options.transfers else ["--noDataTransfers"]
    sidecar = Sidecar.read(engine)
    if sidecar.spec.input.batch is None:
        shape = (size, sidecar.spec.input.channels, sidecar.spec.input.height, sidecar.spec.input.width)
        words.append(f"--shapes={sidecar.spec.input.name}:{'x'.join(map(str, shape))}")
    if sidecar.plugins:
        words += [f"--dynamicPlugins={library}" for library in [*named_libraries(), *find_libraries()][:1]]
    return words


def read_summary(text: str, command: str) -> dict[str, str]:
    """Returns the lines of a performance summary by name. Raises EngineError, with the command, if there is none."""
    summary = dict(_LINE.findall(text))
    if "Throughput" not in summary:
        raise EngineError(f"trtexec printed no performance summary. Run the command yourself to see why: {command}")
    return summary
