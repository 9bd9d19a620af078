"""``trt-pose bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SourceError
from ..files import check_writable
from .app import RUN, Command, HostCode, Json, app, in_range, say

_TRTEXEC = "Measurement, with the names of trtexec"
_ENGINES, _ORT = "Engines", "ONNX Runtime"


@app.command(
    cls=Command,
    rich_help_panel=RUN,
    epilog="""trt-pose bench pose.onnx pose_int8.onnx --images photos/
trt-pose bench pose.engine --images photos/ --end-to-end --save bench.json --save bench.png""",
)
def bench(
    files: Annotated[list[Path], typer.Argument(help="One or more .onnx files or engines, measured in turns.")],
    images: Annotated[
        str | None, typer.Option(help="Image, folder or glob pattern to feed.", show_default="a photograph")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(callback=in_range(1), help="Images per query of a file with a dynamic batch.", show_default="1"),
    ] = None,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Measure decoding, letterbox and reading of the results, too.")
    ] = False,
    trtexec: Annotated[bool, typer.Option("--trtexec", help="Run trtexec on the same engines, too.")] = False,
    save: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Write the report: .json, .csv or .png; repeatable.")
    ] = None,
    host_code: HostCode = False,
    json: Json = False,
    load_inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--loadInputs", metavar="NAME:FILE", rich_help_panel=_TRTEXEC, help="Feed a .npy or raw file instead."
        ),
    ] = None,
    warm_up: Annotated[
        float, typer.Option("--warmUp", rich_help_panel=_TRTEXEC, help="Time before measuring, ms.")
    ] = 200.0,
    duration: Annotated[
        float, typer.Option("--duration", rich_help_panel=_TRTEXEC, help="Minimum measured time per file, s.")
    ] = 3.0,
    iterations: Annotated[
        int, typer.Option("--iterations", rich_help_panel=_TRTEXEC, help="Minimum number of queries per file.")
    ] = 10,
    avg_runs: Annotated[
        int, typer.Option("--avgRuns", rich_help_panel=_TRTEXEC, help="Queries of one file before the next one's turn.")
    ] = 10,
    percentile: Annotated[
        str, typer.Option("--percentile", rich_help_panel=_TRTEXEC, help="Latency percentiles to report, %.")
    ] = "90,95,99",
    streams: Annotated[
        int, typer.Option("--infStreams", rich_help_panel=_TRTEXEC, help="Number of concurrent queries.")
    ] = 1,
    export_times: Annotated[
        Path | None,
        typer.Option("--exportTimes", metavar="FILE", rich_help_panel=_TRTEXEC, help="Write the times of all queries."),
    ] = None,
    cuda_graph: Annotated[
        bool,
        typer.Option("--useCudaGraph/--noCudaGraph", rich_help_panel=_ENGINES, help="Launch a captured CUDA graph."),
    ] = True,
    spin_wait: Annotated[
        bool, typer.Option("--useSpinWait/--noSpinWait", rich_help_panel=_ENGINES, help="Poll for the end of a query.")
    ] = True,
    transfers: Annotated[
        bool,
        typer.Option(
            "--includeDataTransfers/--noDataTransfers",
            rich_help_panel=_ENGINES,
            help="Count the copies to and from the GPU.",
        ),
    ] = True,
    threads: Annotated[
        int | None,
        typer.Option(callback=in_range(1, 1024), rich_help_panel=_ORT, help="Threads.", show_default="one per core"),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_ORT,
            help="auto, openvino, cpu, cuda or tensorrt; auto takes OpenVINO for INT8, if installed.",
            show_default="auto",
        ),
    ] = None,
) -> None:
    """Measure latency and throughput as trtexec does, several files in one run."""
    from ..benchmark import BenchOptions, bench as measure
    from ..benchmark.options import parse_inputs, parse_percentiles
    from ..benchmark.report import check_savable
    from ..files import write_atomically

    options = BenchOptions(
        warm_up_ms=warm_up,
        duration_s=duration,
        iterations=iterations,
        avg_runs=avg_runs,
        percentiles=parse_percentiles(percentile),
        streams=streams,
        batch=batch,
        cuda_graph=cuda_graph,
        spin_wait=spin_wait,
        transfers=transfers,
        end_to_end=end_to_end,
        images=images,
        inputs=parse_inputs(load_inputs or []),
        threads=threads,
        provider=provider,
    )
    for path in save or []:  # before the measurement, not after
        check_savable(path)
    if export_times:
        check_writable(export_times, SourceError)
    report = measure(files, options, trtexec=trtexec)
    say(report.to_json() if json else report)
    for path in save or []:
        report.save(path)
    if export_times:
        write_atomically(
            export_times, lambda target: target.write_text(report.times_json(), encoding="utf-8"), SourceError
        )
