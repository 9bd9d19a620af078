"""TensorRT 10's entropy calibrator, serving ranges that were found before.

Calibration itself is ours (``trt_pose.quantization``): checked batches, a progress bar, errors that arrive. TensorRT
asks the cache first, and then runs no batch.
"""

from __future__ import annotations

from typing import Any

from ..errors import EngineError


def make_calibrator(trt: Any, cache: bytes, batch: int) -> Any:
    """An ``IInt8EntropyCalibrator2`` that answers with ``cache``.

    Args:
        trt: the tensorrt package, 10.x.
        cache: text of an ``EntropyCalibration2`` cache of this version. batch: images per call.

    Returns:
        The calibrator; its ``failure`` is an EngineError when TensorRT did not take the cache, else None. TensorRT
        swallows what a callback raises, so the caller looks there after the build.
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
