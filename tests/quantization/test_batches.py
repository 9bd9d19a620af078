import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from trt_pose import CalibrationError, SourceError
from trt_pose.quantization import open_batches
from trt_pose.spec import InputSpec, Normalization

SPEC = InputSpec(height=64, width=96, resize_to=(64, 96))
FLOAT = InputSpec(height=64, width=96, resize_to=(64, 96), dtype="float32", normalized_in_graph=False)
IMAGENET = InputSpec(
    height=64,
    width=96,
    resize_to=(64, 96),
    dtype="float32",
    normalized_in_graph=False,
    normalization=Normalization("BGR", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
)


@pytest.fixture
def pixels(rng):
    # Sorted along the rows: neighbouring pixels of images are related, those of noise are not.
    return np.sort(rng.integers(0, 256, (5, 3, 64, 96), dtype=np.uint8), axis=3)


def test_a_data_loader_with_targets(pixels):
    loader = DataLoader(TensorDataset(torch.from_numpy(pixels), torch.arange(5)), batch_size=2)
    batches = list(open_batches(loader, SPEC))
    assert [len(batch) for batch in batches] == [2, 2, 1]  # the incomplete last one, too
    np.testing.assert_array_equal(np.concatenate(batches), pixels)
    assert len(list(open_batches(loader, SPEC, limit=2))) == 2


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, 1),
        lambda x: [x, "y"],
        lambda x: {"image": x},
        lambda x: {"id": torch.arange(5), "image": x},
        lambda x: ((x, {"boxes": 1}), 2),
        list,
        torch.from_numpy,
        lambda x: torch.from_numpy(x).to(torch.bfloat16),
    ],
)
def test_what_a_loader_may_give(pixels, wrap):
    (batch,) = open_batches(iter([wrap(pixels)]), SPEC)
    np.testing.assert_array_equal(batch, pixels)


def test_a_folder_is_letterboxed_as_for_inference(picture_folder):
    from trt_pose.images.pixels import letterbox, read

    batches = list(open_batches(str(picture_folder), SPEC))
    assert sum(map(len, batches)) == 6
    want = [letterbox(read(path), SPEC)[0] for path in sorted(picture_folder.iterdir())]
    np.testing.assert_array_equal(np.concatenate(batches), np.stack(want))
    listed = list(open_batches(sorted(picture_folder.iterdir()), SPEC))
    np.testing.assert_array_equal(np.concatenate(listed), np.stack(want))


def test_float_batches_of_a_grey_file_are_rounded(pixels):
    (batch,) = open_batches([pixels.astype(np.float32) + 0.3], SPEC)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, pixels)


def test_a_file_without_normalization_gets_it_here(pixels):
    (batch,) = open_batches([pixels], IMAGENET)
    want = (pixels[:, ::-1] - np.array([123.7, 116.3, 103.5]).reshape(1, 3, 1, 1)) / np.array(
        [58.4, 57.1, 57.4]
    ).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(batch, want, atol=1e-5)
    (same,) = open_batches([want.astype(np.float32)], IMAGENET)
    np.testing.assert_allclose(same, want, atol=1e-5)


def refused(data, spec, words):
    with pytest.raises(CalibrationError, match=words):
        list(open_batches(data, spec))


def test_wrong_ranges_are_named(pixels):
    refused([pixels / np.float32(255)], SPEC, "divided by 255 once too often")
    refused([pixels / np.float32(255 * 255)], FLOAT, "once too often.*divided once")
    refused([pixels.astype(np.float32)], FLOAT, "forgot the division by 255")
    refused([pixels.astype(np.float32) - 100], SPEC, "values from -100 to 155, expected 0..255")
    refused([np.linspace(-1, 1, pixels.size).reshape(pixels.shape)], SPEC, "The loader normalizes")
    refused([(pixels / 255 - 0.45) / 0.22], SPEC, "The loader normalizes")
    (fine,) = open_batches([pixels / np.float32(255)], FLOAT)
    assert fine.dtype == np.float32


def test_images_that_look_strange_are_taken():
    def grey(low, high):
        return np.random.default_rng(0).integers(low, high + 1, (1, 3, 64, 96)).astype(np.float32)

    for batch in (grey(0, 0), grey(0, 1), grey(254, 255), grey(7, 7)):
        (taken,) = open_batches([batch], SPEC)
        np.testing.assert_array_equal(taken, batch)
        (taken,) = open_batches([batch / 255], FLOAT)
        np.testing.assert_allclose(taken, batch / 255)


def test_interpolation_that_overshoots_does_not_wrap():
    batch = np.full((1, 3, 64, 96), 100, np.float32)
    batch[0, 0, 0, :2] = -3, 258
    (taken,) = open_batches([batch], SPEC)
    assert taken[0, 0, 0, :2].tolist() == [0, 255]


def test_a_module_of_the_users_own_takes_what_it_takes(pixels):
    from dataclasses import replace

    spec = replace(FLOAT, normalized_in_graph=True, custom_preprocessing=True)
    for batch in (pixels / np.float32(255), pixels.astype(np.float32) * 100):
        (taken,) = open_batches([batch], spec)
        np.testing.assert_array_equal(taken, batch)
    refused([np.full((1, 3, 64, 96), np.nan)], spec, "NaN")


def test_wrong_batches_are_named(pixels):
    refused([pixels.transpose(0, 2, 3, 1)], SPEC, "Put the channels first")
    refused([pixels[:, :, :32]], SPEC, r"got shape \(5, 3, 32, 96\), expected \(images, 3, 64, 96\)")
    refused([pixels[0]], SPEC, "got shape")
    refused([pixels[:0]], SPEC, "got shape")
    refused([pixels.astype(np.int64)], SPEC, "got int64, expected uint8 or floating")
    nan = pixels.astype(np.float32)
    nan[2, 1, 5, 5] = np.nan
    refused([nan], SPEC, "NaN or infinity")
    refused([None], SPEC, "without images")
    refused([[7, 8]], SPEC, "without images")
    refused([torch.empty(1, 3, 64, 96, device="meta")], SPEC, "expected an array of images")
    refused([], SPEC, "no batch, expected at least one")
    refused(7, SPEC, "got int, expected a folder")


def test_an_empty_folder_and_a_missing_one(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SourceError):
            list(open_batches(path, SPEC))


def test_a_loader_that_raises_shows_its_own_exception(pixels):
    def loader():
        yield pixels
        raise ZeroDivisionError("the data set is broken")

    class Broken:
        def __iter__(self):
            raise ZeroDivisionError("no workers")

    refused(Broken(), SPEC, "batch 0: the loader raised ZeroDivisionError: no workers")
    with pytest.raises(CalibrationError, match="batch 1: the loader raised ZeroDivisionError: the data set") as caught:
        list(open_batches(loader(), SPEC))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_noise_by_name_only():
    batches = list(open_batches("random", SPEC, limit=3))
    assert [batch.shape for batch in batches] == [(1, 3, 64, 96)] * 3
    assert batches[0].std() > 50


def test_reading_does_not_warn(pixels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(open_batches(DataLoader(TensorDataset(torch.from_numpy(pixels))), SPEC))


def test_an_array_is_one_batch_and_a_sequence_is_many(pixels):
    class Sequence:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index >= 2:
                raise IndexError
            return pixels[index : index + 1]

    assert [len(batch) for batch in open_batches(pixels, SPEC)] == [5]
    assert [len(batch) for batch in open_batches(Sequence(), SPEC)] == [1, 1]
