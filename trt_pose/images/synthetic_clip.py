"""Synthetic clips: the people of :mod:`.synthetic`, who walk, with an identity in each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .synthetic import SCENES, Figure, Sample, Samples, Scene, background, paint, photograph

# Of walking people: speed in body heights per second, steps per second, swing of arms and legs in rad.
_SPEED, _STEPS, _SWING = (0.2, 0.8), (0.8, 1.2), 0.3


@dataclass(frozen=True)
class _Walker:
    """One person of a clip: posture and colours come from ``seed``, and are the same in every frame."""

    seed: int
    height: float
    start: tuple[float, float]
    speed: float  # px per second
    steps: float
    phase: float

    def at(self, time_s: float, width: int) -> Figure:
        """The person at a time; people turn round at the edges of the image."""
        way = (self.start[0] + self.speed * time_s) % (2 * width)
        center = (float(width - abs(way - width)), self.start[1])
        swing = _SWING * float(np.sin(2 * np.pi * self.steps * time_s + self.phase))
        return Figure(np.random.default_rng(self.seed), self.height, center, swing)


class SyntheticClip(Samples):
    """The frames of a clip; item i is the same in every run.

    Args:
        count: number of frames.
        size: (height, width) of the frames, px.
        seed: seed of the clip, from 0 to 2**32 - 1.
        scene: number and size of the people; ``sparse`` when None.
        rate: frames per second.

    Raises:
        UsageError: an argument is out of bounds.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int] = (320, 320),
        seed: int = 0,
        scene: Scene | None = None,
        rate: float = 25.0,
    ) -> None:
        if count < 1 or min(size) < 32 or not 0 <= seed < 2**32 or not rate > 0:
            raise UsageError(
                f"making a clip: got count={count}, size={size}, seed={seed}, rate={rate}; expected a frame or more, 32"
                f" px or more, a seed from 0 to {2**32 - 1}, and a rate above 0."
            )
        self.rate, self._count, self._size, self._seed = rate, count, size, seed
        scene = scene or SCENES["sparse"]
        self._background = background(np.random.default_rng((seed, 2)), *size)
        rng = np.random.default_rng((seed, 1))
        number = int(rng.integers(max(scene.people[0], 1), scene.people[1] + 1))
        low, high = (float(side) for side in np.log(scene.heights))
        heights = np.sort(np.exp(rng.uniform(low, high, number)))  # the farthest first
        self._walkers = [self._walker(rng, float(height)) for height in heights]

    def _walker(self, rng: np.random.Generator, body: float) -> _Walker:
        height, width = self._size
        return _Walker(
            seed=int(rng.integers(2**32)),
            height=body,
            start=(float(rng.uniform(0, 2 * width)), float(rng.uniform(0.3, 0.7) * height)),
            speed=float(rng.uniform(*_SPEED)) * body,
            steps=float(rng.uniform(*_STEPS)),
            phase=float(rng.uniform(0, 2 * np.pi)),
        )

    def sample(self, index: int) -> Sample:
        time_s = index / self.rate
        image = self._background.copy()
        joints, boxes, areas, known = paint(image, (walker.at(time_s, self._size[1]) for walker in self._walkers))
        ids: npt.NDArray[np.int64] = np.flatnonzero(known)
        camera = np.random.default_rng((self._seed, 3))
        return Sample(photograph(camera, image), joints[known], boxes[known], areas[known], ids)
