"""How far results may be apart between two implementations, with the reason. CONTRIBUTING.md has the same table."""

from dataclasses import dataclass

from trt_pose.results.pairing import compare_predictions


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes:
        between: the two implementations.
        px: largest distance of boxes and joints, px.
        score: largest difference of scores.
        because: where the difference comes from.
    """

    between: str
    px: float
    score: float
    because: str

    def check(self, first, second):
        """Asserts that two sets of predictions of one image hold the same people within this tolerance."""
        gap = compare_predictions(first, second)
        assert gap.unmatched == 0, gap
        assert gap.px <= self.px, gap
        assert gap.score <= self.score, gap


PUBLISHED = Rung(
    "super-gradients and torch here", 2e-3, 1e-5, "super-gradients, fused against un-fused, differs by 9e-4 px and 8e-6"
)
FUSED = Rung("fused and un-fused network", 1e-3, 1e-5, "folding rounds once per weight, in float64")
NUMPY = Rung("loops in NumPy and torch", 1e-4, 1e-6, "the loops compute in float64")
ONNX = Rung("torch and ONNX Runtime", 2e-3, 1e-5, "sums in another order")
KERNEL = Rung("exported heads with the kernel, and the file for ONNX Runtime", 2e-3, 1e-5, "as torch and ONNX Runtime")
RUNNERS = Rung("any two runners in FP32", 1e-2, 1e-4, "OpenVINO fuses more operators than ONNX Runtime")
STAND_IN = Rung(
    "ONNX Runtime and the GPU pipeline on the strict driver",
    1e-3,
    0.0,
    "the letterbox is undone in the same float32 steps",
)
ENGINE = Rung("ONNX Runtime and a TensorRT engine in FP32", 0.5, 1e-2, "TF32 convolutions")
EXPORT = Rung("the comparison inside export", 0.05, 1e-3, "any weights and sizes: rounding scales with them")

LADDER = (PUBLISHED, FUSED, NUMPY, ONNX, KERNEL, RUNNERS, STAND_IN, ENGINE, EXPORT)


def table():
    """The table of CONTRIBUTING.md."""
    rows = ["| between | boxes and joints, px | scores | because |", "|---|---|---|---|"]
    rows += [f"| {rung.between} | {rung.px:g} | {rung.score:g} | {rung.because} |" for rung in LADDER]
    return "\n".join(rows)
