"""``trt-pose build``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..choices import BuildPrecision, CalibrationMethod, Calibrator, Int8Mode
from ..errors import UsageError
from .accuracy import VerifyData, VerifyImages, measure_accuracy, print_accuracy
from .app import MAKE, Command, Json, app, gone, say
from .quantize import MaxImages, quantize_options

_INT8, _TRTEXEC = "INT8", "TensorRT, with the names of trtexec"


@app.command(
    cls=Command,
    rich_help_panel=MAKE,
    epilog="""trt-pose build pose.onnx -o pose.engine --precision fp16
trt-pose build pose.onnx -o pose.engine --precision int8 --images photos/ --verify photos/
trt-pose build pose.onnx -o pose.engine --tensorrt tensorrt_rtx --computeCapabilities 8.6,8.9""",
)
def build(
    onnx: Annotated[Path | None, typer.Argument(help="An exported .onnx file.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--saveEngine", help="The .engine file to write.")
    ] = None,
    onnx_option: Annotated[Path | None, typer.Option("--onnx", help="The .onnx file, as trtexec names it.")] = None,
    precision: Annotated[
        BuildPrecision | None,
        typer.Option(help="Precision of the network; int8 and best have FP16 beside it.", show_default="the file's"),
    ] = None,
    tensorrt: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt_rtx.", show_default="what is installed")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(rich_help_panel=_INT8, help="Folder of images to calibrate on, or random for noise."),
    ] = None,
    method: Annotated[
        CalibrationMethod, typer.Option(rich_help_panel=_INT8, help="How thresholds are chosen.")
    ] = CalibrationMethod.ENTROPY,
    max_images: MaxImages = None,
    batches: Annotated[str | None, gone("--batches", "count images: --max-images.")] = None,
    cache: Annotated[
        Path | None, typer.Option(rich_help_panel=_INT8, help="Calibration cache to use, or to write.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=_INT8, help="Layers kept out of INT8, by name or pattern; repeatable."),
    ] = None,
    int8_mode: Annotated[
        Int8Mode,
        typer.Option("--int8-mode", rich_help_panel=_INT8, help="Quantizers in the graph, or TensorRT 10's own."),
    ] = Int8Mode.EXPLICIT,
    calibrator: Annotated[
        Calibrator,
        typer.Option(rich_help_panel=_INT8, help="With --int8-mode implicit: who finds the ranges."),
    ] = Calibrator.OURS,
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", rich_help_panel=_INT8, help="Images to compare the quantized ONNX file with the original on."
        ),
    ] = None,
    min_shapes: Annotated[
        str | None,
        typer.Option(
            "--minShapes",
            metavar="NAME:1x3xHxW",
            rich_help_panel=_TRTEXEC,
            help="Smallest shape of a dynamic batch.",
            show_default="batch 1",
        ),
    ] = None,
    opt_shapes: Annotated[
        str | None,
        typer.Option(
            "--optShapes",
            metavar="NAME:4x3xHxW",
            rich_help_panel=_TRTEXEC,
            help="Shape to optimize for.",
            show_default="batch 4",
        ),
    ] = None,
    max_shapes: Annotated[
        str | None,
        typer.Option(
            "--maxShapes",
            metavar="NAME:8x3xHxW",
            rich_help_panel=_TRTEXEC,
            help="Largest shape.",
            show_default="batch 8",
        ),
    ] = None,
    mem_pools: Annotated[
        str | None,
        typer.Option(
            "--memPoolSize",
            metavar="POOL:SIZE",
            rich_help_panel=_TRTEXEC,
            help="Memory limits, MiB without a unit: workspace:2048,tacticSharedMem:48K.",
        ),
    ] = None,
    timing_cache: Annotated[
        str | None,
        typer.Option(
            "--timingCacheFile", metavar="FILE", rich_help_panel=_TRTEXEC, help="Timing cache to read and write."
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            "--builderOptimizationLevel",
            metavar="0..5",
            rich_help_panel=_TRTEXEC,
            help="Effort: 0 builds fast, 5 searches longest.",
            show_default="TensorRT's, 3",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--versionCompatible", rich_help_panel=_TRTEXEC, help="Let later TensorRT versions load the engine, too."
        ),
    ] = False,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardwareCompatibilityLevel",
            metavar="none|ampere+|sameComputeCapability",
            rich_help_panel=_TRTEXEC,
            help="Let other GPUs load the engine, too.",
            show_default="none",
        ),
    ] = None,
    verbosity: Annotated[
        str,
        typer.Option(
            "--profilingVerbosity",
            metavar="layer_names_only|detailed|none",
            rich_help_panel=_TRTEXEC,
            help="What the engine says about its layers.",
        ),
    ] = "detailed",
    serialize: Annotated[
        list[str] | None,
        typer.Option(
            "--setPluginsToSerialize",
            metavar="LIBRARY",
            rich_help_panel=_TRTEXEC,
            help="Plugin library to store in a version-compatible engine; repeatable.",
        ),
    ] = None,
    strip: Annotated[
        bool, typer.Option("--stripWeights", rich_help_panel=_TRTEXEC, help="Leave the weights out of the engine.")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", rich_help_panel=_TRTEXEC, help="Let the weights be replaced later.")
    ] = False,
    no_tf32: Annotated[
        bool,
        typer.Option("--noTF32", rich_help_panel=_TRTEXEC, help="Keep all 23 bits of FP32 on Ampere and newer."),
    ] = False,
    capabilities: Annotated[
        str | None,
        typer.Option(
            "--computeCapabilities",
            metavar="8.6,8.9",
            rich_help_panel=_TRTEXEC,
            help="GPUs of an ahead-of-time build by TensorRT-RTX.",
            show_default="all it supports",
        ),
    ] = None,
    library: Annotated[
        str | None,
        typer.Option(
            "--dynamicPlugins",
            metavar="LIBRARY",
            rich_help_panel=_TRTEXEC,
            help="The plugin library, or python.",
            show_default="looked for",
        ),
    ] = None,
    verify_data: VerifyData = None,
    verify_images: VerifyImages = None,
    json: Json = False,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", hidden=True)] = False,
    int8: Annotated[bool, typer.Option("--int8", hidden=True)] = False,
    best: Annotated[bool, typer.Option("--best", hidden=True)] = False,
    workspace: Annotated[str | None, gone("--workspace", "use --memPoolSize workspace:MiB.")] = None,
    device: Annotated[
        str | None, gone("--device", "the build uses the first visible GPU. Set CUDA_VISIBLE_DEVICES.")
    ] = None,
) -> None:
    """Build a TensorRT engine; options of trtexec have trtexec's names."""
    from ..builder.build import build_engine
    from ..builder.options import BuildOptions
    from ..builder.prepare import QuantizeRequest
    from ..comparison import compare
    from . import trtexec_words as words

    source = _one_file(onnx, onnx_option)
    if output is None:
        raise UsageError("--output: name the .engine file to write.")
    options = BuildOptions(
        min_shapes=words.parse_shapes(min_shapes),
        opt_shapes=words.parse_shapes(opt_shapes),
        max_shapes=words.parse_shapes(max_shapes),
        memory_pools=words.parse_pools(mem_pools),
        timing_cache=timing_cache,
        optimization_level=level,
        version_compatible=version_compatible,
        hardware_compatibility=words.parse_hardware(hardware),
        profiling_verbosity=words.parse_verbosity(verbosity),
        plugins_to_serialize=tuple(serialize or ()),
        strip_weights=strip,
        refit=refit,
        tf32=not no_tf32,
        compute_capabilities=words.parse_capabilities(capabilities),
        int8_mode=int8_mode,
        calibrator=calibrator,
        library=library,
        flavor=tensorrt,
    )
    quantize = quantize_options(method, max_images, cache, exclude)
    check = (lambda first, second: compare(first, second, verify).to_dict()) if verify else None
    measure = measure_accuracy(verify_data, verify_images)
    request = QuantizeRequest(images, quantize, check)
    sidecar = build_engine(source, output, _precision(precision, fp16, int8, best), request, options, measure)
    say(sidecar.to_json() if json else sidecar.summary(output))
    if not json:
        print_accuracy(sidecar.accuracy or {})
        _print_comparison(sidecar.comparison)


def _one_file(onnx: Path | None, option: Path | None) -> Path:
    if onnx is not None and option is not None:
        raise UsageError(f"--onnx: got {option}, and {onnx} as well. Name one file.")
    source = onnx or option
    if source is None:
        raise UsageError("building: name the .onnx file.")
    return source


def _precision(precision: BuildPrecision | None, fp16: bool, int8: bool, best: bool) -> str | None:
    """``--precision``, or the switches of trtexec 10 (``--fp16 --int8`` is its way to say best)."""
    switches = [name for name, on in (("fp16", fp16), ("int8", int8), ("best", best)) if on]
    if precision is not None and switches:
        raise UsageError(
            f"--{switches[0]}: it means --precision {switches[0]}, and --precision is given. Leave one out."
        )
    if precision is not None:
        return str(precision)
    return ("best" if best or len(switches) > 1 else switches[0]) if switches else None


def _print_comparison(comparison: dict[str, Any] | None) -> None:
    if comparison is not None:
        total = comparison["total"]
        say(
            f"quantized ONNX file against the original: {total['missed']} of {total['found']} missed,"
            f" {total['extra']} extra, loss {total['loss']:.4f}"
        )
