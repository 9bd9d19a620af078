"""The recipes of CONTRIBUTING.md, followed: a model family, an output format, a runner backend and a head of attach.

Each test does at run time what the recipe writes into files: a row in a table, and a module beside it.
"""

import re
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from trt_pose import Poses, attach, models, open_runner
from trt_pose.attachment import AttachOptions, heads
from trt_pose.choices import DetectionOutputFormatMode, HeadName
from trt_pose.export.format_modules import FORMAT_MODULES
from trt_pose.formats import FORMATS, Batch
from trt_pose.models.card import Card
from trt_pose.models.catalogue import MODELS
from trt_pose.models.processing import COCO_POSE
from trt_pose.models.yolo_nas_pose.network import YoloNASPose
from trt_pose.operators.selection import Selection
from trt_pose.runtime import BACKENDS, Backend
from trt_pose.runtime.ort import OnnxRunner

from .conftest import SMALL, TINY, apply_keyed_weights

ROOT = Path(__file__).parent.parent


def add_member(monkeypatch, enum, name, value):
    """Adds a member to an enum until the end of the test."""
    member = str.__new__(enum, value)
    member._name_, member._value_ = name, value
    monkeypatch.setitem(enum._member_map_, name, member)
    monkeypatch.setitem(enum._value2member_map_, value, member)
    return member


def pixels(count=1):
    return np.random.default_rng(3).integers(0, 256, (count, 3, 128, 160), dtype=np.uint8)


def test_a_model_family(monkeypatch, tmp_path):
    network: Any = types.ModuleType("trt_pose.models.mine.network")
    network.build = lambda card, joints, classes: YoloNASPose("yolo_nas_pose_n", joints, TINY)
    network.count_outputs = lambda state: {"joints": 17} if "mine" in state else None
    monkeypatch.setitem(sys.modules, "trt_pose.models.mine", types.ModuleType("trt_pose.models.mine"))
    monkeypatch.setitem(sys.modules, "trt_pose.models.mine.network", network)
    card = Card("mine_s", "pose", "mine", 1_000_000, 1.0, COCO_POSE, {"joints": 17}, (), "Apache-2.0")
    monkeypatch.setitem(MODELS, card.name, card)

    with pytest.warns(UserWarning, match="mine_s has no weights"):
        model = models.get("mine_s")
    apply_keyed_weights(model).export(tmp_path / "m.onnx", **SMALL)
    with open_runner(tmp_path / "m.onnx") as runner:
        assert len(Poses.from_outputs(runner.run({"input": pixels()}), runner.spec)) > 0


def test_an_output_format(monkeypatch, tmp_path, tiny):
    class Scores(Batch):
        """Batch format without the boxes."""

        name = "boxless"

        def names(self, task):
            return ("num_predictions", "pred_scores", task.extra_output)

        def read(self, outputs, spec, index):
            count = int(outputs["num_predictions"][index, 0])
            joints = outputs["pred_joints"][index, :count]
            corners = np.concatenate([joints[..., :2].min(axis=1), joints[..., :2].max(axis=1)], axis=1)
            return corners, outputs["pred_scores"][index, :count], joints

    class Drop(nn.Module):
        def forward(self, outputs):
            return outputs[0], outputs[2], outputs[3]

    member = add_member(monkeypatch, DetectionOutputFormatMode, "BOXLESS_FORMAT", "boxless")
    monkeypatch.setitem(FORMATS, "boxless", Scores())
    monkeypatch.setitem(FORMAT_MODULES, member, Drop)

    tiny.export(tmp_path / "m.onnx", output_predictions_format="boxless", verification=False, **SMALL)
    tiny.export(tmp_path / "batch.onnx", **SMALL)
    with open_runner(tmp_path / "m.onnx") as runner, open_runner(tmp_path / "batch.onnx") as batch:
        assert list(runner.run({"input": pixels()})) == ["num_predictions", "pred_scores", "pred_joints"]
        got = Poses.from_outputs(runner.run({"input": pixels()}), runner.spec)
        want = Poses.from_outputs(batch.run({"input": pixels()}), batch.spec)
    assert len(got) > 0
    np.testing.assert_array_equal(got.joints, want.joints)


def test_a_runner_backend(monkeypatch, tmp_path, tiny_onnx):
    module: Any = types.ModuleType("trt_pose.runtime.mine")

    class MineRunner(OnnxRunner):
        def __init__(self, path, level=1):
            super().__init__(path, providers=["cpu"])
            self.level = level

    module.MineRunner = MineRunner
    monkeypatch.setitem(sys.modules, "trt_pose.runtime.mine", module)
    row = Backend("Mine", "a file of mine", (".mine",), ("level",), "mine", "MineRunner")
    monkeypatch.setattr("trt_pose.runtime.BACKENDS", (*BACKENDS, row))

    (tmp_path / "m.mine").write_bytes(tiny_onnx.read_bytes())
    with pytest.raises(Exception, match="threads belongs to ONNX Runtime, and it is a file of mine"):
        open_runner(tmp_path / "m.mine", threads=2)
    monkeypatch.setattr(MineRunner, "__init__", lambda self, path: OnnxRunner.__init__(self, Path(path).read_bytes()))
    with open_runner(tmp_path / "m.mine") as runner:
        assert isinstance(runner, MineRunner)


def test_a_head_of_attach(monkeypatch, tmp_path):
    corners = """
        parts = Constant <value_ints = [4, 1, {width}]> ()
        boxes, scores, flat = Split <axis = 2> (rows, parts)
        layout = Constant <value_ints = [0, 0, -1, 3]> ()
        joints = Reshape (flat, layout)
    """

    class Foreign(nn.Module):
        def forward(self, image):
            at = torch.arange(0, 48, 12, dtype=torch.float32)[None, :, None] + image.mean() * 0
            score = torch.full_like(at, 0.9)
            joints = torch.cat([at, at, score], dim=2).repeat(1, 1, 2)
            return torch.cat([at, at, at + 10, at + 10, score, joints], dim=2)

    member = add_member(monkeypatch, HeadName, "CORNERS", "corners")
    head = heads.Head(
        ("rows",), corners, lambda shapes: (shapes[0][1], (shapes[0][2] - 5) // 3), heads.HEADS[HeadName.DECODED].input
    )
    monkeypatch.setitem(heads.HEADS, member, head)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Foreign(), (torch.zeros(1, 3, 64, 64),), tmp_path / "their.onnx", dynamo=False,
            input_names=["images"], output_names=["rows"])  # fmt: skip
    spec = attach(
        tmp_path / "their.onnx",
        tmp_path / "ours.onnx",
        AttachOptions(head="corners", selection=Selection(0.4, 0.5, 4, 4)),
    )
    onnx.checker.check_model(onnx.load(tmp_path / "ours.onnx"))
    with open_runner(tmp_path / "ours.onnx", providers=["cpu"]) as runner:
        found = Poses.from_outputs(runner.run({"input": np.zeros((1, 3, 64, 64), np.uint8)}), spec)
    np.testing.assert_allclose(found.boxes[:, 0], [0, 12, 24, 36], atol=1e-4)
    assert found.joints.shape == (4, 2, 3)


def test_the_recipes_name_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = text[text.index("## Recipes") : text.index("## The house")]
    assert recipes.count("### ") == 4
    for recipe in recipes.split("### ")[1:]:
        files = re.findall(r"`((?:trt_pose|tests)/[a-z_/]+\.py)`", recipe)  # new files are in capitals
        assert 1 <= len([name for name in files if name.startswith("trt_pose")]) <= 3, recipe
        assert all((ROOT / name).exists() for name in files), files
