"""Build options with trtexec's names, and checks of what each TensorRT supports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..choices import Calibrator, Int8Mode
from ..errors import EngineError, UsageError
from ..spec import ModelSpec
from ..trt.flavor import RTX, TENSORRT, Flavor

Shape = tuple[int, ...]
POOLS = {
    "workspace": "WORKSPACE", "dlaSRAM": "DLA_MANAGED_SRAM", "dlaLocalDRAM": "DLA_LOCAL_DRAM",
    "dlaGlobalDRAM": "DLA_GLOBAL_DRAM", "tacticSharedMem": "TACTIC_SHARED_MEMORY",
}  # fmt: skip
HARDWARE = {"none": "NONE", "ampere+": "AMPERE_PLUS", "sameComputeCapability": "SAME_COMPUTE_CAPABILITY"}
VERBOSITY = {"none": "NONE", "layer_names_only": "LAYER_NAMES_ONLY", "detailed": "DETAILED"}
# trtexec's name of each option that only one flavour supports, and that flavour.
_ONLY = {
    "timing_cache": ("--timingCacheFile", TENSORRT),
    "version_compatible": ("--versionCompatible", TENSORRT),
    "hardware_compatibility": ("--hardwareCompatibilityLevel", TENSORRT),
    "compute_capabilities": ("--computeCapabilities", RTX),
}
# Default smallest, optimal and largest batch of an engine with a symbolic batch.
_DEFAULT_BATCHES = (1, 4, 8)


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        min_shapes: input name to smallest shape, for a symbolic batch; 1 image by default.
        opt_shapes: input name to optimal shape, for a symbolic batch; 4 images by default.
        max_shapes: input name to largest shape, for a symbolic batch; 8 images by default.
        memory_pools: TensorRT's pool name to size in bytes.
        timing_cache: path of the tactic timing cache, which is read if it exists and then written.
        optimization_level: 0 (fast build) to 5; None takes TensorRT's default, 3.
        version_compatible: whether the engine also loads in later versions.
        hardware_compatibility: TensorRT's name of the level; None for the build GPU only.
        profiling_verbosity: TensorRT's name of the level.
        plugins_to_serialize: plugin libraries to store in the engine.
        strip_weights: see trtexec's ``--stripWeights``.
        refit: see trtexec's ``--refit``.
        tf32: let FP32 layers compute in TF32 (10 bits of mantissa) on Ampere and newer, as trtexec does by default.
        compute_capabilities: target GPUs of an ahead-of-time RTX build as (major, minor); empty for all supported GPUs.
        int8_mode: ``explicit``, or ``implicit`` for the calibrator interface of TensorRT 10.
        calibrator: for implicit INT8: ``ours`` serves the ranges that this package found as a calibration cache,
            ``tensorrt`` lets TensorRT find them from the same batches.
        library: path of the plugin library; None searches for it.
        flavor: ``tensorrt`` or ``tensorrt_rtx``; None takes the installed one.
    """

    min_shapes: Mapping[str, Shape] = field(default_factory=dict)
    opt_shapes: Mapping[str, Shape] = field(default_factory=dict)
    max_shapes: Mapping[str, Shape] = field(default_factory=dict)
    memory_pools: Mapping[str, int] = field(default_factory=dict)
    timing_cache: str | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str | None = None
    profiling_verbosity: str = "DETAILED"
    plugins_to_serialize: tuple[str, ...] = ()
    strip_weights: bool = False
    refit: bool = False
    tf32: bool = True
    compute_capabilities: tuple[tuple[int, int], ...] = ()
    int8_mode: str = "explicit"
    calibrator: str = "ours"
    library: str | None = None
    flavor: str | None = None

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"--builderOptimizationLevel: got {self.optimization_level}, expected 0 to 5.")
        if any(size < 1 for size in self.memory_pools.values()):
            raise UsageError("--memPoolSize: got a pool of less than a byte, expected more.")
        if self.plugins_to_serialize and not self.version_compatible:
            raise UsageError(
                "--setPluginsToSerialize: TensorRT puts libraries into version-compatible engines only. Add"
                " --versionCompatible, or leave it out."
            )
        mode = Int8Mode.parse(self.int8_mode, "--int8-mode")
        calibrator = Calibrator.parse(self.calibrator, "--calibrator")
        if calibrator is Calibrator.TENSORRT and mode is Int8Mode.EXPLICIT:
            raise UsageError("--calibrator tensorrt: it belongs to --int8-mode implicit. Add that, or leave it out.")

    def check_flavor(self, flavor: Flavor) -> None:
        """Raises EngineError for an option that ``flavor`` does not support."""
        for name, (word, only) in _ONLY.items():
            if getattr(self, name) and flavor.name != only:
                raise EngineError(f"building with {flavor}: it has no {word}. Leave it out.")
        dla = [name for name in self.memory_pools if name.startswith("DLA")]
        if dla and flavor.is_rtx:
            raise EngineError(f"building with {flavor}: it has no DLA, and so no pool {dla[0]}. Leave it out.")
        if self.int8_mode == "implicit" and not flavor.has_implicit_int8:
            raise EngineError(
                f"building with {flavor}: it has no INT8 calibrator, which ended with TensorRT 10."
                " Leave --int8-mode out: the quantizers are put into the graph."
            )

    def profile(self, spec: ModelSpec) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Returns the smallest, optimal and largest shape (B, C, H, W) per input; empty for a fixed batch.

        Raises:
            UsageError: shapes for a fixed batch, an unknown input, another image size, or batches out of order.
        """
        given = (self.min_shapes, self.opt_shapes, self.max_shapes)
        image = (spec.input.channels, spec.input.height, spec.input.width)
        if spec.input.batch is not None:
            if any(given):
                raise UsageError(
                    f"shapes: the file's batch is fixed at {spec.input.batch}. Leave them out, or export it with"
                    " --batch dynamic."
                )
            return {}
        named = [self._shape(shapes, spec.input.name) for shapes in given]
        least, best, most = shapes = fill(named, [(batch, *image) for batch in _DEFAULT_BATCHES])
        if not least[0] <= best[0] <= most[0] or any(shape[1:] != image or shape[0] < 1 for shape in shapes):
            texts = ", ".join("x".join(map(str, shape)) for shape in shapes)
            raise UsageError(f"shapes: got {texts}, expected growing batches of {'x'.join(map(str, image))}.")
        return {spec.input.name: (least, best, most)}

    def _shape(self, shapes: Mapping[str, Shape], name: str) -> Shape | None:
        """Returns the shape given for an input, by its name or for any; None if there is none."""
        unknown = [key for key in shapes if key not in (name, "")]
        if unknown:
            raise UsageError(f"shapes: got input {unknown[0]!r}, the file's is {name!r}.")
        shape = shapes.get(name, shapes.get(""))
        return None if shape is None else tuple(shape)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fill(given: Sequence[Shape | None], defaults: Sequence[Shape]) -> tuple[Shape, Shape, Shape]:
    """Returns the smallest, optimal and largest shape, with defaults that fit the given ones where one is missing.

    The optimal shape that is not given is the default, moved between the smallest and the largest.
    """
    least, best, most = (default if shape is None else shape for shape, default in zip(given, defaults, strict=True))
    if given[2] is None:
        most = max(least, best, most)
    if given[1] is None:
        best = min(max(least, best), most)
    if given[0] is None:
        least = min(least, best, most)
    return least, best, most
