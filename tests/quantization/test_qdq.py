"""Where quantizers go, read off the written graph node by node."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_pose import CalibrationError, ExportError, UsageError
from trt_pose.quantization import SelectiveQuantizer
from trt_pose.quantization.fp16 import to_half
from trt_pose.quantization.network import Network
from trt_pose.quantization.qdq import fp16_exact_scale, quantize_layers, quantized_layers
from trt_pose.quantization.snr import Noise, shared_noise
from trt_pose.runtime.ort import OnnxRunner
from trt_pose.spec import METADATA_KEY, InputSpec, ModelSpec


@pytest.fixture(scope="module")
def network(tiny_onnx):
    return Network(onnx.load(tiny_onnx))


@pytest.fixture(scope="module")
def thresholds(network):
    return dict.fromkeys(network.activations(), 3.0)


@pytest.fixture(scope="module")
def quantized(network, thresholds):
    return quantize_layers(network, network.layers, thresholds)


def producers(proto):
    return {name: node for node in proto.graph.node for name in node.output}


def initializers(proto):
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def test_the_network_is_what_lies_before_the_decode(network):
    names = {node.name for node in network.proto.graph.node if node.name.startswith(("/network/", "/preprocess/"))}
    assert network.nodes == names
    assert len(network.border) == 3
    assert all(name.startswith("/network/heads/Concat") for name in network.border)


def test_every_convolution_and_pool_reads_int8(quantized, network):
    made, constants = producers(quantized), initializers(quantized)
    weighted = [node for node in quantized.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(weighted) == sum(node.op_type in ("Conv", "ConvTranspose") for node in network.proto.graph.node)
    for node in weighted:
        activation, weight = made[node.input[0]], made[node.input[1]]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert made[activation.input[0]].op_type == "QuantizeLinear"
        values, scale = constants[weight.input[0]], constants[weight.input[1]]
        axis = next(item.i for item in weight.attribute if item.name == "axis")
        assert axis == (0 if node.op_type == "Conv" else 1)
        assert values.dtype == np.int8
        assert scale.shape == (values.shape[axis],)
        assert values.min() >= -127
        if len(node.input) == 3:  # the bias stays as it was
            assert constants[node.input[2]].dtype == np.float32
    for node in quantized.graph.node:
        if node.op_type == "MaxPool":
            assert made[node.input[0]].op_type == "DequantizeLinear"
        if node.op_type == "Concat" and node.name in network.nodes:
            assert all(made[name].op_type != "DequantizeLinear" for name in node.input)
    assert quantized_layers(quantized) == len(weighted)


def test_residual_sums_read_their_shortcut_in_int8(quantized, network):
    made = producers(quantized)
    sums = [node for node in quantized.graph.node if node.op_type == "Add" and node.name in network.nodes]
    assert sums
    for node in sums:
        kinds = [made[name].op_type for name in node.input]
        assert sorted(kinds) == ["DequantizeLinear", "Relu"]  # the shortcut, and the convolution's own result
        shortcut = made[made[node.input[kinds.index("DequantizeLinear")]].input[0]]
        assert made[shortcut.input[0]].op_type == "Mul"


def test_it_is_symmetric_and_valid(quantized):
    onnx.checker.check_model(quantized, full_check=True)
    constants = initializers(quantized)
    for node in quantized.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not constants[node.input[2]].any()
            assert constants[node.input[2]].dtype == np.int8
            assert (constants[node.input[1]] > 0).all()


def test_nothing_after_the_network_is_touched(quantized, network):
    before = [node for node in network.proto.graph.node if node.name not in network.nodes]
    after = [node for node in quantized.graph.node if node.name.startswith("/postprocess")]
    assert len(before) > 50
    assert before == after


def test_a_tensor_is_quantized_once(quantized):
    quantizers = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[0] for node in quantizers}) == len(quantizers)


def test_weights_are_within_half_a_step(quantized, network):
    made, constants = producers(quantized), initializers(quantized)
    for layer in network.layers:
        if layer.weight is None:
            continue
        node = next(node for node in quantized.graph.node if node.name == layer.name)
        weight = made[node.input[1]]
        shape = [1] * constants[weight.input[0]].ndim
        shape[layer.axis] = -1
        scale = constants[weight.input[1]].reshape(shape)
        back = constants[weight.input[0]] * scale
        assert (np.abs(back - network.constant(layer.weight)) <= scale * 0.5001).all()


def test_scales_fit_fp16_and_never_clip():
    wanted = np.array([1e-9, 1e-7, 3e-5, 0.001234, 1.0, 254.9, 6e6])
    scale = fp16_exact_scale(wanted)
    assert (scale.astype(np.float16).astype(np.float32) == scale).all()
    assert (scale.astype(np.float64) >= wanted / 127).all()
    assert (scale[4:] <= wanted[4:] / 127 * 1.001).all()
    assert fp16_exact_scale(np.array(0.0)) == 1.0  # nothing to scale
    assert np.isinf(fp16_exact_scale(np.array(1e9)))


def test_a_threshold_beyond_fp16_is_one_sentence(network, thresholds):
    with pytest.raises(CalibrationError, match="exceeds FP16"):
        quantize_layers(network, network.layers, {**thresholds, network.activations()[3]: 1e9})


def test_a_missing_threshold_is_one_sentence(network):
    with pytest.raises(CalibrationError, match="no threshold for"):
        quantize_layers(network, network.layers, {})


def test_excluded_layers_stay_as_they_are(network, thresholds):
    chosen = SelectiveQuantizer(exclude=("*head1*", "stem")).choose(network.layers)
    proto = quantize_layers(network, chosen, thresholds)
    made = producers(proto)
    for node in proto.graph.node:
        if node.op_type == "Conv":
            inside = "head1" not in node.name and "stem" not in node.name
            assert (node.input[1] in made) == inside, node.name


def test_patterns_that_match_nothing_are_refused(network):
    for selective in (SelectiveQuantizer(exclude=("*nonsense*",)), SelectiveQuantizer(include=("cls", "xyz"))):
        with pytest.raises(UsageError, match=r"matches none of .* the names are like /network/backbone/stem"):
            selective.choose(network.layers)
    with pytest.raises(UsageError, match="expected a SelectiveQuantizer"):
        SelectiveQuantizer.of([1])
    assert SelectiveQuantizer.of("stem").exclude == ("stem",)
    assert SelectiveQuantizer.of(None).choose(network.layers) == list(network.layers)
    assert len(SelectiveQuantizer(include=("*MaxPool",)).choose(network.layers)) == 3


def foreign(opset=17, weight_sums_bins=True):
    """A small network of another toolkit: SiLU, residual, Gemm, and a decode whose convolution is an expectation."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)),
        "w2": rng.normal(size=(8, 8, 3, 3)),
        "w3": rng.normal(size=(16, 8, 1, 1)),
        "bins": np.arange(16).reshape(1, 16, 1, 1) if weight_sums_bins else rng.normal(size=(1, 16, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "c1", pads=[1] * 4),
        helper.make_node("Sigmoid", ["a"], ["s"], "sig"),
        helper.make_node("Mul", ["a", "s"], ["b"], "silu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "c2", pads=[1] * 4),
        helper.make_node("Add", ["c", "b"], ["d"], "add"),
        helper.make_node("Conv", ["d", "w3"], ["e"], "c3"),
        helper.make_node("Softmax", ["e"], ["p"], "softmax", axis=1),
        helper.make_node("Conv", ["p", "bins"], ["y"], "dfl"),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_a_network_without_our_names_is_told_from_its_decode():
    network = Network(foreign())
    assert network.nodes == {"c1", "sig", "silu", "c2", "add", "c3"}
    assert network.border == ("e",)
    assert [layer.name for layer in network.layers] == ["c1", "c2", "add", "c3"]
    assert network.layers[2].activation == "b"  # the shallower branch is the shortcut, at whichever input
    assert network.layers[2].position == 1
    assert "dfl" in Network(foreign(weight_sums_bins=False)).nodes


def two_stages():
    """A network of two stages: the second reads the features of the first at a box made of them."""
    rng = np.random.default_rng(1)
    constants = {
        "w1": rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "w2": rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
        "four": np.arange(4), "least": np.array([0, 0, 8, 8], np.float32), "zero": np.float32(0), "one": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=[1] * 4),
        helper.make_node("ReduceMean", ["a"], ["m"], "mean", axes=[2, 3], keepdims=0),
        helper.make_node("Gather", ["m", "four"], ["g"], "gather", axis=1),
        helper.make_node("Abs", ["g"], ["p"], "abs"),
        helper.make_node("Add", ["p", "least"], ["box"], "box"),
        helper.make_node("ReduceSum", ["g"], ["s"], "sum", keepdims=0),
        helper.make_node("Mul", ["s", "zero"], ["n"], "number"),
        helper.make_node("Reshape", ["n", "one"], ["r"], "shape"),
        helper.make_node("Cast", ["r"], ["image"], "image", to=TensorProto.INT64),
        helper.make_node("RoiAlign", ["a", "box", "image"], ["f"], "pool", output_height=2, output_width=2),
        helper.make_node("Conv", ["f", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 2, 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = ModelSpec("two", input=InputSpec(name="x", height=16, width=16, resize_to=(16, 16), dtype="float32"))
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    return proto


def test_positions_are_no_values_of_the_network(rng, tmp_path):
    network = Network(two_stages())
    assert network.nodes == {"first", "pool", "second"}
    assert network.positions == ("box", "image")
    assert network.border == ("a", "y")
    images = rng.uniform(0, 255, (1, 3, 16, 16)).astype(np.float32)
    made = quantize_layers(network, network.layers, {"x": 255.0, "f": 2000.0})
    noise = Noise(network, [images])
    assert set(noise.of(network.proto).values()) == {float("inf")}
    for changed in (made, to_half(network), to_half(Network(made))):
        assert min(noise.of(changed).values()) > 20
    onnx.save(network.proto, tmp_path / "one.onnx")
    onnx.save(made, tmp_path / "int8.onnx")
    shared = shared_noise(tmp_path / "one.onnx", tmp_path / "int8.onnx", [images])
    assert shared["y"] == pytest.approx(noise.of(made)["y"])  # inner tensors of two files are compared so, too
    half = to_half(network)
    (pool,) = (node for node in half.graph.node if node.op_type == "RoiAlign")
    assert pool.input[1] == "box"
    assert pool.input[0] == "a/fp32"


def test_graphs_it_cannot_read():
    empty = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ExportError, match="no convolution"):
        Network(empty)
    branch = helper.make_graph([], "b", [], [])
    controlled = foreign()
    controlled.graph.node.append(helper.make_node("If", ["x"], ["z"], "if", then_branch=branch, else_branch=branch))
    with pytest.raises(ExportError, match="node if holds a graph of its own"):
        Network(controlled)
    old = Network(foreign(opset=11))
    with pytest.raises(CalibrationError, match="operator set is 11"):
        quantize_layers(old, old.layers, dict.fromkeys(old.activations(), 1.0))


def test_int8_computes_what_its_integers_say(network, thresholds):
    """One convolution by hand: rounded integers, products, the scale of both, the bias."""
    layer = next(layer for layer in network.layers if layer.kind == "Conv" and "stage1/downsample" in layer.name)
    proto = quantize_layers(network, [layer], {layer.activation: 3.0})
    from trt_pose.graphs.surgery import extract_subgraph

    made = producers(proto)[next(node for node in proto.graph.node if node.name == layer.name).output[0]]
    part = extract_subgraph(proto, [layer.activation, made.output[0]])
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 128, 160), dtype=np.uint8)
    with OnnxRunner(part.SerializeToString(), providers=["cpu"]) as runner:
        outputs = runner.run({"input": pixels})
    import torch

    x = np.clip(np.rint(outputs[layer.activation] / (np.float32(fp16_exact_scale(np.array(3.0))))), -128, 127)
    w = network.constant(layer.weight).astype(np.float64)
    scale = fp16_exact_scale(np.abs(w).max(axis=(1, 2, 3)))
    integers = np.clip(np.rint(w / scale[:, None, None, None]), -127, 127)
    node = next(node for node in network.proto.graph.node if node.name == layer.name)
    options = {item.name: list(item.ints) for item in node.attribute if item.ints}
    sums = torch.nn.functional.conv2d(
        torch.from_numpy(x.astype(np.float64)),
        torch.from_numpy(integers),
        stride=options["strides"],
        padding=options["pads"][:2],
    ).numpy()
    bias = network.constant(node.input[2])
    want = sums * scale[:, None, None] * float(fp16_exact_scale(np.array(3.0))) + bias[:, None, None]
    np.testing.assert_allclose(outputs[made.output[0]], want, rtol=1e-4, atol=1e-4)


def run_foreign(proto, x):
    import onnxruntime

    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


def test_graphs_of_other_exporters(rng):
    """Nameless nodes, weights and numbers in Constant nodes, domains named twice, sums of shapes, taken names."""
    proto = foreign()
    for index, node in enumerate(proto.graph.node):
        node.name = "" if index % 2 else "same"
    weight = next(item for item in proto.graph.initializer if item.name == "w2")
    proto.graph.initializer.remove(weight)
    nodes = [
        helper.make_node("Constant", [], ["w2"], value=numpy_helper.from_array(numpy_helper.to_array(weight))),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        *proto.graph.node[:3],
        helper.make_node("Mul", ["b", "half"], ["b_scale"]),
        helper.make_node("Shape", ["b"], ["s1"]),
        helper.make_node("Shape", ["a"], ["s2"]),
        helper.make_node("Add", ["s1", "s2"], ["s3"]),
        helper.make_node("Sub", ["s3", "s2"], ["s4"]),
        helper.make_node("Reshape", ["b_scale", "s4"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"], pads=[1] * 4),
        *proto.graph.node[4:],
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.opset_import.append(helper.make_opsetid("", 17))
    x = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    network = Network(proto)
    want = run_foreign(network.proto, x)
    assert [layer.kind for layer in network.layers] == ["Conv", "Conv", "Add", "Conv"]
    int8 = quantize_layers(network, network.layers, dict.fromkeys(network.activations(), 40.0))
    assert len(int8.SerializeToString()) < len(proto.SerializeToString())
    for made in (int8, to_half(network), to_half(Network(int8))):
        onnx.checker.check_model(made, full_check=True)
        assert np.abs(run_foreign(made, x) - want).mean() < 1.0  # of 16 bins
        assert len(made.opset_import) == 1


def test_products_with_weights(rng):
    weights = {"w1": rng.normal(size=(8, 3, 3, 3)), "m": rng.normal(size=(8, 5)), "g": rng.normal(size=(4, 5))}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "m"], ["h"], "matmul"),
        helper.make_node("Gemm", ["h", "g"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    network = Network(proto)
    assert {layer.name: layer.axis for layer in network.layers} == {"conv": 0, "matmul": 1, "gemm": 0}
    x = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    int8 = quantize_layers(network, network.layers, dict.fromkeys(network.activations(), 5.0))
    want = run_foreign(proto, x)
    for made in (int8, to_half(Network(int8))):
        np.testing.assert_allclose(run_foreign(made, x), want, atol=0.5)
    assert Network(int8).layers == ()  # what is INT8 is no candidate again


def test_selective_quantizers_are_forgiving_and_exact(network):
    assert SelectiveQuantizer(exclude="stem").exclude == ("stem",)
    with pytest.raises(UsageError, match="every layer is excluded"):
        SelectiveQuantizer(exclude="*").choose(network.layers)
    whole = network.layers[0].name
    kept = SelectiveQuantizer(exclude=whole).choose(network.layers)
    assert len(kept) == len(network.layers) - sum(layer.name == whole for layer in network.layers)


def test_biases_stay_floats_in_onnx_runtime():
    """Its own pass would round them to the product of the scales, which FP16 cannot hold: the bias was lost."""
    bias, wide, narrow = np.array([3.0], np.float16), np.float16(0.0125), np.float16(0.0002)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["dw"], axis=0),
            helper.make_node("Conv", ["d", "dw", "bias"], ["half"]),
            helper.make_node("QuantizeLinear", ["half", "out", "zero"], ["again"]),
            helper.make_node("DequantizeLinear", ["again", "out", "zero"], ["level"]),
            helper.make_node("Cast", ["level"], ["y"], to=TensorProto.FLOAT),
        ],
        "bias",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in (
                ("scale", wide), ("zero", np.int8(0)), ("scales", narrow[None]), ("zeros", np.zeros(1, np.int8)),
                ("w", np.ones((1, 1, 1, 1), np.int8)), ("bias", bias), ("out", np.float16(1 / 32)),
            )
        ],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    proto.metadata_props.add(key=METADATA_KEY, value=ModelSpec("m", precision="int8+fp16").to_json())
    with OnnxRunner(proto.SerializeToString(), providers=["cpu"]) as runner:
        found = runner.run({"x": np.zeros((1, 1, 2, 2), np.float16)})["y"]
    np.testing.assert_allclose(found, 3.0, atol=1e-3)
