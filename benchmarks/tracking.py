"""How well people keep their ids: the trackers on synthetic clips, with what the demo model finds in them.

    python benchmarks/tracking.py       # writes benchmarks/results/tracking.{json,md}

Needs the package trackers, whose metrics are used: IDF1 (E. Ristani et al., 2016) and the number of id switches.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from machine import sentence, write_results

from trt_pose import PosePredictor, models
from trt_pose.benchmark.machine import machine
from trt_pose.choices import Tracker
from trt_pose.images.reading import Clip
from trt_pose.images.synthetic import SCENES, Sample
from trt_pose.images.synthetic_clip import SyntheticClip
from trt_pose.results.detections import Result
from trt_pose.results.pairing import box_iou
from trt_pose.results.tracking import Tracks

CONFIDENCE, FRAMES, CLIPS = 0.3, 150, 6


def export_demo(folder: Path) -> Path:
    """The demo model as an ONNX file with a threshold that leaves the trackers something to decide."""
    path = folder / "demo.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models.get("demo").export(path, verification=False, confidence_threshold=CONFIDENCE)
    return path


def find_people(predictor: PosePredictor, frames: Sequence[Sample], rate: float) -> list[Result]:
    """The results of the frames of a clip, as ``stream`` gives them for a video."""
    clip = Clip("clip", Fraction(rate).limit_denominator(1001))
    found: Iterable[Any] = predictor.stream([frame.image for frame in frames])
    return [replace(result, clip=clip, index=i, time_s=i / rate) for i, result in enumerate(found)]


def score(frames: Sequence[Sample], results: Sequence[Result], tracker: str) -> dict[str, float]:
    """IDF1 of a tracker on a clip, its switches of ids, and how many people and tracks there are."""
    from trackers.eval.clear import compute_clear_metrics
    from trackers.eval.identity import compute_identity_metrics

    tracks = Tracks(tracker, CONFIDENCE)
    truth, ids, overlaps = [], [], []
    for frame, result in zip(frames, results, strict=True):
        found = tracks.update(result).prediction
        assert found.ids is not None
        assert frame.ids is not None
        followed = found.ids >= 0
        truth.append(frame.ids)
        ids.append(found.ids[followed])
        overlaps.append(box_iou(frame.boxes, found.boxes[followed]).reshape(len(frame.ids), int(followed.sum())))
    identity = compute_identity_metrics(truth, ids, overlaps)
    switches = compute_clear_metrics(truth, ids, overlaps)["IDSW"]
    people, found_tracks = (len(np.unique(np.concatenate(numbers))) for numbers in (truth, ids))
    return {"idf1": float(identity["IDF1"]), "switches": int(switches), "people": people, "tracks": found_tracks}


def measure() -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder, PosePredictor(export_demo(Path(folder)), providers=["cpu"]) as model:
        for scene in SCENES:
            clips = [SyntheticClip(FRAMES, seed=seed, scene=SCENES[scene]) for seed in range(CLIPS)]
            seen = [(list(clip), find_people(model, clip, clip.rate)) for clip in clips]
            for tracker in map(str, Tracker):
                scores = [score(frames, results, tracker) for frames, results in seen]
                sums = {name: sum(item[name] for item in scores) for name in ("switches", "people", "tracks")}
                values = [item["idf1"] for item in scores]
                rows.append({"scene": scene, "tracker": tracker, "idf1": float(np.mean(values)), "least": min(values)})
                rows[-1] |= sums
    return rows


def report(where: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Tracking", "",
        f"Written by `benchmarks/tracking.py`. {sentence(where)}", "",
        f"{CLIPS} synthetic clips of {FRAMES} frames for each scene; the demo model finds the people.", "",
        "| scene | tracker | IDF1, mean | IDF1, lowest | id switches | people | tracks |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {row['scene']} | {row['tracker']} | {row['idf1']:.3f} | {row['least']:.3f} | {row['switches']}"
        f" | {row['people']} | {row['tracks']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    rows = measure()
    where = machine(("trt-pose", "numpy", "onnxruntime", "trackers"))
    write_results("tracking", {"machine": where, "rows": rows}, report(where, rows))
    sys.stdout.write(report(where, rows))


if __name__ == "__main__":
    main()
