"""The steps that Triton's Python backend runs, called as it calls them, without Triton."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from trt_pose.deploy.triton_steps import Postprocess, Preprocess
from trt_pose.images.pixels import letterbox
from trt_pose.spec import InputSpec, ModelSpec, OutputSpec


class Backend:
    """What the steps use of triton_python_backend_utils."""

    class TritonError:
        INVALID_ARG = 3

        def __init__(self, message, code):
            self.message, self.code = message, code

    class Tensor:
        def __init__(self, name, array):
            self.name, self.as_numpy = (lambda: name), (lambda: array)

    class InferenceResponse:
        def __init__(self, tensors=None, error=None):
            self.tensors, self.error = {item.name(): item.as_numpy() for item in tensors or []}, error


@pytest.fixture
def start(monkeypatch):
    """Makes a step of a description."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Backend)

    def make(kind, spec):
        config = {"parameters": {"trt_pose": {"string_value": spec.to_json()}}}
        step = kind()
        step.initialize({"model_config": json.dumps(config), "model_name": "pose_step"})
        return step

    return make


def ask(step, **tensors):
    request = SimpleNamespace(inputs=lambda: [Backend.Tensor(name, array) for name, array in tensors.items()])
    return step.execute([request])[0]


def encoded(image):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("float32", 255), ("float32", 1)])
def test_images_are_placed_in_the_input(start, photograph, dtype, white):
    spec = ModelSpec(
        "m", input=InputSpec(batch=2, height=128, width=160, resize_to=(128, 160), dtype=dtype, white=white)
    )
    images = [photograph, photograph[:200]]
    found = ask(start(Preprocess, spec), image=np.array([[encoded(image)] for image in images], dtype=object)).tensors
    assert found["pixels"].dtype == dtype
    for index, image in enumerate(images):
        pixels, box = letterbox(image, spec.input)
        np.testing.assert_allclose(found["pixels"][index], pixels * (white / 255), rtol=1e-6)
        assert found["placement"][index] == pytest.approx([box.scale_x, box.scale_y, box.left, box.top])


def test_what_is_no_image_is_the_clients_error(start):
    answer = ask(start(Preprocess, ModelSpec("m")), image=np.array([[b"text"]], dtype=object))
    assert answer.error.code == Backend.TritonError.INVALID_ARG
    assert "not an image" in answer.error.message


def test_objects_come_back_in_pixels_of_the_images(start):
    """Two objects in the first image, none in the second; the classes of unused rows are -1."""
    names = ("num_predictions", "pred_boxes", "pred_scores", "pred_classes")
    spec = ModelSpec("m", "detection", output=OutputSpec("batch", names), class_names=("a", "b"))
    boxes = np.zeros((2, 5, 4), np.float32)
    boxes[0, :2] = [[10, 20, 30, 40], [0, 0, 64, 64]]
    scores, classes = np.zeros((2, 5), np.float32), np.full((2, 5), -1, np.int64)
    scores[0, :2], classes[0, :2] = (0.9, 0.5), (1, 0)
    placement = np.array([[0.5, 0.5, 4, 0], [1, 1, 0, 0]], np.float32)
    found = ask(
        start(Postprocess, spec),
        placement=placement,
        num_predictions=np.array([[2], [0]], np.int32),
        pred_boxes=boxes,
        pred_scores=scores,
        pred_classes=classes,
    ).tensors
    assert found["num_predictions"].tolist() == [[2], [0]]
    assert found["pred_boxes"][0].tolist() == [[12, 40, 52, 80], [-8, 0, 120, 128]]
    assert found["pred_scores"].tolist() == [[pytest.approx(0.9), 0.5], [0, 0]]
    assert found["pred_classes"].tolist() == [[1, 0], [-1, -1]]
    assert found["pred_classes"].dtype == np.int32


def test_no_people_give_empty_arrays(start):
    from trt_pose.skeleton import COCO

    names = ("num_predictions", "pred_boxes", "pred_scores", "pred_joints")
    spec = ModelSpec("m", output=OutputSpec("batch", names), skeleton=COCO)
    found = ask(
        start(Postprocess, spec),
        placement=np.ones((1, 4), np.float32),
        num_predictions=np.zeros((1, 1), np.int64),
        pred_boxes=np.zeros((1, 5, 4), np.float32),
        pred_scores=np.zeros((1, 5), np.float32),
        pred_joints=np.zeros((1, 5, 17, 3), np.float32),
    ).tensors
    assert {name: array.shape for name, array in found.items()} == {
        "num_predictions": (1, 1), "pred_boxes": (1, 0, 4), "pred_scores": (1, 0), "pred_joints": (1, 0, 17, 3),
    }  # fmt: skip
