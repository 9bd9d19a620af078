"""The same work by trt_pose, LibreYOLO and Ultralytics, in turns, on the same photographs, on the CPU.

    python benchmarks/peers.py --images DIR      # writes benchmarks/results/peers.{md,json}

The peers are installed into an environment that is made for the run and removed after it. They are called as their
users call them; nothing of them is kept. LibreYOLO has the same network, YOLO-NAS-Pose-S; Ultralytics has another of
that size, yolo11s-pose, so its times compare the tools only roughly. All networks are untrained: no weights are
downloaded.

Every tool answers in a process of its own, one photograph after the other, and the tools take turns; a ratio is that of
neighbouring answers. Each process has the threads that its tool chooses.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import peak_mb, sentence, write_results

OURS, LIBRE, ULTRA = "trt_pose", "LibreYOLO", "Ultralytics"
TOOLS = (OURS, LIBRE, ULTRA)
NETWORK = {OURS: "YOLO-NAS-Pose-S", LIBRE: "YOLO-NAS-Pose-S", ULTRA: "yolo11s-pose"}
PACKAGES = ("libreyolo==1.6.0", "ultralytics==8.4.190", "ultralytics-thop", "psutil", "polars", "polars-runtime-32")
COMPLETE = ("nncf", "onnxsim")  # with what they depend on
REPEATS, ROUNDS, SIZE = 3, 4, 640
PAUSE_S = 0.05


# What runs in the processes of the tools.


def make(tool: str) -> Any:
    """An untrained network, which each tool makes from a name."""
    import torch

    torch.manual_seed(0)
    if tool == OURS:
        from trt_pose import models

        return models.get("yolo_nas_pose_s")
    if tool == LIBRE:
        from libreyolo import LibreYOLONAS

        return LibreYOLONAS(None, size="s", task="pose")
    from ultralytics import YOLO

    return YOLO("yolo11s-pose.yaml")


def export(tool: str, folder: Path) -> dict[str, Any]:
    """Exports to ONNX with the tool's defaults; the import of the tool counts, that of torch does not."""
    import torch

    del torch
    start = time.perf_counter()
    network = make(tool)
    target = folder / f"{tool}.onnx"
    if tool == OURS:
        network.export(target)
    elif tool == LIBRE:
        network.export(format="onnx", imgsz=SIZE, output_path=str(target))
    else:
        shutil.move(network.export(format="onnx", imgsz=SIZE, verbose=False), target)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak_mb(), "file_mb": target.stat().st_size / 1e6}


def quantize(tool: str, folder: Path, images: Path) -> dict[str, Any]:
    """Makes an INT8 file for the CPU, calibrated on the photographs, with the tool's defaults."""
    start = time.perf_counter()
    if tool == OURS:
        from trt_pose import quantize as quantize_file

        quantize_file(folder / f"{OURS}.onnx", folder / f"{OURS}_int8.onnx", str(images))
    else:
        data = folder / "data.yaml"
        kinds = "names: {0: person}\nkpt_shape: [17, 3]\n"
        data.write_text(f"path: {images}\ntrain: {images}\nval: {images}\nnc: 1\n{kinds}", encoding="utf-8")
        network = make(tool)
        target = folder / f"{tool}_int8_openvino_model"
        if tool == LIBRE:
            network.export(format="openvino", int8=True, data=str(data), imgsz=SIZE, output_path=str(target))
        else:
            shutil.move(network.export(format="openvino", int8=True, data=str(data), imgsz=SIZE), target)
    return {"seconds": time.perf_counter() - start}


def open_file(tool: str, path: Path) -> Callable[[str], Any]:
    """The function from the path of a photograph to the results."""
    if tool == OURS:
        from trt_pose import PosePredictor

        return PosePredictor(path).predict
    if tool == LIBRE:
        from libreyolo import LibreYOLO

        opened: Callable[[str], Any] = LibreYOLO(str(path), task="pose")
        return opened
    from ultralytics import YOLO

    network = YOLO(str(path), task="pose")
    return lambda image: network(image, verbose=False)


def open_network(tool: str, path: Path) -> Callable[[str], Any]:
    """The function that runs the bare ONNX file on pixels: ours with post-processing in it, theirs without."""
    import numpy as np

    if tool == OURS:
        from trt_pose import open_runner

        runner = open_runner(path)
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, SIZE, SIZE), np.uint8)
        return lambda _: runner.run({"input": pixels})
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    floats = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    return lambda _: session.run(None, {session.get_inputs()[0].name: floats})


def answer(function: Callable[[str], Any], answers: Any) -> None:
    for line in sys.stdin:
        start = time.perf_counter()
        function(line.strip())
        answers.write(f"{(time.perf_counter() - start) * 1e3}\n")
        answers.flush()


def child(arguments: list[str]) -> None:
    """One process of a tool; what it prints goes to standard error, its answers to standard output."""
    warnings.simplefilter("ignore")
    verb, tool, folder, *rest = arguments
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if verb == "export":
        answers.write(json.dumps(export(tool, Path(folder))))
    elif verb == "quantize":
        answers.write(json.dumps(quantize(tool, Path(folder), Path(rest[0]))))
    else:
        opening = open_network if verb == "network" else open_file
        answer(opening(tool, Path(rest[0])), answers)
    answers.close()


# What runs in this process.


