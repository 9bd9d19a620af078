"""Keypoint R-CNN for images of one size, with outputs of fixed shape and plugin nodes in place of NMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.keypoint_rcnn.network import KeypointRCNN
from ..models.model import Model
from ..operators.contract import MAX_ANCHORS, MAX_CANDIDATES, NmsFields
from ..operators.selection import Selection
from .functions import TopK
from .plugin_nodes import DetectionNms, KeypointDecode
from .roi_pool import RoiPool

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid, px
MAX_TOPK = 3839  # the largest k of TensorRT's TopK layer


class FixedKeypointRCNN(Model):
    """The network for images that fill ``height`` x ``width``, without the resize of torchvision.

    ``forward`` takes normalized images (B, 3, H, W) and returns the batch format: num_predictions (B, 1) int32, boxes
    (B, N, 4) xyxy px, scores (B, N) and joints (B, N, J, 3) with x, y px and confidence 0..1. Each stage keeps its full
    number of rows; those beyond what was found have the score 0.

    Args:
        model: the network in evaluation mode, whose modules are used.
        height: height of the images, px, a multiple of 32.
        width: width of the images, px, a multiple of 32.
        selection: thresholds and limits of the people.

    Raises:
        UsageError: the network has more proposals or classes than the operators take.
    """

    task = "pose"

    def __init__(self, model: KeypointRCNN, height: int, width: int, selection: Selection) -> None:
        super().__init__(model.name, model.processing)
        self.weights, self.num_joints = model.weights, model.num_joints
        self.backbone, self.rpn, self.roi_heads = model.backbone, model.rpn, model.roi_heads
        self.height, self.width, self.selection = height, width, selection
        sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        self._make_anchors(sizes)
        heads = self.roi_heads
        self.box_pool = RoiPool(heads.box_roi_pool, sizes, STRIDES)
        self.keypoint_pool = RoiPool(heads.keypoint_roi_pool, sizes, STRIDES)
        self.kinds = int(heads.box_predictor.cls_score.out_features) - 1  # without the background
        self._check()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(x)
        proposals, valid = self._propose(list(features.values()))
        count, boxes, scores = self._detect(features, proposals, valid)
        return count, boxes, scores, self._find_joints(features, boxes, scores)

    def _make_anchors(self, sizes: Sequence[tuple[int, int]]) -> None:
        from torchvision.models.detection.image_list import ImageList

        device = next(self.parameters()).device
        levels = [torch.empty(1, 1, *size, device=device) for size in sizes]
        images = ImageList(torch.empty(1, 3, self.height, self.width, device="meta"), [(self.height, self.width)])
        (anchors,) = self.rpn.anchor_generator(images, levels)
        per_place = self.rpn.anchor_generator.num_anchors_per_location()
        self.counts = [number * height * width for number, (height, width) in zip(per_place, sizes, strict=True)]
        for place, part in enumerate(anchors.split(self.counts)):
            self.register_buffer(f"anchors_{place}", part.clone(), persistent=False)

    def _check(self) -> None:
        kept, proposals = self.rpn.pre_nms_top_n(), self.rpn.post_nms_top_n()
        for name, value, most in (
            ("rpn_pre_nms_top_n_test", kept, MAX_TOPK),
            ("rpn_post_nms_top_n_test", proposals, MAX_TOPK),
            ("rpn_post_nms_top_n_test times the classes", proposals * self.kinds, MAX_ANCHORS),
        ):
            if value > most:
                raise UsageError(
                    f"exporting {self.name} for TensorRT: {name} is {value}, its operators take {most}. Lower it."
                )

    def _propose(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the proposals (B, R, 4), best first, and which of the rows hold one, (B, R)."""
        found = [
            self._propose_level(place, *heads) for place, heads in enumerate(zip(*self.rpn.head(features), strict=True))
        ]
        boxes, scores = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
        best, rows = TopK.apply(scores, min(self.rpn.post_nms_top_n(), int(scores.shape[1])))
        return _rows(boxes, rows), best > 0

    def _propose_level(self, place: int, scores: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the proposals of a level, (B, R, 4) and (B, R), from the outputs of the RPN, (B, A or 4 A, H, W)."""
        batch, count = int(scores.shape[0]), self.counts[place]
        logits = scores.permute(0, 2, 3, 1).reshape(batch, count)
        deltas = deltas.reshape(batch, int(scores.shape[1]), 4, *deltas.shape[2:]).permute(0, 3, 4, 1, 2)
        kept = min(self.rpn.pre_nms_top_n(), count)
        best, rows = TopK.apply(logits, kept)
        anchors = cast(Tensor, getattr(self, f"anchors_{place}"))[rows]
        boxes = self._decode(anchors, _rows(deltas.reshape(batch, count, 4), rows), self.rpn.box_coder)
        usable = torch.where(_larger(boxes, self.rpn.min_size), torch.sigmoid(best), torch.zeros_like(best))
        rows_kept = min(kept, self.rpn.post_nms_top_n())
        fields = NmsFields(self.rpn.score_thresh, self.rpn.nms_thresh, rows_kept, kept)
        _, boxes, chosen, _ = DetectionNms.apply(boxes, usable.unsqueeze(2), fields)
        return boxes, chosen

    def _detect(self, features: Mapping[str, Tensor], proposals: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Returns count (B, 1), boxes (B, N, 4) and scores (B, N) of the people, whatever their class."""
        heads, (batch, count) = self.roi_heads, map(int, proposals.shape[:2])
        logits, deltas = heads.box_predictor(heads.box_head(self.box_pool(features, proposals)))
        scores = torch.softmax(logits, dim=1).reshape(batch, count, -1)[..., 1:]  # (B, R, K)
        deltas = deltas.reshape(batch, count, self.kinds + 1, 4)[:, :, 1:]
        boxes = self._decode(proposals.unsqueeze(2), deltas, heads.box_coder)  # (B, R, K, 4)
        usable = _larger(boxes, 1e-2) & valid.unsqueeze(2)  # torchvision's least side, px
        scores = torch.where(usable, scores, torch.zeros_like(scores)).reshape(batch, -1, 1)
        if self.kinds > 1:  # each class has boxes of its own: a row per box and class, with one score
            scores = scores * torch.eye(self.kinds, device=scores.device).repeat(count, 1)
        fields = NmsFields(
            self.selection.confidence,
            self.selection.iou,
            self.selection.limit,
            min(MAX_CANDIDATES, int(scores.shape[1]) * self.kinds),
        )
        number, boxes, scores, _ = DetectionNms.apply(boxes.reshape(batch, -1, 4), scores, fields)
        return number, boxes, scores

    def _find_joints(self, features: Mapping[str, Tensor], boxes: Tensor, scores: Tensor) -> Tensor:
        """Returns the joints (B, N, J, 3) of the people."""
        heads, (batch, count) = self.roi_heads, map(int, boxes.shape[:2])
        heatmaps = heads.keypoint_predictor(heads.keypoint_head(self.keypoint_pool(features, boxes)))
        joints = KeypointDecode.apply(heatmaps, boxes.reshape(batch * count, 4))
        joints = joints.reshape(batch, count, self.num_joints, 3)
        joints = torch.cat([joints[..., :2], torch.sigmoid(joints[..., 2:])], dim=3)
        return torch.where((scores > 0).reshape(batch, count, 1, 1), joints, torch.zeros_like(joints))

    def _decode(self, anchors: Tensor, deltas: Tensor, coder: Any) -> Tensor:
        """Returns boxes (..., 4) in the image from anchors and the network's corrections, as torchvision's BoxCoder."""
        weights = torch.tensor(coder.weights, dtype=torch.float32, device=deltas.device)
        corner, opposite = anchors[..., :2], anchors[..., 2:]
        size, moves = opposite - corner, deltas / weights
        middle = corner + 0.5 * size + moves[..., :2] * size
        half = 0.5 * torch.exp(moves[..., 2:].clamp(max=coder.bbox_xform_clip)) * size
        limits = torch.tensor([self.width, self.height], dtype=torch.float32, device=deltas.device)
        corners = (torch.minimum(place.clamp(min=0.0), limits) for place in (middle - half, middle + half))
        return torch.cat([*corners], dim=-1)


class OneByOne(nn.Module):
    """torchvision's own network in batch format: what :class:`FixedKeypointRCNN` is compared with.

    ``forward`` takes images (B, 3, H, W), RGB in 0..1, of the size for which it was made, and does not resize them.
    """

    def __init__(self, model: KeypointRCNN, height: int, width: int, limit: int) -> None:
        super().__init__()
        self.model, self.limit = model, limit
        model.transform.min_size, model.transform.max_size = (min(height, width),), max(height, width)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        images = [self._pad(*self.model(image[None])) for image in x]
        return tuple(torch.stack(part) for part in zip(*images, strict=True))

    def _pad(self, boxes: Tensor, _labels: Tensor, scores: Tensor, points: Tensor, logits: Tensor) -> list[Tensor]:
        joints = torch.cat([points[..., :2], torch.sigmoid(logits).unsqueeze(2)], dim=2)
        made = [torch.tensor([len(boxes)], dtype=torch.int32)]
        for part in (boxes, scores, joints):
            whole = part.new_zeros(self.limit, *part.shape[1:])
            whole[: len(part)] = part
            made.append(whole)
        return made


def _larger(boxes: Tensor, side: float) -> Tensor:
    """Returns which boxes (..., 4) have both sides of at least ``side`` px."""
    return (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) >= side


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Returns the rows (B, R) of values (B, A, 4)."""
    return torch.gather(values, 1, rows.unsqueeze(2).expand(-1, -1, 4))
