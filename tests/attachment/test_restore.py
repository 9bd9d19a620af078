"""Descriptions given back to files whose tool dropped them."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from trt_pose import ExportError, PosePredictor, RunnerError
from trt_pose.attachment import restore
from trt_pose.cli import main
from trt_pose.graphs.file import read_spec

from ..conftest import make_tiny


def dropped(source, target):
    """Does what ONNX GraphSurgeon's import and export do: the graph stays, the metadata goes."""
    onnx.save(gs.export_onnx(gs.import_onnx(onnx.load(source))), target)
    with pytest.raises(RunnerError, match="no trt_pose description"):
        PosePredictor(target)
    return target


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_plugin_onnx"])
def test_the_description_comes_back(fixture, request, tmp_path, photograph):
    original = request.getfixturevalue(fixture)
    bare = dropped(original, tmp_path / "bare.onnx")
    with pytest.raises(SystemExit, match="0"):
        main(["attach", str(bare), "-o", str(tmp_path / "back.onnx"), "--spec-from", str(original)])
    assert read_spec(onnx.load(tmp_path / "back.onnx")) == read_spec(onnx.load(original))
    with PosePredictor(original) as first, PosePredictor(tmp_path / "back.onnx") as second:
        poses = [predictor.predict(photograph).poses for predictor in (first, second)]
    np.testing.assert_array_equal(poses[0].joints, poses[1].joints)


def test_the_precision_is_that_of_the_graph(tiny_onnx, tmp_path):
    proto = onnx.load(tiny_onnx)
    for weight in proto.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            half = onnx.numpy_helper.from_array(
                onnx.numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}_h"
            )
            proto.graph.node.insert(
                0, onnx.helper.make_node("Cast", [half.name], [weight.name], to=onnx.TensorProto.FLOAT)
            )
            weight.CopyFrom(half)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "half.onnx")
    spec = restore(tmp_path / "half.onnx", tmp_path / "back.onnx", tiny_onnx)
    assert (spec.precision, spec.quantization) == ("fp16", "to fp16 by another tool")


def test_another_file_is_refused(tiny_onnx, tiny_plugin_onnx, tmp_path):
    bare = dropped(tiny_onnx, tmp_path / "bare.onnx")
    make_tiny(5).export(tmp_path / "five.onnx", verification=False, input_image_shape=(128, 160))
    for original in (tmp_path / "five.onnx", tiny_plugin_onnx):
        with pytest.raises(ExportError, match=r"are .*, expected .*\. Give the file"):
            restore(bare, tmp_path / "back.onnx", original)
    with pytest.raises(RunnerError, match="no trt_pose description"):
        restore(bare, tmp_path / "back.onnx", bare)
    assert not (tmp_path / "back.onnx").exists()