class Tool:
    """A process that answers with the time of each photograph."""

    def __init__(self, python: Path, verb: str, tool: str, folder: Path, path: Path) -> None:
        command = [str(python), __file__, "--child", verb, tool, str(folder), str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder
        )

    def ask(self, image: Path) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{image}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def once(python: Path, *arguments: Any, folder: Path) -> dict[str, Any]:
    command = [str(python), __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def make_environment(folder: Path) -> Path:
    """An environment that sees the packages of this one, with the peers beside them."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    here = next(place for place in map(Path, sys.path) if (place / "torch").is_dir())
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    (packages / "beside.pth").write_text(f"{here}\n{Path(__file__).resolve().parent.parent}\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", *PACKAGES], check=True)
    subprocess.run([*pip, *COMPLETE], check=True)
    return python


def compare(tools: dict[str, Tool], images: list[Path]) -> dict[str, dict[str, Any]]:
    """Median time of each tool, and how many times as fast as it ours is, with the quartiles."""
    times: dict[str, list[float]] = {name: [] for name in tools}
    for tool in tools.values():
        tool.ask(images[0])
    for _ in range(ROUNDS):
        for image in images:
            for name, tool in tools.items():
                time.sleep(PAUSE_S)  # the threads of the one before come to rest
                times[name].append(tool.ask(image))
    for tool in tools.values():
        tool.close()
    rows = {}
    for name, values in times.items():
        ratios = [other / ours for ours, other in zip(times[OURS], values, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        rows[name] = {"median_ms": statistics.median(values), "ratio": quartiles[1], "quartiles": quartiles[::2]}
    return rows


def start_up(python: Path, tool: str, folder: Path, path: Path, image: Path) -> float:
    """Seconds from the start of a process to its first results."""
    start = time.perf_counter()
    process = Tool(python, "images", tool, folder, path)
    process.ask(image)
    seconds = time.perf_counter() - start
    process.close()
    return seconds


def measure(python: Path, folder: Path, images: list[Path]) -> dict[str, Any]:
    exports: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    for _ in range(REPEATS):
        for tool in TOOLS:
            exports[tool].append(once(python, "export", tool, folder, folder=folder))
    record: dict[str, Any] = {
        "export": {
            tool: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            for tool, rows in exports.items()
        }
    }
    files = {tool: folder / f"{tool}.onnx" for tool in TOOLS}
    record["network"] = compare({tool: Tool(python, "network", tool, folder, files[tool]) for tool in TOOLS}, images)
    record["images"] = compare({tool: Tool(python, "images", tool, folder, files[tool]) for tool in TOOLS}, images)
    starts: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for _ in range(REPEATS):
        for tool in TOOLS:
            starts[tool].append(start_up(python, tool, folder, files[tool], images[0]))
    record["start"] = {tool: statistics.median(values) for tool, values in starts.items()}
    record["quantize"] = {
        tool: once(python, "quantize", tool, folder, images[0].parent, folder=folder) for tool in TOOLS
    }
    int8 = {OURS: folder / f"{OURS}_int8.onnx"} | {tool: folder / f"{tool}_int8_openvino_model" for tool in TOOLS[1:]}
    record["int8"] = compare({tool: Tool(python, "images", tool, folder, int8[tool]) for tool in TOOLS}, images)
    return record


def table(record: dict[str, Any]) -> str:
    def times(part: str) -> list[str]:
        rows = record[part]
        return [
            f"{rows[tool]['median_ms']:.0f} ms"
            + ("" if tool == OURS else f"; ours {rows[tool]['ratio']:.2f} times as fast")
            for tool in TOOLS
        ]

    exports = record["export"]
    lines = [
        "# trt_pose beside LibreYOLO and Ultralytics, on the CPU",
        "",
        f"{sentence(record['machine'])} {', '.join(PACKAGES[:2])}. Written by benchmarks/peers.py:"
        f" {record['photographs']} photographs, {ROUNDS} rounds in turns; medians.",
        "",
        f"| | {' | '.join(f'{tool}, {NETWORK[tool]}' for tool in TOOLS)} |",
        "|---|---|---|---|",
    ]
    rows = {
        "export to ONNX, import of the tool included": [f"{exports[tool]['seconds']:.1f} s" for tool in TOOLS],
        "its peak memory": [f"{exports[tool]['peak_mb'] / 1000:.2f} GB" for tool in TOOLS],
        "the file": [f"{exports[tool]['file_mb']:.0f} MB" for tool in TOOLS],
        "the file in ONNX Runtime (ours with post-processing)": times("network"),
        "a JPEG to results": times("images"),
        "start of the process to the first results": [f"{record['start'][tool]:.1f} s" for tool in TOOLS],
        "a JPEG to results, INT8 (OpenVINO)": times("int8"),
        "calibration and quantization": [f"{record['quantize'][tool]['seconds']:.0f} s" for tool in TOOLS],
    }
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    lines += [
        "",
        "Ultralytics' network is another one, and smaller: it runs and exports faster, and the table says nothing about"
        " its accuracy. Its export and LibreYOLO's write the network as it is; ours holds pre- and post-processing, and"
        " is compared with PyTorch on a photograph before it is written, which takes a second.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--python", type=Path, help="an environment of an earlier run")
    chosen = parser.parse_args()
    photographs = sorted(chosen.images.resolve().rglob("*.jpg"))[:12]
    from trt_pose.benchmark.machine import machine

    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    with tempfile.TemporaryDirectory() as name:
        os.environ["YOLO_CONFIG_DIR"] = name
        folder = Path(name)
        images = []
        for index, image in enumerate(photographs):
            (folder / "photographs").mkdir(exist_ok=True)
            images.append(Path(shutil.copy(image, folder / "photographs" / f"{index}.jpg")))
        python = chosen.python or make_environment(folder / "environment")
        record = {"machine": machine(("torch", "onnxruntime", "openvino", "numpy")), "photographs": len(images)}
        record |= measure(python, folder, images)
    text = table(record)
    write_results("peers", record, text)
    print(text)


if __name__ == "__main__":
    main()
