"""A TensorRT 10 entropy calibrator that returns precomputed ranges.

``trt_pose.quantization`` does the calibration itself: it checks the batches, shows progress and reports errors.
TensorRT reads the calibration cache first, and runs no batch when it accepts the cache.
"""

from __future__ import annotations

from typing import Any

from ..errors import EngineError


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
