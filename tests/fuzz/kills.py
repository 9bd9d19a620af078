"""Commands that are killed at a random moment, and run again.

Nothing may be lost by the kill: inputs stay, and outputs are whole or absent. The second run, which goes on or replaces
what is there, must succeed, and leave nothing behind of either run.
"""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

from .cases import Seeds
from .runner import Case, run

# Arguments, the longest time until the kill in s, names of the outputs, and what the second run adds.
COMMANDS: tuple[tuple[tuple[str, ...], float, tuple[str, ...], tuple[str, ...]], ...] = (
    (("export", "demo", "-o", "out.onnx", "--imgsz", "160"), 2.0, ("out.onnx",), ()),
    (("quantize", "good.onnx", "-o", "out.onnx", "--images", "people/", "--cache", "c.json"), 3.0,
     ("out.onnx", "c.json"), ()),
    (("predict", "good.onnx", "people", "--save", "out", "--json", "out.json"), 0.4,
     ("out", "out.json"), ("--overwrite",)),
    (("predict", "good.onnx", "clip.mp4", "--save", "out.mp4"), 0.6, ("out.mp4",), ("--overwrite",)),
    (("eval", "good.onnx", "--synthetic", "8", "--conf", "0.05", "--report", "out.json"), 1.5, ("out.json",), ()),
    (("synthesize", "out", "--count", "12"), 1.0, ("out",), ("--overwrite",)),
    (("train", "-o", "out", "--model", "demo", "--synthetic", "4", "--batch", "2", "--imgsz", "64", "--workers", "0",
      "--epochs", "3"), 3.0, ("out",), ("--resume",)),
)  # fmt: skip
_FRESH_S = 2.2  # younger temporary files may belong to a run that has just begun


def kill_and_repeat(number: int, seed: int, folder: Path, seeds: Seeds) -> list[str]:
    """Kills a command after a random time and runs it again; returns the faults."""
    rng = random.Random(f"kill/{seed}/{number}")  # noqa: S311
    words, longest, outputs, again = COMMANDS[number % len(COMMANDS)]
    room = folder / "tmp"
    folder.mkdir()
    room.mkdir()
    seeds.copy(folder, "good.onnx", "people", "clip.mp4")
    # What a killed run leaves is allowed until the next run.
    left = (*outputs, "tmp", *(f".{Path(name).stem}" for name in outputs))
    first = Case("killed", list(words), folder, left, {"TMPDIR": str(room)})
    killed = run(first, kill_after=rng.random() * longest)
    faults = [f"killed: {fault}" for fault in killed.faults if "changed" in fault]
    time.sleep(_FRESH_S)
    if words[0] == "train" and not (folder / "out" / "ckpt_latest.pth").exists():
        shutil.rmtree(folder / "out", ignore_errors=True)
        again = ()
    second = run(replace(first, command=[*words, *again], outputs=(*outputs, "tmp")))
    # What the killed run left is to be removed, and is no input.
    faults += [f"run again: {fault}" for fault in second.faults if not fault.startswith("input .")]
    if second.code:
        faults.append(f"run again: exit {second.code}: {second.stderr[-300:]!r}")
    hidden = [path for path in folder.rglob(".*") if path.is_file() and path.name != ".ses"]
    inside = [path for path in room.iterdir() if path.name != ".ses" and not path.name.startswith("torchinductor")]
    faults += [f"left {path.relative_to(folder)}" for path in (*hidden, *inside)]
    shutil.rmtree(folder, ignore_errors=True)
    return [f"{fault} <- {' '.join(words)!r}" for fault in faults]
