"""The exported module: pre-processing, network, decode, selection."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar, cast

from torch import Tensor, nn

from ..models.model import Model, PoseModel
from .decode import DecodeBoxes, DecodeDetections, DecodePoses
from .preprocess import Normalize
from .select import SelectDetections, Selection, SelectPoses

ModelT = TypeVar("ModelT", bound=Model)


class PoseGraph(nn.Module):
    """Pre-processing, network and post-processing, applied in this order."""

    def __init__(self, preprocess: nn.Module, network: nn.Module, postprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.network, self.postprocess = preprocess, network, postprocess

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", self.postprocess(self.network(self.preprocess(x))))


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
    fuse: bool = True,
) -> PoseGraph:
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
    decode, select = steps_after(model, height, width)
    if postprocess is not None:
        finish: nn.Module = nn.Sequential(decode, copy.deepcopy(postprocess))
    else:
        finish = select(decode, selection) if selection else decode
    normalize.to(device)
    finish.to(device)
    return PoseGraph(normalize, network, finish).eval()


def steps_after(model: Model, height: int, width: int) -> tuple[DecodeBoxes, Callable[..., nn.Module]]:
    """Returns the decode module for a model and input size, px, and the class that selects from the heads."""
    if isinstance(model, PoseModel):
        return DecodePoses(model.num_joints, model.strides, height, width), SelectPoses
    return DecodeDetections(model.strides, height, width), SelectDetections
