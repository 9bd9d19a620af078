"""Decoding ahead: in order, errors in their places, bounded, and stopped promptly."""

import itertools
import threading
import time
import warnings

import numpy as np
import PIL.Image
import pytest

from trt_pose import SourceError
from trt_pose.images import ahead, pixels
from trt_pose.images.ahead import map_ahead, prefetch
from trt_pose.images.reading import Frame, Reading, Unreadable
from trt_pose.images.sources import open_source


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: 4)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("trt_pose_ahead")]


def test_results_come_in_order_whichever_is_done_first():
    def slow_first(number):
        time.sleep(0.05 if number % 4 == 0 else 0)
        return number

    assert list(map_ahead(slow_first, range(20), 6)) == list(range(20))
    assert not threads()


def test_no_more_is_taken_than_asked_for():
    taken = []
    results = map_ahead(str, (taken.append(number) or number for number in range(100)), 3)
    assert next(results) == "0"
    assert len(taken) == 4
    assert next(results) == "1"
    assert len(taken) == 5
    results.close()
    assert not threads()


def test_errors_are_raised_in_their_places():
    def sometimes(number):
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ahead(sometimes, range(9), 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert not threads()


def test_what_has_not_begun_is_dropped():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.05)

    results = map_ahead(work, range(100), 50, threads=1)
    next(results)
    start = time.perf_counter()
    results.close()
    assert time.perf_counter() - start < 1
    assert len(begun) < 10


def test_an_iterator_is_taken_by_one_thread_and_closed():
    seen, closed = set(), []

    def numbers():
        try:
            for number in itertools.count():
                seen.add(threading.current_thread().name)
                yield number
        finally:
            closed.append(True)

    items = prefetch(numbers(), 3)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    items.close()
    assert closed == [True]
    assert len(seen) == 1
    assert threading.main_thread().name not in seen
    assert list(prefetch(iter(range(7)), 3)) == list(range(7))


@pytest.fixture
def folder(tmp_path, rng):
    """Twelve pictures of different sizes; the fifth is damaged."""
    for index in range(12):
        picture = PIL.Image.fromarray(rng.integers(0, 255, (20 + index, 30, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{index:02}.png")
    (tmp_path / "05.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return tmp_path


def test_a_folder_read_ahead_is_the_folder(folder):
    one, other = (list(open_source(folder, Reading(strict=False, ahead=depth))) for depth in (0, 5))
    assert [type(item) for item in one] == [type(item) for item in other]
    assert [item.source for item in one] == [item.source for item in other]
    assert [index for index, item in enumerate(other) if isinstance(item, Unreadable)] == [5]
    for first, second in zip(one, other, strict=True):
        if isinstance(first, Frame):
            np.testing.assert_array_equal(first.image, second.image)


def test_a_strict_reading_stops_at_the_damaged_one(folder):
    found = iter(open_source(folder, Reading(ahead=5)))
    assert [next(found).source for _ in range(5)] == [str(folder / f"{index:02}.png") for index in range(5)]
    with pytest.raises(SourceError, match=r"05\.png"):
        next(found)
    assert not threads()


def test_generators_are_not_read_ahead(rng):
    asked = []

    def live():
        for index in range(5):
            asked.append(index)
            yield rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)

    frames = iter(open_source(live(), Reading(ahead=4)))
    next(frames)
    assert asked == [0]


def test_warnings_of_pillow_are_silent_in_every_thread_and_others_are_not(tmp_path):
    PIL.Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    before = list(warnings.filters)
    limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, 1000  # 1,600 pixels: a warning, no error
    try:
        with pytest.raises(PIL.Image.DecompressionBombWarning):
            PIL.Image.open(tmp_path / "a.png")
        for image in map_ahead(pixels.decode, [data] * 200, 8):
            assert image.shape == (40, 40, 3)
            with pytest.warns(UserWarning, match="ours"):
                warnings.warn("ours", stacklevel=1)
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = limit
    assert [item for item in warnings.filters if item not in before] == []
