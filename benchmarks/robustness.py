"""Feeds damaged and hostile files and values to every verb of the command line: ``make fuzz``.

Each case runs in a process of its own, in a folder with copies of good files of which one is damaged: bytes cut,
flipped, repeated or holed; JSON with values of other types and out of bounds; ONNX graphs with wrong nodes, shapes and
descriptions; links, pipes and devices in place of files; options with values that are none. A case has a fault when the
command ends with a traceback or a signal, takes over 60 s or 2 GB, fails without one sentence that says why, prints a
line of a library or a control character, changes an input, or leaves a file behind.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests are no installed package

from machine import sentence, write_results

from tests.fuzz.__main__ import campaign
from trt_pose.benchmark.machine import machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=140, help="number of commands to kill at a random moment")
    parser.add_argument("--keep", type=Path, help="folder for the files of cases with faults")
    asked = parser.parse_args()
    found = campaign(asked.cases, asked.seed, kills=asked.kills, workers=asked.workers, keep=asked.keep)
    where = machine(("onnx", "onnxruntime", "torch", "pillow", "av", "opencv-python-headless"))
    rows = "\n".join(f"| {kind} | {count} | {found['faults'][kind]} |" for kind, count in found["by kind"].items())
    text = f"""# Robustness

`python benchmarks/robustness.py --cases {asked.cases} --seed {asked.seed} --kills {asked.kills}`: {found["cases"]}
command lines with damaged or hostile inputs in {found["seconds"]} s. A fault is a traceback, a crash, more than 60 s or
2 GB, a failure without a sentence, a line of a library, a control character on the terminal, a changed input or a file
left. Commands that are killed are run again, which must succeed and leave nothing of either run.

| what is damaged | cases | faults |
|---|---|---|
{rows}

{sentence(where)}
"""
    write_results("robustness" if asked.cases else "robustness_kills", {**found, "machine": where}, text)
    print(text)
    return int(any(found["faults"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
