"""The exported module: pre-processing, network, decode, selection."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

from torch import Tensor, nn

from ..choices import DetectionOutputFormatMode
from ..models.model import Model
from ..operators.selection import Selection
from .format_modules import FORMAT_MODULES, KeepBatch
from .preprocess import Normalize
from .steps import steps_of

ModelT = TypeVar("ModelT", bound=Model)


class DeployGraph(nn.Module):
    """Pre-processing, network, post-processing and output format, applied in this order.

    ``layout`` is a module of ``format_modules.py``; None keeps the outputs of the post-processing.
    """

    def __init__(
        self, preprocess: nn.Module, network: nn.Module, postprocess: nn.Module, layout: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.preprocess, self.network, self.postprocess = preprocess, network, postprocess
        self.layout = layout or KeepBatch()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", self.layout(self.postprocess(self.network(self.preprocess(x)))))

    def with_postprocess(self, postprocess: nn.Module) -> DeployGraph:
        """Returns the same graph with another post-processing and without a layout of its own."""
        return DeployGraph(self.preprocess, self.network, postprocess)


def copy_modules(model: ModelT) -> ModelT:
    """Returns a copy whose modules can be changed without affecting ``model``; parameters and buffers are shared."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, tensors)


def assemble(
    model: Model,
    height: int,
    width: int,
    *,
    preprocess: bool | nn.Module = True,
    postprocess: nn.Module | None = None,
    selection: Selection | None = None,
    layout: DetectionOutputFormatMode = DetectionOutputFormatMode.BATCH_FORMAT,
    fuse: bool = True,
) -> DeployGraph:
    """Builds the graph of a model for one input size.

    The modules of the model are copied and its tensors are shared; fusing creates new tensors.

    Args:
        model: the network; not modified.
        height: input height, px, a multiple of the largest stride.
        width: input width, px, a multiple of the largest stride.
        preprocess: True for the model's own normalization, False for none, or a module that replaces it.
        postprocess: a module applied to the decoded tuple (boxes, scores, joints) instead of ``selection``.
        selection: thresholds and limits; without it and ``postprocess`` the graph returns the decoded heads of every
            anchor.
        layout: output format of the selection.
        fuse: whether to fold batch norms, branches and, where exact, the normalization into convolutions.
    """
    device = next(model.parameters()).device
    network = copy_modules(model).eval()
    normalize: nn.Module
    if isinstance(preprocess, nn.Module):
        normalize = copy.deepcopy(preprocess)
    else:
        normalize = Normalize(model.processing.input.normalization) if preprocess else nn.Identity()
    if fuse:
        network.fuse()
        if isinstance(normalize, Normalize):
            normalize = normalize.to(device).folded_into(network.first_conv())
    steps = steps_of(model)
    decode = steps.decode(model, height, width)
    if postprocess is not None:
        finish: nn.Module = nn.Sequential(decode, copy.deepcopy(postprocess))
    else:
        finish = steps.select(decode, selection) if selection else decode
    normalize.to(device)
    finish.to(device)
    return DeployGraph(normalize, network, finish, FORMAT_MODULES[layout]() if selection else None).eval()
