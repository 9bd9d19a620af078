"""The steps before and after the network in a Triton model repository; its ``model.py`` files import them.

Triton's Python backend makes one object per instance, in a process of its own, and has the module
``triton_python_backend_utils``: https://github.com/triton-inference-server/python_backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PoseError
from ..images.pixels import decode
from ..predictor import place
from ..results import predictions_of
from ..spec import Letterbox, ModelSpec
from ..tasks import POSE, find_task

PARAMETER = "trt_pose"  # the parameter of a configuration that holds the description of the model, as JSON
IMAGE, PLACEMENT, PIXELS = "image", "placement", "pixels"


class _Step:
    """What both steps share: the description, and one response per request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the description from the configuration; called by Triton once per instance."""
        import json

        import triton_python_backend_utils as backend

        self.backend: Any = backend
        parameters = json.loads(args["model_config"])["parameters"]
        self.spec = ModelSpec.from_json(parameters[PARAMETER]["string_value"], args["model_name"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns a response for each request; called by Triton for each batch."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        backend = self.backend
        try:
            tensors = self.compute({item.name(): item.as_numpy() for item in request.inputs()})
        except PoseError as error:  # a client's image: its error, status 400
            return backend.InferenceResponse(error=backend.TritonError(str(error), backend.TritonError.INVALID_ARG))
        return backend.InferenceResponse([backend.Tensor(name, array) for name, array in tensors.items()])

    def compute(self, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        raise NotImplementedError


class Preprocess(_Step):
    """Decodes and letterboxes images, as :class:`trt_pose.PosePredictor` does."""

    def compute(self, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Returns the input of the network and the placement of each image.

        Args:
            inputs: ``image``, (B, 1) of the bytes of image files.

        Returns:
            ``pixels`` (B, 3, H, W), and ``placement`` (B, 4) float32: scale_x, scale_y, left, top.

        Raises:
            SourceError: the bytes are not an image.
        """
        images = [decode(bytes(data), "the image of the request") for data in inputs[IMAGE].reshape(-1)]
        pixels, boxes = place(images, replace(self.spec.input, batch=None))
        placement = [[box.scale_x, box.scale_y, box.left, box.top] for box in boxes]
        return {PIXELS: pixels, PLACEMENT: np.array(placement, np.float32)}


class Postprocess(_Step):
    """Moves predictions from the network input to the client's images."""

    def compute(self, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Returns the outputs of the network in px of the images, cut to the largest number of predictions.

        Args:
            inputs: ``placement`` (B, 4) and the outputs of the network, by their names.
        """
        task, joints = find_task(self.spec.task), self.spec.skeleton.num_joints
        found: list[Any] = []
        for index, (scale_x, scale_y, left, top) in enumerate(inputs[PLACEMENT].tolist()):
            placed = Letterbox(scale_x, scale_y, int(left), int(top))
            found.append(predictions_of(self.spec.task).from_outputs(inputs, self.spec, index, placed))
        most = max(map(len, found), default=0)
        boxes, scores = np.zeros((len(found), most, 4), np.float32), np.zeros((len(found), most), np.float32)
        extra: npt.NDArray[Any] = np.full((len(found), most), -1, np.int32)
        if task is POSE:
            extra = np.zeros((len(found), most, joints, task.point_values), np.float32)
        for index, item in enumerate(found):
            rows = slice(len(item))
            boxes[index, rows], scores[index, rows] = item.boxes, item.scores
            extra[index, rows] = item.joints if task is POSE else item.classes
        count = np.array([[len(item)] for item in found], np.int32)
        return {"num_predictions": count, "pred_boxes": boxes, "pred_scores": scores, task.extra_output: extra}
