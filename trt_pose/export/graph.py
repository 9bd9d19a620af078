"""The module that is exported: pre-processing, network, decode, selection."""

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
    """Pre-processing, network and post-processing in a row."""

    def __init__(self, preprocess: nn.Module, network: nn.Module, postprocess: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.network, self.postprocess = preprocess, network, postprocess

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", self.postprocess(self.network(self.preprocess(x))))


def copy_modules(model: ModelT) -> ModelT:
    """A copy whose modules can be fused and set without touching the model's; the tensors are shared."""
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
    """The graph of a model for one input size.

    The model is left as it is: its modules are copied, its tensors shared, and fusing makes new ones.

    Args:
        model: the network, left as it is.
        height, width: input size, px, multiples of the largest stride.
        preprocess: True for the model's own normalization, False for none, or a module that replaces it.
        postprocess: a module applied to the decoded tuple (boxes, scores, joints) instead of ``selection``.
        selection: what to keep; None (and no ``postprocess``) returns the decoded heads of every anchor.
        fuse: fold batch norms, branches and, where exact, the normalization into convolutions.
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
    """What decodes the heads of a model, and what selects of them."""
    if isinstance(model, PoseModel):
        return DecodePoses(model.num_joints, model.strides, height, width), SelectPoses
    return DecodeDetections(model.strides, height, width), SelectDetections
