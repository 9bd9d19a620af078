"""The tasks: what differs between poses and detections, once.

To add a task, add a row to :data:`TASKS` and a subclass of ``Predictions`` to ``results/``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import RunnerError


@dataclass(frozen=True)
class Task:
    """A kind of prediction.

    Attributes:
        name: ``pose`` or ``detection``, as ModelSpec holds it.
        one: a single prediction in words, ``person``.
        many: several of them, ``people``.
        points: the points of a prediction that comparisons measure, ``joints``.
        similarity: name of the measure of two predictions, ``OKS``.
        labels: what a model tells apart beside its predictions, ``joints`` or ``classes``.
        result: attribute of an image result that holds its predictions.
        extra_output: output tensor beside boxes and scores.
        extra_in_raw: whether a file without selection has that tensor, too. The scores of a detection model are then
            those of all classes, so it needs none.
        point_values: values in a row per joint; 0 when a row has a single value, the class.
        evaluation: name of the COCO evaluation.
    """

    name: str
    one: str
    many: str
    points: str
    similarity: str
    labels: str
    result: str
    extra_output: str
    extra_in_raw: bool
    point_values: int
    evaluation: str

    def extra_width(self, num_joints: int) -> int:
        """Number of values a flat row holds beside image index, box and score."""
        return self.point_values * num_joints if self.point_values else 1

    def count(self, number: int) -> str:
        """A number of predictions in words: ``1 person``, ``3 people``."""
        return f"{number} {self.one if number == 1 else self.many}"


POSE = Task("pose", "person", "people", "joints", "OKS", "joints", "poses", "pred_joints", True, 3, "keypoints")
DETECTION = Task(
    "detection", "object", "objects", "corners", "IoU", "classes", "detections", "pred_classes", False, 0, "bbox"
)
TASKS = {task.name: task for task in (POSE, DETECTION)}


def find_task(name: str) -> Task:
    """Returns the task of a ModelSpec. Raises RunnerError for a converted module, which has none."""
    if name not in TASKS:
        raise RunnerError(
            f"reading predictions: the file is for the task {name!r}, expected {' or '.join(TASKS)}. Read its output"
            " tensors with open_runner instead."
        )
    return TASKS[name]
