"""A runner that runs the export graph in torch, with the same interface as every other backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch

from ..errors import RunnerError, UsageError
from ..formats import FORMATS
from ..operators.selection import Selection
from ..runtime.runner import TensorInfo, check_feeds
from ..spec import ModelSpec
from ..tasks import TASKS
from .describe import describe
from .graph import DeployGraph, assemble
from .plan import check_threshold, count

if TYPE_CHECKING:
    from ..models.keypoint_rcnn.network import KeypointRCNN
    from ..models.model import Model


class TorchRunner:
    """A runner for a ``DeployGraph`` whose outputs are final predictions."""

    def __init__(self, graph: DeployGraph, spec: ModelSpec) -> None:
        self.spec = spec
        self.runtime = f"torch {torch.__version__}"
        self._graph: DeployGraph | None = graph
        sides = (None, None) if spec.input.takes_any_size else (spec.input.height, spec.input.width)
        size = (spec.input.batch, spec.input.channels, *sides)
        self.inputs = {spec.input.name: TensorInfo(spec.input.dtype, size)}

    @classmethod
    def of_model(
        cls,
        model: Model,
        *,
        iou: float | None = None,
        confidence: float | None = None,
        candidates: int | None = None,
        limit: int | None = None,
        fuse: bool = True,
    ) -> TorchRunner:
        """Returns a runner for any model, at its own input size; None takes the model's default.

        Args:
            model: the network; not modified.
            iou: boxes whose IoU with a better box is higher are suppressed, 0..1.
            confidence: predictions with a higher score are kept, 0..1.
            candidates: maximum number of candidates per image that enter NMS.
            limit: maximum number of predictions per image.
            fuse: whether to fold batch norms and branches into convolutions.

        Raises:
            UsageError: a threshold or limit is out of range, or ``candidates`` is given for a network that has no such
                limit.
        """
        if model.sizes_itself:
            if candidates is not None:
                raise UsageError(
                    f"predicting with {model.name}: it selects inside and has no pre_nms_max_predictions. Leave it out."
                )
            from .keypoint_rcnn import make_runner  # imported here: it builds on this module

            return make_runner(cast("KeypointRCNN", model), confidence, iou, limit, fuse)
        defaults, size = model.processing, model.processing.input
        selection = Selection(
            confidence=check_threshold("conf", confidence, defaults.confidence),
            iou=check_threshold("iou", iou, defaults.iou),
            candidates=defaults.max_candidates if candidates is None else count("pre_nms_max_predictions", candidates),
            limit=defaults.max_predictions if limit is None else count("post_nms_max_predictions", limit),
        )
        graph = assemble(model, size.height, size.width, selection=selection, fuse=fuse)
        return cls(graph, describe(model, selection, FORMATS["batch"].names(TASKS[model.task]), batch=None))

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        if self._graph is None:
            raise RunnerError("running the model: the runner is closed. Open it again.")
        check_feeds(feeds, self.inputs)
        device = next(self._graph.network.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(feeds[self.spec.input.name])).to(device)
        with torch.inference_mode():
            outputs = self._graph(pixels)
        return {name: value.cpu().numpy() for name, value in zip(self.spec.output.names, outputs, strict=True)}

    def close(self) -> None:
        self._graph = None

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
