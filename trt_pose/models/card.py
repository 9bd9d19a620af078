"""Cards, which describe the models without building them. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .processing import Processing


@dataclass(frozen=True)
class Card:
    """One supported model.

    Attributes:
        name: name of the model.
        task: ``pose`` or ``detection``.
        family: folder of this package that holds the network.
        parameters: number of parameters of the published network, not fused, without unused placeholders.
        gmacs: multiply-accumulate operations at 640 x 640, in 10^9.
        processing: published image policy and thresholds.
        counts: number of ``joints`` and ``classes`` of the published network.
        weights: names of its published weights.
        licence: terms of the weights; the code is Apache-2.0.
        packaged: file of the first weights in ``trt_pose/assets``; empty for weights that are downloaded.
        remote: URL of the folder and name of the published file, where it is not on super-gradients' mirrors.
        remote_sha256: first digits of that file's SHA-256.
        sizes_itself: the network resizes images and selects its predictions itself (Keypoint R-CNN).
        input_note: what the network does with the image inside, for the table of models.
    """

    name: str
    task: str
    family: str
    parameters: int
    gmacs: float
    processing: Processing
    counts: dict[str, int]
    weights: tuple[str, ...]
    licence: str
    packaged: str = ""
    remote: tuple[str, str] | None = None
    remote_sha256: str = ""
    sizes_itself: bool = False
    input_note: str = ""

    @property
    def input(self) -> str:
        """How an image becomes the input, in words."""
        return self.processing.describe_input() + self.input_note

    def to_dict(self) -> dict[str, Any]:
        """Returns what ``trt-pose models --json`` prints."""
        return {
            "name": self.name,
            "task": self.task,
            "parameters": self.parameters,
            "gmacs": self.gmacs,
            "input": self.input,
            "weights": list(self.weights),
            "weights_licence": self.licence,
            "packaged": self.packaged,
        }
