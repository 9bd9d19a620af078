"""The strict driver judges: each fault that a runner may have, made on purpose, is found.

``scenario`` is what the other tests do with a runner; each mutation breaks one thing in it.
"""

import contextlib

import numpy as np
import pytest

from trt_pose import PosePredictor
from trt_pose.gpu import device as devices
from trt_pose.gpu.device import Device
from trt_pose.results.pairing import compare_predictions
from trt_pose.runtime import pipeline, trt
from trt_pose.runtime.ort import OnnxRunner
from trt_pose.runtime.trt import TrtRunner

from .. import gpu_stand_in as stand_in


@pytest.fixture
def scenario(driver, tensorrt, tiny_dynamic_plugin_onnx, tmp_path, picture_folder, rng):
    path = stand_in.write_engine(tiny_dynamic_plugin_onnx, tmp_path)
    batches = [rng.integers(0, 256, (size, 3, 128, 160), dtype=np.uint8) for size in (2, 2, 1, 2, 2, 2)]

    def run():
        with TrtRunner(path) as runner, OnnxRunner(tiny_dynamic_plugin_onnx, providers=["cpu"]) as reference:
            for pixels in batches:
                got, want = (each.run({"input": pixels}) for each in (runner, reference))
                for name, values in want.items():
                    np.testing.assert_array_equal(got[name], values)
            assert driver.count("executable") == 1
        with PosePredictor(path) as first, PosePredictor(tiny_dynamic_plugin_onnx, providers=["cpu"]) as second:
            for batch in (1, 3):
                found = list(first.stream(str(picture_folder), batch_size=batch))
                expected = second.stream(str(picture_folder), batch_size=batch)
                for got, want in zip(found, expected, strict=True):
                    gap = compare_predictions(got.poses, want.poses)
                    assert (len(got), gap.unmatched, gap.px < 1e-3) == (len(want), 0, True)
        assert driver.alive() == {}
        assert driver.misuses() == []

    return run


def test_without_a_fault_nothing_is_found(scenario):
    scenario()


def no_current(monkeypatch, driver):
    @contextlib.contextmanager
    def current(self, doing):
        yield

    monkeypatch.setattr(Device, "current", current)


def allocation_in_a_capture(monkeypatch, driver):
    execute = TrtRunner._try_execute

    def execute_and_allocate(self):
        self.device.pinned(8).close()
        return execute(self)

    monkeypatch.setattr(TrtRunner, "_try_execute", execute_and_allocate)


def replay_at_another_shape(monkeypatch, driver):
    """As the runner once was: the graph of a batch size is kept while another one runs."""

    def enqueue(self):
        if self._captured is None and self._key == self._last_key:
            self.stream.sync()
            self._captured = trt._Captured(trt.Graph.capture(self.stream, self._try_execute), self._key)
        if self._captured is not None and self._captured.shapes == self._key:
            self._captured.graph.launch(self.stream)
        else:
            self._execute()
        self._last_key = self._key

    monkeypatch.setattr(TrtRunner, "enqueue", enqueue)


def no_wait_for_the_run(monkeypatch, driver):
    monkeypatch.setattr(trt, "wait", lambda stream, end, spin: None)


def no_order_between_upload_and_letterbox(monkeypatch, driver):
    enqueue = pipeline.Pipeline._enqueue

    def unordered(self, buffers, images, threshold):
        class Stream:
            handle = self._runner.stream.handle
            record = self._runner.stream.record

            def wait(self, _event):
                pass

        real, self._runner.stream = self._runner.stream, Stream()
        try:
            monkeypatch.setattr(pipeline, "copy", lambda source, target, size, stream: devices.copy(
                source, target, size, real if isinstance(stream, Stream) else stream))  # fmt: skip
            enqueue(self, buffers, images, threshold)
        finally:
            self._runner.stream = real

    monkeypatch.setattr(pipeline.Pipeline, "_enqueue", unordered)


def a_stream_that_is_not_closed(monkeypatch, driver):
    kept = []
    stream = Device.stream
    monkeypatch.setattr(Device, "stream", lambda self: kept.append(stream(self)) or kept[-1])
    monkeypatch.setattr(TrtRunner, "own", lambda self, resource: resource)


def memory_freed_too_early(monkeypatch, driver):
    memory = Device.memory

    def closed(self, size):
        buffer = memory(self, size)
        address = devices.address_of(buffer)
        buffer.close()
        self._copies.sync()
        return type("Freed", (), {"handle": address, "size": buffer.size, "copy_to": lambda *_, **__: None})()

    monkeypatch.setattr(Device, "memory", closed)
    monkeypatch.setattr(devices, "part", lambda buffer, size: buffer)


MUTATIONS = (
    no_current, allocation_in_a_capture, replay_at_another_shape, no_wait_for_the_run,
    no_order_between_upload_and_letterbox, a_stream_that_is_not_closed, memory_freed_too_early,
)  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_fault_is_found(driver, scenario, monkeypatch, mutate):
    mutate(monkeypatch, driver)
    with pytest.raises(Exception):  # noqa: B017, PT011 - an assertion, or whatever the driver's refusal becomes
        scenario()
    monkeypatch.undo()
    driver.library.strict_close()  # what the fault left behind is not this test's
    driver.open()
