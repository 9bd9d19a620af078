"""Mutations: of bytes, of JSON values, of ONNX graphs, of command lines. Everything is drawn from one generator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

# Values that a field of another type, or out of bounds, may have.
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2,
    3,
    255,
    320,
    1e9,
    10**9,
    10**30,
    1.5,
    -0.0,
    1e-38,
    3e38,
    "",
    "x",
    "320",
    "nan",
    "\x1b[31mRED",
    "a\nerror: b",
    "\x00",
    "é" * 300,
    [],
    [1],
    [[]],
    ["x"],
    {},
    {"a": 1},
    [None],
    "../../etc/passwd",
    "http://[bad",
)
NUMBERS = ("0", "-1", "1", "2", "nan", "inf", "-inf", "1e9", "99999999999", "0.5", "x", "", "1e-320", "0x10", "\uff11")


def damage(data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes cut, with flipped bits, shifted, with a hole of zeros, or with a run repeated."""
    kind, at = rng.randrange(6), rng.randrange(max(len(data), 1))
    if kind == 0 or not data:
        return data[:at]
    if kind == 1:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            # Headers matter more than the rest: half of the flips are in the first kilobyte.
            place = rng.randrange(min(len(data), 1024)) if rng.random() < 0.5 else rng.randrange(len(data))
            changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed)
    length = rng.choice((1, 4, 64, 4096))
    if kind == 2:
        return data[:at] + data[at + length :]
    if kind == 3:
        return data[:at] + bytes(length) + data[at + length :]
    if kind == 4:
        return data[:at] + data[at : at + length] * 3 + data[at + length :]
    return rng.randbytes(rng.choice((0, 1, 16, 4096)))


def damage_json(text: str, rng: random.Random) -> str:
    """Returns the JSON with one or two values replaced, removed or nested, or damaged as text."""
    if rng.random() < 0.15:
        return damage(text.encode(), rng).decode("utf-8", "surrogateescape")
    if rng.random() < 0.03:
        return rng.choice(("[" * 100_000, '{"a":' * 50_000, "null", "[]", "{}", "NaN", '"x"', "1e999", ""))
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):  # damaged before
        return damage(text.encode("utf-8", "surrogateescape"), rng).decode("utf-8", "surrogateescape")
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = list(_places(record))
        if not places:
            break
        container, key = rng.choice(places)
        if rng.random() < 0.15:
            del container[key]
        elif rng.random() < 0.1:
            container[key] = [container[key]]
        else:
            container[key] = rng.choice(VALUES)
    return json.dumps(record)


def _places(record: Any) -> list[tuple[Any, Any]]:
    """Returns the places of all values; of long lists only the first few."""
    if isinstance(record, dict):
        keys: list[Any] = list(record)
    elif isinstance(record, list):
        keys = list(range(min(len(record), 4)))
    else:
        return []
    found = [(record, key) for key in keys]
    for key in keys:
        found += _places(record[key])
    return found


def damage_graph(data: bytes, rng: random.Random) -> bytes:
    """Returns an ONNX model with one or two faults in its graph, its metadata or its description."""
    import onnx

    model = onnx.load_model_from_string(data)
    faults: tuple[Callable[[Any, random.Random], None], ...] = (
        _description,
        _description,
        _description,
        _metadata,
        _drop_output,
        _add_input,
        _rename,
        _dimension,
        _element,
        _attribute,
        _weights,
        _drop_node,
        _external,
        _opset,
        _bomb,
    )
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(faults)(model, rng)
    made: bytes = model.SerializeToString()
    return made


def _entry(model: Any) -> Any:
    return next((item for item in model.metadata_props if item.key == "trt_pose"), None)


def _description(model: Any, rng: random.Random) -> None:
    entry = _entry(model)
    if entry is not None:
        try:
            entry.value = damage_json(entry.value, rng)
        except UnicodeEncodeError:  # protobuf refuses text that is no UTF-8
            entry.value = ""


def _metadata(model: Any, rng: random.Random) -> None:
    keys = ("trt_pose", "trt_pose_accuracy", "task", "names", "kpt_shape", "imgsz", "stride")
    model.metadata_props.add(key=rng.choice(keys), value=str(rng.choice(VALUES)).replace("\x00", ""))


def _drop_output(model: Any, rng: random.Random) -> None:
    if model.graph.output:
        del model.graph.output[rng.randrange(len(model.graph.output))]


def _add_input(model: Any, rng: random.Random) -> None:
    import onnx

    shape = rng.choice(([], [1], [1, 3, 64, 64], ["n", 3, None, None]))
    model.graph.input.append(onnx.helper.make_tensor_value_info("another", rng.choice((1, 2, 7, 8)), shape))


def _rename(model: Any, rng: random.Random) -> None:
    item = rng.choice([*model.graph.input, *model.graph.output, *model.graph.node])
    item.name = rng.choice(("", "x", "input", "num_predictions", "\x1b[31mRED", "a" * 5000))


def _dimension(model: Any, rng: random.Random) -> None:
    item = rng.choice([*model.graph.input, *model.graph.output])
    dims = item.type.tensor_type.shape.dim
    if dims:
        dim = dims[rng.randrange(len(dims))]
        if rng.random() < 0.3:
            dim.dim_param = "n"
        else:
            dim.dim_value = rng.choice((0, -1, 1, 2, 3, 7, 10**9, 2**62))


def _element(model: Any, rng: random.Random) -> None:
    item = rng.choice([*model.graph.input, *model.graph.output])
    item.type.tensor_type.elem_type = rng.choice((0, 1, 2, 7, 8, 10, 11, 99))


def _attribute(model: Any, rng: random.Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        attribute = rng.choice(rng.choice(nodes).attribute)
        attribute.i, attribute.f = rng.choice((0, -1, 2**40)), rng.choice((0.0, float("nan"), 1e30))


def _weights(model: Any, rng: random.Random) -> None:
    import numpy as np
    import onnx

    floats = [item for item in model.graph.initializer if item.data_type == 1]
    if floats:
        item = rng.choice(floats)
        with np.errstate(all="ignore"):
            array = onnx.numpy_helper.to_array(item) * np.float32(rng.choice((0.0, 1e38, -1e4, np.nan)))
        item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))


def _drop_node(model: Any, rng: random.Random) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def _external(model: Any, rng: random.Random) -> None:
    if model.graph.initializer:
        item = rng.choice(model.graph.initializer)
        item.ClearField("raw_data")
        item.data_location = 1
        item.external_data.add(key="location", value=rng.choice(("x.bin", "../../../../etc/passwd", "/etc/passwd", "")))


def _opset(model: Any, rng: random.Random) -> None:
    if model.opset_import:
        model.opset_import[0].version = rng.choice((0, 1, 7, 13, 99, 2**40))
    model.ir_version = rng.choice((0, 3, 8, 99))


def _bomb(model: Any, rng: random.Random) -> None:
    """A node that asks for 400 GB."""
    import numpy as np
    import onnx

    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10**11], np.int64), "much"))
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["much"], ["ones"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("ones", 1, [None]))
