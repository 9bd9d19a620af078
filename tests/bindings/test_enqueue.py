"""The Python plugins, called as TensorRT calls them: real descriptor classes, real CUDA packages, the strict driver."""

import json
import textwrap

import numpy as np
import pytest

from .. import cuda
from ..plugins.test_detection_nms_kernel import objects
from ..plugins.test_keypoint_decode import BOXES, by_numpy
from ..plugins.test_pose_nms_kernel import people
from ..reference import detection_nms, pose_nms
from . import answer_of, run_on
from .fetch import FULL

pytestmark = [pytest.mark.bindings, pytest.mark.skipif(bool(cuda.why_not()), reason=cuda.why_not() or "-")]
ANCHORS, JOINTS, CANDIDATES, LIMIT = 200, 17, 100, 10

ENQUEUE = textwrap.dedent(
    """
    import gc, json
    import numpy as np
    from pathlib import Path
    from tests.cuda import StrictDriver
    driver = StrictDriver(Path(sys.argv[1]))
    driver.open()
    from trt_pose.gpu.device import Device, Graph, address_of, copy
    from trt_pose.operators.tensorrt_plugin import make_creators, read_fields

    case = json.loads(sys.argv[3])
    (creator,) = (creator for creator in make_creators(trt) if creator.name == case["operator"])
    attributes = case["attributes"]
    arrays = {name: np.array([value], np.float32 if kind == "FLOAT32" else np.int32)
              for name, (value, kind) in attributes.items()}
    kinds = {name: getattr(trt.PluginFieldType, kind) for name, (_, kind) in attributes.items()}
    given = trt.PluginFieldCollection([trt.PluginField(name, arrays[name], kinds[name]) for name in attributes])
    plugin = creator.create_plugin("nms", given, trt.TensorRTPhase.RUNTIME).clone()
    saved = plugin.get_fields_to_serialize()
    gc.collect()
    fields = {name: float(value) for name, value in read_fields(saved, attributes).items()}

    inputs = [np.load(f"{sys.argv[2]}/{index}.npy") for index in range(case["inputs"])]
    shapes = [tuple(shape) for shape in case["shapes"]]
    assert plugin.num_outputs == len(shapes)

    def description(shape):
        made = trt.PluginTensorDesc()
        made.dims = trt.Dims(list(shape))
        return made

    device = Device()
    with device.current("testing"):
        stream = device.stream()
        memory = [device.memory(array.nbytes) for array in inputs]
        results = [device.memory(4 * int(np.prod(shape))) for shape in shapes]
        back = [device.pinned(buffer.size) for buffer in results]
        for array, buffer in zip(inputs, memory):
            pinned = device.pinned(array.nbytes)
            pinned.view(array.shape, array.dtype)[...] = array
            copy(pinned.buffer, buffer, array.nbytes, stream)
            stream.sync()

        def enqueue():
            plugin.enqueue(
                [description(array.shape) for array in inputs], [description(shape) for shape in shapes],
                [address_of(buffer) for buffer in memory], [address_of(buffer) for buffer in results], 0,
                address_of(stream),
            )
            return True

        def outputs():
            for buffer, pinned in zip(results, back):
                copy(buffer, pinned.buffer, buffer.size, stream)
            stream.sync()
            kinds = plugin.get_output_data_types(None)
            kinds = [np.int32 if kind == trt.DataType.INT32 else np.float32 for kind in kinds]
            return [pinned.view(shape, kind).tolist() for pinned, shape, kind in zip(back, shapes, kinds)]

        plugin.on_shape_change([description(array.shape) for array in inputs], None)
        enqueue()
        plain = outputs()
        graph = Graph.capture(stream, enqueue)
        for buffer in results:
            empty = device.pinned(buffer.size)
            empty.array[:] = 9
            copy(empty.buffer, buffer, buffer.size, stream)
            stream.sync()
        graph.launch(stream)
        replayed = outputs()
    print(json.dumps([fields, plain, replayed, driver.misuses(), [str(f) for f in driver.failures]]))
    """
)


