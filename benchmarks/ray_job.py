"""Finds poses in a folder of images, by Ray Data or by PosePredictor.stream; runs in the environment of make ray.

With --kill, one of the two actors is killed once both have worked: its rows have to come back from the other.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from trt_pose import PosePredictor
from trt_pose.batch import FindPoses

ACTORS = 2
BATCH = 16
_BATCHES_BEFORE = 2  # that each actor has done before one is killed


class Watched(FindPoses):
    """FindPoses that leaves a file for each batch, with the number of its process."""

    def __init__(self, model: str, tracks: str, **options: Any) -> None:
        super().__init__(model, **options)
        self._tracks, self._done = tracks, 0

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        found = super().__call__(batch)
        self._done += 1
        Path(self._tracks, f"{os.getpid()}.{self._done}").touch()
        return found.append_column("pid", pyarrow.array([os.getpid()] * len(found)))


def kill_one(tracks: Path, killed: list[int]) -> None:
    """Kills an actor once each has done some batches."""
    while tracks.exists():
        done: dict[int, int] = {}
        for path in sorted(tracks.iterdir()):
            number = int(path.stem)
            done[number] = done.get(number, 0) + 1
        if len(done) >= ACTORS and min(done.values()) >= _BATCHES_BEFORE:
            killed.append(next(iter(done)))
            os.kill(killed[0], signal.SIGKILL)
            return
        time.sleep(0.05)


def by_ray(model: str, images: Path, kill: bool) -> dict[str, Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import pyarrow.parquet
    import ray

    begun = time.perf_counter()
    ray.init(
        num_cpus=ACTORS, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=256 << 20,
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    ready, killed = time.perf_counter(), list[int]()
    with tempfile.TemporaryDirectory() as name:
        tracks, output = Path(name, "tracks"), Path(name, "poses")
        tracks.mkdir()
        if kill:
            threading.Thread(target=kill_one, args=(tracks, killed), daemon=True).start()
        data = ray.data.read_binary_files(str(images), include_paths=True, override_num_blocks=ACTORS * 8)
        data = data.map_batches(
            Watched,
            fn_constructor_args=(model, str(tracks)),
            fn_constructor_kwargs={"threads": 1, "providers": ["cpu"]},
            batch_size=BATCH,
            batch_format="pyarrow",
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=ACTORS),
        )
        data.write_parquet(str(output))
        done = time.perf_counter()
        rows = pyarrow.parquet.read_table(output).to_pylist()
    ray.shutdown()
    return {"start_s": ready - begun, "seconds": done - ready, "killed": killed, "rows": [_row(row) for row in rows]}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "path": Path(row["path"]).name}


def by_stream(model: str, images: Path) -> dict[str, Any]:
    rows = []
    with PosePredictor(model, providers=["cpu"], threads=1) as predictor:
        begun = time.perf_counter()
        for result in predictor.stream(images, on_error="yield"):
            error = getattr(result, "error", None)
            poses = None if error is not None else result.poses
            rows.append(
                {
                    "path": Path(result.source).name,
                    "count": 0 if poses is None else len(poses),
                    "boxes": [] if poses is None else poses.boxes.tolist(),
                    "joints": [] if poses is None else poses.joints.tolist(),
                    "error": None if error is None else str(error),
                }
            )
        seconds = time.perf_counter() - begun
    return {"start_s": 0.0, "seconds": seconds, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=("ray", "stream"))
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument("images", type=Path, help="a folder")
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--kill", action="store_true", help="kill one actor")
    given = parser.parse_args()
    model, images = str(Path(given.model).resolve()), given.images.resolve()
    found = by_stream(model, images) if given.how == "stream" else by_ray(model, images, given.kill)
    given.output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
