"""``python -m tests.fuzz --cases 500 --seed 1``: damaged files and values for every verb; counts by kind."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from .cases import KINDS, Seeds, draw
from .hostile import MAKERS
from .kills import kill_and_repeat
from .runner import load, run

BY_HAND, KILLED = "made by hand", "killed, and run again"


def campaign(
    cases: int,
    seed: int,
    *,
    kills: int = 0,
    first: int = 0,
    kinds: tuple[str, ...] = (),
    workers: int = 2,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Runs random cases, and every case of ``hostile.py`` once; prints each fault.

    Args:
        cases: number of random cases.
        seed: what they are drawn from.
        kills: number of commands to kill at a random moment.
        first: number of the first case.
        kinds: names of the kinds to draw from; all when it is empty.
        workers: number of processes.
        keep: folder for the files of cases with faults.

    Returns:
        The seed, the counts of cases and of faults by kind, and the seconds.
    """
    load()
    start = time.monotonic()
    counts: Counter[str] = Counter()
    faults: defaultdict[str, int] = defaultdict(int)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as room:
        seeds = Seeds(Path(room) / "seeds")
        jobs = [(number, seed, Path(room), seeds, kinds, keep) for number in range(first, first + cases)]
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            for name, kind, found in pool.imap_unordered(_run, jobs):
                counts[kind] += 1
                faults[kind] += bool(found)
                for fault in found:
                    print(f"{name}: {kind}: {fault}", flush=True)
            for name, found in pool.imap_unordered(_run_by_hand, [(name, Path(room), seeds) for name in MAKERS]):
                counts[BY_HAND] += 1
                faults[BY_HAND] += bool(found)
                for fault in found:
                    print(f"{name}: {fault}", flush=True)
            killed = [(number, seed, Path(room), seeds) for number in range(kills)]
            for number, found in pool.imap_unordered(_kill, killed):
                counts[KILLED] += 1
                faults[KILLED] += bool(found)
                for fault in found:
                    print(f"{number}: {KILLED}: {fault}", flush=True)
    seconds = round(time.monotonic() - start)
    return {"seed": seed, "cases": counts.total(), "seconds": seconds, "by kind": dict(counts), "faults": dict(faults)}


def _run(job: tuple[int, int, Path, Seeds, tuple[str, ...], Path | None]) -> tuple[int, str, list[str]]:
    number, seed, room, seeds, kinds, keep = job
    folder = room / f"case{number}"
    case = draw(number, seed, folder, seeds, kinds)
    outcome = run(case)
    found = [f"{fault} <- {' '.join(case.command)!r}" for fault in outcome.faults]
    if found and keep is not None:
        kept = keep / f"{seed}_{number}"
        shutil.copytree(folder, kept, symlinks=True, ignore=_special, dirs_exist_ok=True)
        (kept / "stderr").write_text(outcome.stderr, errors="backslashreplace")
        (kept / "command").write_text(json.dumps(case.command))
    shutil.rmtree(folder, ignore_errors=True)
    return number, case.kind, found


def _run_by_hand(job: tuple[str, Path, Seeds]) -> tuple[str, list[str]]:
    name, room, seeds = job
    folder = room / name
    folder.mkdir()
    expected = MAKERS[name](folder, seeds)
    outcome = run(expected.case)
    said = outcome.stdout + outcome.stderr
    found = list(outcome.faults)
    if expected.code not in (None, outcome.code) or expected.says not in said:
        found.append(f"exit {outcome.code}, expected {expected.code} and {expected.says!r}: {said[-300:]!r}")
    shutil.rmtree(folder, ignore_errors=True)
    return name, found


def _kill(job: tuple[int, int, Path, Seeds]) -> tuple[int, list[str]]:
    number, seed, room, seeds = job
    return number, kill_and_repeat(number, seed, room / f"kill{number}", seeds)


def _special(folder: str, names: list[str]) -> set[str]:
    """Names that are neither files nor folders, which copytree would read for ever."""
    return {name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="number of commands to kill at a random moment")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", default="", help=f"separated by commas: {', '.join(KINDS)}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder to keep the files of faulty cases in")
    asked = parser.parse_args()
    kinds = tuple(filter(None, asked.kinds.split(",")))
    found = campaign(
        asked.cases,
        asked.seed,
        kills=asked.kills,
        first=asked.first,
        kinds=kinds,
        workers=asked.workers,
        keep=asked.keep,
    )
    print(json.dumps(found, indent=2))
    return int(any(found["faults"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
