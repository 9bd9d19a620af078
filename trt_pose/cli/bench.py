"""The bench command, under trtexec's option names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SourceError
from ..files import check_writable
from .app import Json, app


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(help="One or more .onnx files or engines, measured in turns.")],
    images: Annotated[str | None, typer.Option(help="Image, folder or glob to feed; a photograph by default.")] = None,
    load_inputs: Annotated[
        list[str] | None, typer.Option("--loadInputs", metavar="NAME:FILE", help="Feed a .npy or raw file instead.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per query of a file with a symbolic batch.")] = None,
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help="Also decode, letterbox and results.")] = False,
    warm_up: Annotated[float, typer.Option("--warmUp", help="ms before measuring.")] = 200.0,
    duration: Annotated[float, typer.Option("--duration", help="s per file, at least.")] = 3.0,
    iterations: Annotated[int, typer.Option("--iterations", help="Queries per file, at least.")] = 10,
    avg_runs: Annotated[int, typer.Option("--avgRuns", help="Queries of a file before the next one's turn.")] = 10,
    percentile: Annotated[str, typer.Option("--percentile", help="Of the latency, in percent.")] = "90,95,99",
    streams: Annotated[int, typer.Option("--infStreams", help="Queries in flight at a time.")] = 1,
    cuda_graph: Annotated[bool, typer.Option("--useCudaGraph/--noCudaGraph", help="Engines: launch a graph.")] = True,
    spin_wait: Annotated[bool, typer.Option("--useSpinWait/--noSpinWait", help="Engines: poll for the end.")] = True,
    transfers: Annotated[
        bool, typer.Option("--includeDataTransfers/--noDataTransfers", help="Engines: copies to and from the GPU.")
    ] = True,
    threads: Annotated[int | None, typer.Option(help="ONNX Runtime: threads within an operator.")] = None,
    provider: Annotated[str | None, typer.Option(help="ONNX Runtime: cpu, openvino, cuda or tensorrt.")] = None,
    trtexec: Annotated[bool, typer.Option("--trtexec", help="Run trtexec on the same engines, too.")] = False,
    export_times: Annotated[
        Path | None, typer.Option("--exportTimes", metavar="FILE", help="Write every query's times as JSON.")
    ] = None,
    save: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Write the report: .json, .csv or .png.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure latency and throughput as trtexec does; compare files in one run."""
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
    print(report.to_json() if json else report)
    for path in save or []:
        report.save(path)
    if export_times:
        write_atomically(export_times, lambda target: target.write_text(report.times_json()), SourceError)
