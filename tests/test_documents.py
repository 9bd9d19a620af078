"""Documents: values of another type or out of bounds are one sentence that names their path."""

import json
from dataclasses import replace

import numpy as np
import pytest

from trt_pose import CalibrationError, EngineError, ModelSpec, RunnerError, SourceError
from trt_pose.documents import to_json
from trt_pose.images.annotations import read_annotations
from trt_pose.quantization.cache import CalibrationCache
from trt_pose.skeleton import COCO
from trt_pose.spec import InputSpec, OutputSpec
from trt_pose.trt.sidecar import Sidecar, sidecar_path

from .conftest import DATA

SPEC = ModelSpec("m", input=InputSpec(batch=None), output=OutputSpec("batch", ("a", "b")), skeleton=COCO)
SIDECAR = Sidecar(SPEC, "00", 1, "11", "tensorrt", "10.3.0", {"name": "A", "compute_capability": "8.6"})
CACHE = CalibrationCache({"x": 1.5}, "aa", "{}", "bb", 4, "entropy", "v")
DEEP = '{"version": 1, "input": ' + '{"x":' * 100_000 + "1" + "}" * 100_000 + "}"


def changed(record, path, value):
    """A copy of a document with one value replaced."""
    copy = json.loads(json.dumps(record))
    *parents, last = path.split(".")
    place = copy
    for name in parents:
        place = place[name]
    place[last] = value
    return copy


def test_json_of_today_is_read_back():
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC
    assert ModelSpec.from_json(json.dumps({**json.loads(SPEC.to_json()), "from_tomorrow": [1]})) == SPEC


def test_a_description_written_before_documents_were_typed():
    text = (DATA / "description.json").read_text(encoding="utf-8")
    spec = ModelSpec.from_json(text)
    assert (spec.input.resize_to, spec.input.normalization.channels) == ((128, 160), "BGR")
    assert spec.output.names == ("flat_predictions",)
    assert spec.skeleton.edges == ((0, 1),)
    assert spec.skeleton.joint_colors == ((1, 2, 3), (4, 5, 6))
    assert json.loads(spec.to_json()) == json.loads(text)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("input.batch", "320", r"\$\.input\.batch"),
        ("input.batch", 10**9, r"\$\.input\.batch: expected int <= 65536"),
        ("input.batch", 0, r"\$\.input\.batch: expected int >= 1"),
        ("input.height", 320.5, r"\$\.input\.height: expected int, got float"),
        ("input.width", 10**9, r"\$\.input\.width"),
        ("input.channels", -1, r"\$\.input\.channels"),
        ("input.white", [1], r"\$\.input\.white"),
        ("input.dtype", "int64", "dtype 'int64'"),
        ("input.normalization.std", [1, 2], r"\$\.input\.normalization\.std"),
        ("output.confidence_threshold", "0.5", r"\$\.output\.confidence_threshold"),
        ("output.confidence_threshold", 7, r"expected float <= 1\.0"),
        ("output.max_predictions_per_image", -3, r"\$\.output\.max_predictions_per_image"),
        ("output.names", ["a\nb"], "text without control characters"),
        ("model", "a\x1b[2Jb", r"\$\.model: expected text without control characters"),
        ("task", "x", "task: got 'x'"),
        ("precision", "int3", "precision: got 'int3'"),
        ("plugins_required", 0, r"\$\.plugins_required"),
        ("quantization", 1, r"\$\.quantization"),
        ("weights_sha256", 1, r"\$\.weights_sha256"),
        ("skeleton.edges", [[0, 99]], "pair"),
        ("skeleton.sigmas", ["x"], r"\$\.skeleton\.sigmas\[0\]"),
        ("skeleton.joint_colors", [[300, 0, 0]], r"\$\.skeleton\.joint_colors\[0\]\[0\]"),
        ("version", "1", "no version"),
    ],
)
def test_a_wrong_value_in_a_description_is_named(path, value, said):
    text = json.dumps(changed(json.loads(SPEC.to_json()), path, value))
    with pytest.raises(RunnerError, match=said) as caught:
        ModelSpec.from_json(text, "m.onnx")
    assert str(caught.value).startswith("reading the description in m.onnx: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, DEEP, '{"version": 1, "model": NaN}', "\ud800"])
def test_what_is_no_description_is_one_sentence(text):
    with pytest.raises(RunnerError, match="not a trt_pose description") as caught:
        ModelSpec.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.input.height", "x", r"\$\.spec\.input\.height"),
        ("gpu", {"name": "A"}, r"\$\.gpu"),
        ("gpu", "A", r"\$\.gpu"),
        ("plugins", 3, r"\$\.plugins"),
        ("engine_bytes", "big", r"\$\.engine_bytes"),
        ("profile", {"input": "x"}, r"\$\.profile"),
        ("generator", "\x07", "control characters"),
        ("trt_pose_engine", None, "no version"),
    ],
)
def test_a_wrong_value_beside_an_engine_is_named(tmp_path, path, value, said):
    engine = tmp_path / "m.engine"
    sidecar_path(engine).write_text(SIDECAR.to_json())
    assert Sidecar.read(engine) == replace(SIDECAR)
    sidecar_path(engine).write_text(json.dumps(changed(json.loads(SIDECAR.to_json()), path, value)))
    with pytest.raises(EngineError, match=said):
        Sidecar.read(engine)
    sidecar_path(engine).write_text("[" * 100_000)
    with pytest.raises(EngineError, match="nested too deeply"):
        Sidecar.read(engine)


