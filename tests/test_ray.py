"""FindPoses in Ray Data, in an environment of its own (make ray)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from trt_pose import models
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "build" / "ray" / "bin" / "python"
COUNT = 500

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# The column types are the same for a batch without people. Otherwise Parquet files of one data set would differ.
TYPES = """
import sys
from pathlib import Path

import pyarrow

from trt_pose.batch import FindPoses

find = FindPoses(sys.argv[1], threads=1)
pictures = [Path(path).read_bytes() for path in sys.argv[2:]]
full = find(pyarrow.table({"name": ["a", "b"], "bytes": pictures}))
empty = find(pyarrow.table({"name": ["a"], "bytes": [b"no image"]}))
assert full.schema == empty.schema, (full.schema, empty.schema)
assert full.column_names == ["name", "count", "boxes", "scores", "joints", "error"]
assert sum(full["count"].to_pylist()) > 0
assert empty["error"].to_pylist()[0]
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """500 pictures and a damaged one, and the demonstration model."""
    folder = tmp_path_factory.mktemp("ray")
    write_coco(SyntheticPeople(COUNT, (160, 160), seed=5), folder / "images").unlink()
    (folder / "images" / "damaged.png").write_bytes((folder / "images" / "000001.png").read_bytes()[:2000])
    models.get("demo").export(folder / "demo.onnx", max_predictions_per_image=50, input_image_shape=160)
    return folder


def run(work, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([PYTHON, *arguments], capture_output=True, text=True, env=environment, cwd=work, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_picture_once_though_an_actor_is_killed(work):
    job = ROOT / "benchmarks" / "ray_job.py"
    run(work, job, "stream", "demo.onnx", "images", "stream.json")
    run(work, job, "ray", "demo.onnx", "images", "ray.json", "--kill")
    alone, found = (json.loads((work / f"{name}.json").read_text()) for name in ("stream", "ray"))
    assert len(found["killed"]) == 1
    names = [row["path"] for row in found["rows"]]
    assert len(names) == len(set(names)) == COUNT + 1

    def people(rows):
        return {row["path"]: (row["count"], row["boxes"], row["joints"]) for row in rows}

    assert people(found["rows"]) == people(alone["rows"])
    assert sum(row["count"] for row in found["rows"]) > COUNT
    assert [row["path"] for row in found["rows"] if row["error"]] == ["damaged.png"]


def test_the_types_of_a_table_do_not_depend_on_what_is_found(work):
    images = sorted((work / "images").glob("*.png"))[:2]
    run(work, "-c", TYPES, "demo.onnx", *images)
