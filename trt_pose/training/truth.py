"""Annotated people of pictures and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class People:
    """The people of one picture, in pixels of the network input.

    Attributes:
        boxes: (N, 4) float32 xyxy.
        joints: (N, J, 3) float32 x, y and COCO's visibility; 0 means not annotated.
        crowd: (N,) bool: True for a crowd annotated as a whole; the loss ignores it.
    """

    boxes: Floats
    joints: Floats
    crowd: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """The people of B pictures, padded to the largest number N of people in a picture.

    Attributes:
        boxes: (B, N, 4) float32 xyxy px.
        joints: (B, N, J, 3) float32 x, y px and visibility.
        present: (B, N) bool, False in the padding.
        crowd: (B, N) bool.
    """

    boxes: Tensor
    joints: Tensor
    present: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, people: Sequence[People]) -> Truth:
        """Stacks the people of at least one picture; the number of joints is that of the first picture."""
        most = max((len(item.boxes) for item in people), default=0)
        joints = people[0].joints.shape[1]
        truth = cls(
            torch.zeros(len(people), most, 4),
            torch.zeros(len(people), most, joints, 3),
            torch.zeros(len(people), most, dtype=torch.bool),
            torch.zeros(len(people), most, dtype=torch.bool),
        )
        for row, item in enumerate(people):
            count = len(item.boxes)
            truth.boxes[row, :count] = torch.from_numpy(item.boxes)
            truth.joints[row, :count] = torch.from_numpy(item.joints)
            truth.present[row, :count] = True
            truth.crowd[row, :count] = torch.from_numpy(item.crowd)
        return truth

    def to(self, device: torch.device) -> Truth:
        return Truth(*(tensor.to(device, non_blocking=True) for tensor in self._tensors()))

    def pin_memory(self) -> Truth:
        """Returns a copy in page-locked memory; torch's ``DataLoader`` calls this method by name."""
        return Truth(*(tensor.pin_memory() for tensor in self._tensors()))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.boxes, self.joints, self.present, self.crowd