@pytest.mark.parametrize(
    ("path", "value"),
    [("thresholds.x", -1), ("thresholds.x", True), ("thresholds", [1]), ("images", -1), ("data", None)],
)
def test_a_wrong_value_in_a_calibration_cache_is_named(tmp_path, path, value):
    file = tmp_path / "c.json"
    CACHE.write(file)
    assert CalibrationCache.read(file) == CACHE
    file.write_text(json.dumps(changed(json.loads(file.read_text(encoding="utf-8")), path, value)))
    with pytest.raises(CalibrationError, match=r"not a trt_pose calibration cache \(\$\."):
        CalibrationCache.read(file)


COCO_FILE = {
    "images": [{"id": 1, "file_name": "a.png", "licence": 3}],
    "annotations": [
        {"id": 4, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "keypoints": [5, 6, 2, 0, 0, 0]}
    ],
    "categories": [{"id": 1, "name": "person", "supercategory": "animal"}],
}


def test_annotations_keep_what_is_used(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(COCO_FILE).encode())
    truth = read_annotations(file)
    (note,) = truth["annotations"]
    assert (note["id"], note["num_keypoints"], note["iscrowd"], note["bbox"]) == (4, 1, 0, [1, 2, 30, 40])
    assert note["area"] == pytest.approx(0.53 * 30 * 40)
    assert truth["images"] == [{"id": 1, "file_name": "a.png"}]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("images", [{"id": [1], "file_name": "a.png"}], r"\$\.images\[0\]\.id"),
        ("images", [{"id": 1, "file_name": "x" * 5000}], r"\$\.images\[0\]\.file_name"),
        (
            "annotations",
            [{"image_id": 1, "category_id": "p", "bbox": [1, 2, 3, 4]}],
            r"annotation 1 with category_id 'p'",
        ),
        ("annotations", [{"image_id": 1, "category_id": 1, "bbox": ["x", 2, 3, 4]}], r"annotations\[0\]\.bbox\[0\]"),
        ("annotations", [{"image_id": 1, "category_id": 1}], "bbox"),
        ("categories", None, r"\$\.categories"),
    ],
)
def test_a_wrong_value_in_annotations_is_named(tmp_path, path, value, said):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(changed(COCO_FILE, path, value)))
    with pytest.raises(SourceError, match=said):
        read_annotations(file)


def test_what_is_written_every_parser_takes():
    text = to_json({"a": np.float32(1.5), "b": float("nan"), "c": (np.arange(2), None), "d": float("inf"), "e": "ü"})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": 1.5,
        "b": None,
        "c": [[0, 1], None],
        "d": None,
        "e": "ü",
    }
    assert text.isascii()
