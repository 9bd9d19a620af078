"""Tests of graph surgery on small graphs made by hand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_pose import ExportError
from trt_pose.graphs.surgery import extract_subgraph, join, normalize_graph, rename, to_graph, to_model


def small(constant_node=False, names=("double", "add")):
    """y = 2 x + 1 and z = y * y, with metadata."""
    two = numpy_helper.from_array(np.array(2.0, np.float32), "two")
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["d"], names[0]),
        helper.make_node("Add", ["d", "one"], ["y"], names[1]),
        helper.make_node("Mul", ["y", "y"], ["z"], "square"),
    ]
    initializers = [two, numpy_helper.from_array(np.array(1.0, np.float32), "one")]
    if constant_node:
        nodes.insert(0, helper.make_node("Constant", [], ["two"], value=two))
        initializers = initializers[1:]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xz")
    graph = helper.make_graph(nodes, "g", [x], [z], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="us", ir_version=8)
    model.metadata_props.add(key="k", value="v")
    return model


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: np.asarray(x, np.float32)})


def test_opening_and_closing_changes_nothing():
    model = small()
    again = to_model(to_graph(model), model)
    assert [(item.key, item.value) for item in again.metadata_props] == [("k", "v")]
    assert (again.producer_name, again.ir_version) == ("us", 8)
    assert list(again.graph.node) == list(model.graph.node)
    np.testing.assert_array_equal(run(again, [0, 1, 2])[0], [1, 9, 25])


def test_a_part_has_the_tensors_as_outputs_and_nothing_behind_them():
    part = extract_subgraph(small(), ["y", "d"])
    assert [node.name for node in part.graph.node] == ["double", "add"]
    assert [(item.key, item.value) for item in part.metadata_props] == [("k", "v")]
    y, d = run(part, [0, 1, 2])
    assert (y.tolist(), d.tolist()) == ([1, 3, 5], [0, 2, 4])


def test_normalizing_names_nodes_and_makes_constants_initializers():
    model = small(constant_node=True, names=("", "square"))
    model.opset_import.extend([helper.make_opsetid("TRT", 1), helper.make_opsetid("TRT", 3)])
    tidy = normalize_graph(model)
    names = [node.name for node in tidy.graph.node]
    assert len(set(names)) == 3
    assert "" not in names
    assert sorted(item.name for item in tidy.graph.initializer) == ["one", "two"]
    assert [(item.domain, item.version) for item in tidy.opset_import] == [("", 17), ("TRT", 3)]
    assert model.graph.node[0].op_type == "Constant", "the argument was changed"
    assert [(item.key, item.value) for item in tidy.metadata_props] == [("k", "v")]
    del tidy.opset_import[1:]
    np.testing.assert_array_equal(run(tidy, [0, 1, 2])[0], [1, 9, 25])


def test_a_model_in_order_is_not_copied():
    model = small()
    assert normalize_graph(model) is model


def test_control_flow_is_refused():
    body = small().graph
    node = helper.make_node("If", ["c"], ["o"], "choose", then_branch=body, else_branch=body)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [])
    with pytest.raises(ExportError, match="node choose holds a graph of its own"):
        normalize_graph(helper.make_model(graph))


def test_two_graphs_are_joined_without_their_names_meeting():
    first, second = small(), small()
    joined = join(rename(to_graph(first), "a/"), rename(to_graph(second), "b/", inside=True), {"x": "a/y"})
    model = to_model(joined, first)
    onnx.checker.check_model(model)
    assert [item.name for item in model.graph.input] == ["a/x"]
    assert [item.name for item in model.graph.output] == ["z"]
    assert "a/square" not in [node.name for node in model.graph.node]  # nothing depends on it
    np.testing.assert_array_equal(run(model, [0, 1, 2])[0], [9, 49, 121])  # (2 (2 x + 1) + 1)^2


def test_a_tensor_that_no_node_makes(tiny_onnx):
    with pytest.raises(ExportError, match="no node makes nothing"):
        extract_subgraph(onnx.load(tiny_onnx), ["nothing"])


def test_an_unknown_element_type_is_refused_in_one_sentence():
    model = small()
    model.graph.output[0].type.tensor_type.elem_type = 99
    with pytest.raises(ExportError, match="GraphSurgeon cannot read it"):
        to_graph(model)
