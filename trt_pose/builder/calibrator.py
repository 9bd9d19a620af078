"""The two entropy calibrators of an implicit INT8 build by TensorRT 10.

``ours`` returns precomputed ranges: ``trt_pose.quantization`` did the calibration. TensorRT reads the calibration cache
first, and runs no batch when it accepts the cache. ``tensorrt`` is Polygraphy's ``Calibrator``: TensorRT itself runs
the images and finds the ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CalibrationError, EngineError

Pixels = npt.NDArray[Any]


def make_calibrator(trt: Any, cache: bytes, batch: int) -> Any:
    """Returns an ``IInt8EntropyCalibrator2`` that provides ``cache``.

    Args:
        trt: the tensorrt package, 10.x.
        cache: text of an ``EntropyCalibration2`` cache of this TensorRT version.
        batch: images per call.

    Returns:
        The calibrator. Its ``failure`` is an EngineError when TensorRT did not accept the cache, else None. The caller
        must check it after the build, because TensorRT ignores exceptions of callbacks.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.failure: EngineError | None = None

        def get_batch_size(self) -> int:
            return batch

        def read_calibration_cache(self) -> bytes:
            return cache

        def get_batch(self, _names: list[str]) -> None:
            self.failure = EngineError(
                "building with implicit INT8: TensorRT did not take the calibration cache and asked for images."
                " Leave --int8-mode out: the quantizers are put into the graph."
            )

        def write_calibration_cache(self, _cache: bytes) -> None:
            pass

    return Calibrator()


class StoredImages:
    """The images of :func:`write_images` as batches for a calibrator, read anew in each iteration.

    Args:
        folder: the folder.
        name: name of the image input.
        batch: images per batch; those that fill none at the end are left out.

    Raises:
        CalibrationError: there are fewer images than one batch.
    """

    def __init__(self, folder: Path, name: str, batch: int) -> None:
        files = sorted(folder.glob("*.npy"))
        self._name, self._batches = name, [files[i : i + batch] for i in range(0, len(files) - batch + 1, batch)]
        if not self._batches:
            raise CalibrationError(
                f"calibrating: got {len(files)} images, expected at least a batch of {batch}. Give more, or a smaller"
                " --optShapes."
            )

    def __iter__(self) -> Iterator[dict[str, Pixels]]:
        for files in self._batches:
            # TensorRT calibrates in FP32, whatever the type of the input.
            yield {self._name: np.concatenate([np.load(path) for path in files]).astype(np.float32)}


def write_images(batches: Iterable[Pixels], folder: Path) -> int:
    """Writes each image (1, C, H, W) of checked batches to a file, for another process; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    images = (image for batch in batches for image in batch)
    count = 0
    for count, image in enumerate(images, start=1):
        np.save(folder / f"{count:06d}.npy", image[None])
    return count
