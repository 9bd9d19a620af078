"""ONNX files as they are written: the digest of what is in them."""

import numpy as np
import onnx
import pytest

from trt_pose.cli import main
from trt_pose.graphs.file import is_changed, load, record_accuracy, save
from trt_pose.inspection import inspect


def test_a_changed_weight_is_noticed(tiny_onnx, tmp_path, capsys):
    proto = load(tiny_onnx)
    assert is_changed(proto) is False
    assert inspect(tiny_onnx).changed is False
    weight = next(item for item in proto.graph.initializer if len(item.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nextafter(values.flat[0], np.float32(9))
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "m.onnx")
    assert inspect(tmp_path / "m.onnx").changed is True
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "m.onnx")])
    assert ended.value.code == 1
    assert "changed since" in " ".join(capsys.readouterr().out.split())


def test_metadata_may_change_and_files_of_others_have_no_digest(tiny_onnx, tmp_path):
    save(load(tiny_onnx), tmp_path / "m.onnx")
    record_accuracy(tmp_path / "m.onnx", {"file": {}})
    assert is_changed(load(tmp_path / "m.onnx")) is False
    proto = load(tiny_onnx)
    del proto.metadata_props[:]
    save(proto, tmp_path / "other.onnx")
    assert is_changed(load(tmp_path / "other.onnx")) is None
