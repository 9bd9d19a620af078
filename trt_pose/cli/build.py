"""``trt-pose build``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import Json, app
from .export import VerifyData, VerifyImages, measure_accuracy, print_accuracy
from .quantize import quantize_options


@app.command()
def build(
    onnx: Annotated[Path | None, typer.Argument(help="An exported .onnx file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", "--saveEngine", help="The .engine to write.")] = None,
    onnx_option: Annotated[Path | None, typer.Option("--onnx", help="The .onnx file, as trtexec names it.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, int8 or best; the file's own when left out.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Folder to calibrate INT8 on; random for noise.")] = None,
    method: Annotated[str, typer.Option(help="entropy, percentile, mse or minmax.")] = "entropy",
    batches: Annotated[int, typer.Option(min=1, help="Calibration batches.")] = 16,
    cache: Annotated[Path | None, typer.Option(help="Calibration cache to use or make.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Layers kept out of INT8, by name or pattern.")] = None,
    int8_mode: Annotated[str, typer.Option("--int8-mode", help="explicit, or TensorRT 10's implicit.")] = "explicit",
    min_shapes: Annotated[str | None, typer.Option("--minShapes", metavar="NAME:1x3xHxW")] = None,
    opt_shapes: Annotated[str | None, typer.Option("--optShapes", metavar="NAME:4x3xHxW")] = None,
    max_shapes: Annotated[str | None, typer.Option("--maxShapes", metavar="NAME:8x3xHxW")] = None,
    mem_pools: Annotated[str | None, typer.Option("--memPoolSize", metavar="workspace:2048")] = None,
    timing_cache: Annotated[str | None, typer.Option("--timingCacheFile", metavar="FILE")] = None,
    level: Annotated[int | None, typer.Option("--builderOptimizationLevel", metavar="0..5")] = None,
    version_compatible: Annotated[bool, typer.Option("--versionCompatible")] = False,
    hardware: Annotated[
        str | None, typer.Option("--hardwareCompatibilityLevel", metavar="none|ampere+|sameComputeCapability")
    ] = None,
    verbosity: Annotated[
        str, typer.Option("--profilingVerbosity", metavar="layer_names_only|detailed|none")
    ] = "detailed",
    serialize: Annotated[list[str] | None, typer.Option("--setPluginsToSerialize", metavar="LIBRARY")] = None,
    strip: Annotated[bool, typer.Option("--stripWeights")] = False,
    refit: Annotated[bool, typer.Option("--refit")] = False,
    capabilities: Annotated[
        str | None, typer.Option("--computeCapabilities", metavar="8.6,8.9", help="GPUs of an ahead-of-time RTX build.")
    ] = None,
    library: Annotated[
        str | None, typer.Option("--dynamicPlugins", metavar="LIBRARY", help="The plugin library.")
    ] = None,
    tensorrt: Annotated[str | None, typer.Option(help="tensorrt or tensorrt_rtx; what is installed.")] = None,
    verify: Annotated[
        str | None, typer.Option(metavar="DIR", help="Images to compare the quantized file with the original on.")
    ] = None,
    verify_data: VerifyData = None,
    verify_images: VerifyImages = None,
    json: Json = False,
) -> None:
    """Build a TensorRT engine; the options of trtexec have its names."""
    from ..builder.build import build_engine
    from ..builder.options import BuildOptions
    from ..builder.prepare import Quantizing
    from ..comparison import compare
    from . import trtexec_words as words

    source = onnx or onnx_option
    if onnx is not None and onnx_option is not None:
        raise UsageError(f"building: got {onnx} and --onnx {onnx_option}. Name one of them.")
    if source is None or output is None:
        raise UsageError("building: name the .onnx file and, with --output, the .engine to write.")
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
        compute_capabilities=words.parse_capabilities(capabilities),
        int8_mode=int8_mode,
        library=library,
        flavor=tensorrt,
    )
    quantize = quantize_options(method, batches, cache, exclude)
    check = (lambda first, second: compare(first, second, verify).to_dict()) if verify else None
    measure = measure_accuracy(verify_data, verify_images)
    sidecar = build_engine(source, output, precision, Quantizing(images, quantize, check), options, measure)
    print(sidecar.to_json() if json else sidecar.summary(output))
    if not json:
        print_accuracy(sidecar.accuracy or {})
        _print_comparison(sidecar.comparison)


def _print_comparison(comparison: dict[str, Any] | None) -> None:
    if comparison is not None:
        total = comparison["total"]
        print(
            f"quantized ONNX file against the original: {total['missed']} of {total['found']} missed,"
            f" {total['extra']} extra, loss {total['loss']:.4f}"
        )