CHURN = textwrap.dedent(
    """
    import json
    from trt_pose.operators.contract import NmsFields
    from trt_pose.operators.tensorrt_plugin import make_creators, read_fields
    import numpy as np

    creator, *_ = make_creators(trt)
    value = lambda number, kind: np.array([number], kind)
    arrays = [value(0.25, np.float32), value(0.5, np.float32), value(10, np.int32), value(100, np.int32)]
    kinds = [trt.PluginFieldType.FLOAT32] * 2 + [trt.PluginFieldType.INT32] * 2
    names = ["score_threshold", "iou_threshold", "max_output_boxes", "num_pre_nms_predictions"]
    given = trt.PluginFieldCollection([trt.PluginField(*item) for item in zip(names, arrays, kinds)])
    junk = []
    for turn in range(5):
        for _ in range(200):
            plugin = creator.create_plugin("nms", given, trt.TensorRTPhase.BUILD)
            plugin.clone().get_fields_to_serialize()
        junk += [[np.array([1.0]) for _ in range(2000)], [(i,) for i in range(3000)], [{"a": i} for i in range(3000)]]
    print(json.dumps(read_fields(plugin.get_fields_to_serialize(), names) and "lives"))
    """
)


@pytest.mark.parametrize("place", [*(f"full-{version}" for version in FULL), "rtx"])
def test_plugins_come_and_go(place):
    """The bindings of 10.3 corrupt the heap when a plugin object is freed: this process ended with SIGSEGV."""
    assert answer_of(run_on(place, CHURN)) == "lives"


def enqueue(place, folder, operator, inputs, want, attributes):
    """Runs an operator in real bindings, launched and then captured; the outputs must be those wanted, to the bit."""
    for index, array in enumerate(inputs):
        np.save(folder / f"{index}.npy", array)
    shapes = [array.shape for array in want]
    case = {"operator": operator, "inputs": len(inputs), "shapes": shapes, "attributes": attributes}
    fields, plain, replayed, misuses, failures = answer_of(
        run_on(place, ENQUEUE, cuda.build(), folder, json.dumps(case))
    )
    assert fields == {name: value for name, (value, _) in attributes.items()}
    assert plain == replayed
    assert (misuses, failures) == ([], [])
    for expected, found in zip(want, plain, strict=True):
        np.testing.assert_array_equal(expected, np.array(found, expected.dtype))


NMS = {
    "score_threshold": (0.25, "FLOAT32"), "iou_threshold": (0.5, "FLOAT32"), "max_output_boxes": (LIMIT, "INT32"),
    "num_pre_nms_predictions": (CANDIDATES, "INT32"),
}  # fmt: skip


@pytest.mark.parametrize("place", [*(f"full-{version}" for version in FULL), "rtx"])
def test_enqueue_gives_the_rows_and_can_be_captured(place, tmp_path):
    inputs = people(np.random.default_rng(0), 2, ANCHORS, JOINTS, spread=300)
    want = pose_nms(*inputs, 0.25, 0.5, CANDIDATES, LIMIT)  # type: ignore[call-arg]
    enqueue(place, tmp_path, "PoseNMS_TRT", inputs, want, NMS)


@pytest.mark.parametrize("place", [*(f"full-{version}" for version in FULL), "rtx"])
def test_detections_and_keypoints_too(place, tmp_path):
    rng = np.random.default_rng(0)
    inputs = objects(rng, 2, ANCHORS, 3)
    want = detection_nms(*inputs, 0.25, 0.5, CANDIDATES, LIMIT)  # type: ignore[call-arg]
    enqueue(place, tmp_path, "DetectionNMS_TRT", inputs, want, NMS)
    boxes = np.array(BOXES["small"], np.float32)
    heatmaps = rng.normal(0, 1, (len(boxes), 3, 28, 28)).astype(np.float32)
    enqueue(place, tmp_path, "KeypointDecode_TRT", [heatmaps, boxes], [by_numpy(heatmaps, boxes)], {})
