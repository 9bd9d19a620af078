"""What is exported, as modules: Normalize, network, DecodePoses, SelectPoses.

Running these modules in torch is the reference that every file made of them is compared with.
Decoding: distances are expectations of distributions over bins (DFL, https://arxiv.org/abs/2006.04388); boxes count
from the centre of a cell, joints from its corner (super-gradients, YOLO-NAS-Pose).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..models.model import Model, PoseModel
from ..types import Normalization
from .operators import KeepClassScores, KeepScores, TopK

Heads = tuple[Tensor, Tensor, Tensor]
ModelT = TypeVar("ModelT", bound=Model)


class Normalize(nn.Module):
    """(B, 3, H, W) RGB in 0..255 to the network's own input: cast, channel order, ``(x - mean) / std``."""

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.normalization = normalization
        self.swap = normalization.channels == "BGR"
        self.register_buffer("mean", torch.tensor(normalization.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("gain", 1.0 / torch.tensor(normalization.std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        if self.swap:
            x = x[:, [2, 1, 0]]
        return (x - cast(Tensor, self.mean)) * cast(Tensor, self.gain)

    def folded_into(self, conv: nn.Conv2d) -> nn.Module:
        """Moves channel order and scale into the weights of ``conv``, the first convolution; only the cast remains.

        Exact up to rounding when the mean is zero; with a mean, the zero padding of the convolution would no longer
        be the colour the network saw in training, and the module is returned as it is.
        """
        if any(self.normalization.mean):
            return self
        weight = conv.weight.detach() * cast(Tensor, self.gain)  # the input axis is axis 1 here too
        conv.weight = nn.Parameter(weight.flip(1) if self.swap else weight, requires_grad=False)
        return Cast()


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32)


class DecodeBoxes(nn.Module):
    """Where the cells of an input size lie, and what distances from them mean."""

    def __init__(self, strides: tuple[int, ...], height: int, width: int) -> None:
        super().__init__()
        levels = []
        for stride in strides:
            y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
            corner = torch.stack([x, y], dim=-1).reshape(-1, 2) * stride
            levels.append(torch.cat([corner, torch.full((len(corner), 1), stride)], dim=1))
        # (A, 3): upper left corner x, y of the cell in px, and its stride.
        self.register_buffer("cells", torch.cat(levels).float(), persistent=False)

    @property
    def num_anchors(self) -> int:
        return len(cast(Tensor, self.cells))

    def boxes(self, distances: Tensor, cells: Tensor) -> Tensor:
        """(B, 4 * bins, M) distributions at ``cells`` (B or 1, M, 3) to (B, M, 4) xyxy px."""
        corner, stride = cells[..., :2], cells[..., 2:]
        bins = distances.shape[1] // 4
        # One matrix product over all sides: a product per anchor costs ONNX Runtime ten times as much.
        sides = distances.transpose(1, 2).reshape(distances.shape[0], -1, bins)  # (B, M * 4, bins)
        values = torch.arange(bins, device=sides.device, dtype=sides.dtype).unsqueeze(1)
        ltrb = (sides.softmax(dim=2) @ values).reshape(distances.shape[0], -1, 4) * stride  # (B, M, 4)
        center = corner + stride * 0.5
        return torch.cat([center - ltrb[..., :2], center + ltrb[..., 2:]], dim=2)


class DecodePoses(DecodeBoxes):
    """Raw heads to boxes, scores and joints, for all anchors or for chosen ones."""

    def __init__(self, num_joints: int, strides: tuple[int, ...], height: int, width: int) -> None:
        super().__init__(strides, height, width)
        self.num_joints = num_joints

    def joints(self, offsets: Tensor, logits: Tensor, cells: Tensor) -> Tensor:
        """(B, 2J, M) offsets and (B, J, M) logits at ``cells`` (B or 1, M, 3) to (B, M, J, 3) x, y px, confidence."""
        corner, stride = cells[..., None, :2], cells[..., None, 2:]
        xy = offsets.transpose(1, 2).reshape(offsets.shape[0], -1, self.num_joints, 2) * stride + corner  # (B, M, J, 2)
        return torch.cat([xy, logits.transpose(1, 2).sigmoid().unsqueeze(3)], dim=3)

    def forward(self, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        """Raw heads to boxes (B, A, 4) xyxy px, scores (B, A, 1) and joints (B, A, J, 3) of every anchor."""
        logits, distances, offsets = heads
        cells = cast(Tensor, self.cells)[None]
        scores = logits[:, :1].transpose(1, 2).sigmoid()
        return self.boxes(distances, cells), scores, self.joints(offsets, logits[:, 1:], cells)


class DecodeDetections(DecodeBoxes):
    """Raw heads to boxes and class scores."""

    def forward(self, heads: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, K, A) and distances (B, 4 * bins, A) to boxes (B, A, 4) xyxy px and scores (B, A, K)."""
        logits, distances = heads
        return self.boxes(distances, cast(Tensor, self.cells)[None]), logits.transpose(1, 2).sigmoid()


@dataclass(frozen=True)
class Selection:
    """What is kept of the candidates: thresholds, limits and the output format."""

    confidence: float = 0.5
    iou: float = 0.7
    candidates: int = 1000
    limit: int = 1000
    flat: bool = False


class SelectPoses(nn.Module):
    """Raw heads to the final predictions, decoding only what survives.

    Batch format: num_predictions (B, 1) int64, pred_boxes (B, N, 4), pred_scores (B, N), pred_joints (B, N, J, 3);
    flat format: flat_predictions (M, 6 + 3J). Rows are sorted by score; rows past the count are zero.
    """

    def __init__(self, decode: DecodePoses, selection: Selection) -> None:
        super().__init__()
        self.decode = decode
        self.selection = selection

    def forward(self, heads: Heads) -> tuple[Tensor, ...]:
        logits, distances, offsets = heads
        chosen, table = self.selection, cast(Tensor, self.decode.cells)
        scores, anchors = TopK.apply(logits[:, 0].sigmoid(), chosen.candidates)  # (B, P)
        boxes = self.decode.boxes(_take(distances, anchors), table[anchors])  # (B, P, 4)
        kept = KeepScores.apply(boxes, scores, chosen.limit, chosen.iou, chosen.confidence)  # (B, P)
        scores, rows = TopK.apply(kept, chosen.limit)  # (B, N): the survivors in their order, then zeros
        valid = scores > 0
        boxes = _zero_unless(valid.unsqueeze(2), boxes.gather(1, rows.unsqueeze(2).expand(-1, -1, 4)))  # (B, N, 4)
        anchors = anchors.gather(1, rows)
        joints = self.decode.joints(_take(offsets, anchors), _take(logits, anchors)[:, 1:], table[anchors])
        joints = _zero_unless(valid[:, :, None, None], joints)  # (B, N, J, 3)
        if chosen.flat:
            return (flatten_poses(boxes, scores, joints),)
        return valid.sum(dim=1, keepdim=True), boxes, scores, joints


class SelectDetections(nn.Module):
    """Raw heads to the final detections: the best anchors by their best class, then every class of theirs.

    Batch format: num_predictions (B, 1) int64, pred_boxes (B, N, 4), pred_scores (B, N), pred_classes (B, N) int64;
    flat format: flat_predictions (M, 7). Rows are sorted by score and cut by it, whatever their class; rows past the
    count are zero, their classes -1. An anchor may be kept for several classes.
    """

    def __init__(self, decode: DecodeDetections, selection: Selection) -> None:
        super().__init__()
        self.decode = decode
        self.selection = selection

    def forward(self, heads: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        logits, distances = heads
        chosen = self.selection
        _, anchors = TopK.apply(logits.amax(dim=1), chosen.candidates)  # (B, P)
        boxes = self.decode.boxes(_take(distances, anchors), cast(Tensor, self.decode.cells)[anchors])  # (B, P, 4)
        scores = _take(logits, anchors).sigmoid()  # (B, K, P)
        kept = KeepClassScores.apply(boxes, scores, chosen.candidates, chosen.iou, chosen.confidence)
        scores, places = TopK.apply(kept.flatten(1), chosen.limit)  # (B, N), class-major
        valid = scores > 0
        rows = (places % chosen.candidates).unsqueeze(2).expand(-1, -1, 4)
        boxes = _zero_unless(valid.unsqueeze(2), boxes.gather(1, rows))  # (B, N, 4)
        classes = torch.where(valid, places // chosen.candidates, -1)
        if chosen.flat:
            return (flatten_rows(scores, boxes, scores.unsqueeze(2), classes.unsqueeze(2).to(boxes.dtype)),)
        return valid.sum(dim=1, keepdim=True), boxes, scores, classes


class SelectDecoded(nn.Module):
    """Decoded candidates to the final predictions, in the formats of :class:`SelectPoses`."""

    def __init__(self, selection: Selection) -> None:
        super().__init__()
        self.selection = selection

    def forward(self, decoded: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        count, *rows = select_decoded(*decoded, self.selection, TopK.apply, KeepScores.apply)
        return (flatten_poses(*rows),) if self.selection.flat else (count, *rows)


def select_decoded(
    boxes: Tensor,
    scores: Tensor,
    joints: Tensor,
    chosen: Selection,
    top_k: Callable[..., tuple[Tensor, Tensor]],
    keep_scores: Callable[..., Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (B, A, 4), scores (B, A, 1), joints (B, A, J, 3) to the batch format; the operators are the caller's."""
    ranked, anchors = top_k(scores[:, :, 0], chosen.candidates)  # (B, P)
    candidates = boxes.gather(1, anchors.unsqueeze(2).expand(-1, -1, 4))  # (B, P, 4)
    kept = keep_scores(candidates, ranked, chosen.limit, chosen.iou, chosen.confidence)
    best, places = top_k(kept, chosen.limit)  # (B, N)
    valid = best > 0
    boxes = candidates.gather(1, places.unsqueeze(2).expand(-1, -1, 4))  # (B, N, 4)
    rows = anchors.gather(1, places)[:, :, None, None]
    joints = joints.gather(1, rows.expand(-1, -1, joints.shape[2], 3))  # (B, N, J, 3)
    return (
        valid.sum(dim=1, keepdim=True),
        _zero_unless(valid.unsqueeze(2), boxes),
        best,
        _zero_unless(valid[:, :, None, None], joints),
    )


def flatten_poses(boxes: Tensor, scores: Tensor, joints: Tensor) -> Tensor:
    """Batch format, (B, N, 4), (B, N) and (B, N, J, 3), zero past the counts, to flat rows (M, 6 + 3J)."""
    return flatten_rows(scores, boxes, scores.unsqueeze(2), joints.flatten(2))


def flatten_rows(scores: Tensor, *columns: Tensor) -> Tensor:
    """Columns (B, N, C) of the rows whose score (B, N) is above zero, image by image, behind the image's index."""
    rows = torch.cat(columns, dim=2)  # (B, N, C)
    found = (scores > 0).nonzero()  # (M, 2): image, row; image by image
    image, row = found[:, :1], found[:, 1:]
    kept = rows.flatten(0, 1)[(image * rows.shape[1] + row)[:, 0]]  # (M, C)
    return torch.cat([image.to(rows.dtype), kept], dim=1)


def _take(maps: Tensor, anchors: Tensor) -> Tensor:
    """Columns ``anchors`` (B, P) of ``maps`` (B, C, A): (B, C, P)."""
    return maps.gather(2, anchors.unsqueeze(1).expand(-1, maps.shape[1], -1))


def _zero_unless(keep: Tensor, values: Tensor) -> Tensor:
    return torch.where(keep, values, torch.zeros((), dtype=values.dtype, device=values.device))


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
