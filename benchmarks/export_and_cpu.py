"""Export time and memory, and what pre- and post-processing add to the bare network in ONNX Runtime on the CPU.

    python benchmarks/export_and_cpu.py            # N and S, to benchmarks/results/export_and_cpu.{json,md}

Each export runs in a process of its own; full graph and bare network take turns in one process, and the ratio is that
of each pair of neighbouring runs. Weights are seeded: their values do not change the time of a convolution, and the
threshold is chosen so that NMS has hundreds of candidates to work on.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from trt_pose.benchmark.machine import machine

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxslim", "numpy")


def measure_export(name: str, path: Path, verification: bool) -> None:
    """Prints one JSON line; run in a process of its own so that the peak is this export's."""
    warnings.simplefilter("ignore")
    from trt_pose import models

    model = models.get(name)
    start = time.perf_counter()
    import trt_pose.export

    assert trt_pose.export
    model.export(path, confidence_threshold=0.3, verification=verification)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def export_in_child(name: str, path: Path, verification: bool) -> dict[str, float]:
    arguments = [sys.executable, __file__, "--export", name, "--output", str(path)]
    done = subprocess.run(
        [*arguments, *([] if verification else ["--no-verification"])], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def bare_network(path: Path, target: Path) -> str:
    """Cuts the network out of an exported file: float image in, the nine head maps out. Returns its input's name."""
    import onnx

    model = onnx.load(path)
    source = next(node.output[0] for node in model.graph.node if "input" in node.input)
    heads = [node.output[0] for node in model.graph.node if node.op_type == "Conv" and "_pred/" in node.name]
    assert len(heads) == 9
    onnx.save(onnx.utils.Extractor(model).extract_model([source], heads), target)
    return source


def compare_latency(path: Path, rounds: int) -> dict[str, Any]:
    """Runs full graph and bare network in turns on the photograph."""
    import numpy as np
    import onnx
    import onnxruntime

    from trt_pose import PosePredictor
    from trt_pose.images.pixels import letterbox, read

    with tempfile.TemporaryDirectory() as folder:
        source = bare_network(path, Path(folder) / "bare.onnx")
        with PosePredictor(path, providers=["cpu"]) as predictor:
            photograph = read(Path(__file__).parent.parent / "trt_pose" / "assets" / "astronaut.jpg")
            pixels = letterbox(photograph, predictor.spec.input)[0][None]
            people = len(predictor.predict(photograph).poses)
        sessions = {
            "full": (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), {"input": pixels}),
            "bare": (
                onnxruntime.InferenceSession(Path(folder) / "bare.onnx", providers=["CPUExecutionProvider"]),
                {source: pixels.astype(np.float32)},
            ),
        }
        times: dict[str, list[float]] = {"full": [], "bare": []}
        for number in range(rounds + 3):
            for which, (session, feeds) in sessions.items():
                start = time.perf_counter()
                session.run(None, feeds)
                if number >= 3:  # warm
                    times[which].append((time.perf_counter() - start) * 1e3)
    ratios = [full / bare for full, bare in zip(times["full"], times["bare"], strict=True)]
    return {
        "nodes": len(onnx.load(path).graph.node),
        "people": people,
        "full_ms": statistics.median(times["full"]),
        "bare_ms": statistics.median(times["bare"]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "rounds": rounds,
    }


def write(results: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export_and_cpu.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    where = results["machine"]
    lines = [
        "# Export and ONNX Runtime on the CPU",
        "",
        f"Written by `benchmarks/export_and_cpu.py` on {where['cpu']}, {where['cores']} cores,"
        f" Python {where['python']}, {', '.join(f'{name} {version}' for name, version in where['packages'].items())}.",
        "",
        "Export: one process each, import of the exporter included, of torch not; median of three. Latency: 640x640,",
        "batch 1, default CPU provider, full graph and bare network (float image in, nine head maps out) in turns; the",
        "ratio is the median over pairs, with its quartiles.",
        "",
        "| model | export s | peak MB | with verification s | MB | nodes | people | full ms | bare ms | full / bare |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results["models"].items():
        plain, checked, run = row["export"], row["export_verified"], row["latency"]
        low, high = run["ratio_quartiles"]
        lines.append(
            f"| {name} | {plain['seconds']:.2f} | {plain['peak_mb']:.0f} | {checked['seconds']:.2f} |"
            f" {checked['peak_mb']:.0f} | {run['nodes']} | {run['people']} |"
            f" {run['full_ms']:.1f} | {run['bare_ms']:.1f} | {run['ratio']:.3f} ({low:.3f}-{high:.3f}) |"
        )
    (RESULTS / "export_and_cpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolo_nas_pose_n", "yolo_nas_pose_s"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--export", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-verification", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        measure_export(arguments.export, arguments.output, not arguments.no_verification)
        return
    results: dict[str, Any] = {"machine": machine(PACKAGES), "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            path = Path(folder) / f"{name}.onnx"
            plain, checked = (
                [export_in_child(name, path, verification) for _ in range(3)] for verification in (False, True)
            )
            results["models"][name] = {
                "export": {key: statistics.median(run[key] for run in plain) for key in plain[0]},
                "export_verified": {key: statistics.median(run[key] for run in checked) for key in checked[0]},
                "latency": compare_latency(path, arguments.rounds),
            }
    write(results)


if __name__ == "__main__":
    main()
