import cv2
import numpy as np
import pytest

from trt_pose import SourceError
from trt_pose.images.pixels import as_rgb, decode, letterbox, undo_letterbox
from trt_pose.models.processing import POSE_INPUT
from trt_pose.spec import InputSpec

from .. import reference


@pytest.mark.parametrize(
    ("height", "width"),
    [(480, 640), (427, 640), (640, 427), (333, 999), (1, 1), (1, 3000), (1281, 963), (640, 640), (85, 85), (721, 1281)],
)
def test_letterbox_equals_the_reference_pixel_for_pixel(rng, height, width):
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels, placed = letterbox(picture, POSE_INPUT)
    if min(height, width) == 1 < max(height, width):  # the reference rounds the short side to nothing
        assert pixels.shape == (3, 640, 640)
        return
    want, scale = reference.letterbox(picture, 640, 127)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), want)
    assert (placed.scale_x, placed.scale_y, placed.left, placed.top) == (scale, scale, 0, 0)


def test_new_sizes_round_half_to_even():
    # 5 x 1280 at half size is 2.5 rows: Python rounds to 2. 7 x 1280 is 3.5 rows: to 4.
    for height, rows in ((5, 2), (7, 4)):
        pixels, _ = letterbox(np.zeros((height, 1280, 3), np.uint8), POSE_INPUT)
        assert (pixels[0, :, 0] == 0).sum() == rows


def test_an_image_of_the_right_size_is_untouched(rng):
    picture = rng.integers(0, 256, (640, 640, 3), dtype=np.uint8)
    np.testing.assert_array_equal(letterbox(picture, POSE_INPUT)[0], picture.transpose(2, 0, 1))


def test_center_padding_and_smaller_resize(rng):
    # YOLO-NAS's policy: long side to 636, the rest split around with 114.
    spec = InputSpec(resize_to=(636, 636), padding="center", pad_value=114)
    picture = np.zeros((318, 636, 3), np.uint8)
    pixels, placed = letterbox(picture, spec)
    assert (placed.left, placed.top, placed.scale_x) == (2, 161, 1.0)
    rows, columns = np.flatnonzero((pixels[0] == 0).any(axis=1)), np.flatnonzero((pixels[0] == 0).any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (161, 478, 2, 637)
    assert set(np.unique(pixels)) == {0, 114}


def test_stretching_uses_a_scale_per_axis():
    spec = InputSpec(height=64, width=96, resize="stretch", resize_to=(64, 96))
    pixels, placed = letterbox(np.full((32, 192, 3), 9, np.uint8), spec)
    assert (pixels == 9).all()
    assert (placed.scale_x, placed.scale_y) == (0.5, 2.0)
    np.testing.assert_allclose(undo_letterbox(np.array([[48, 32]], np.float32), placed), [[96, 16]])


@pytest.mark.parametrize("padding", ["bottom_right", "center"])
@pytest.mark.parametrize(("height", "width"), [(427, 640), (1081, 1920), (33, 77)])
def test_undo_is_the_inverse(rng, padding, height, width):
    _, placed = letterbox(np.zeros((height, width, 3), np.uint8), InputSpec(padding=padding))
    points = rng.uniform(-50, 2000, (5, 17, 2)).astype(np.float32)
    inside = points * np.float32([placed.scale_x, placed.scale_y]) + np.float32([placed.left, placed.top])
    np.testing.assert_allclose(undo_letterbox(inside, placed), points, atol=1e-3)


def encode(pixels, suffix):
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_decoding_gives_rgb(suffix):
    bgr = np.zeros((4, 6, 3), np.uint8)
    bgr[..., 0] = 200  # blue in OpenCV
    decoded = decode(encode(bgr, suffix))
    assert decoded.dtype == np.uint8
    assert decoded[0, 0].tolist() == [0, 0, 200]


def test_decoding_grey_alpha_and_sixteen_bits():
    grey = np.full((4, 6), 77, np.uint8)
    assert decode(encode(grey, ".png"))[2, 3].tolist() == [77, 77, 77]
    alpha = np.dstack([np.full((4, 6, 3), 50, np.uint8), np.zeros((4, 6), np.uint8)])
    assert decode(encode(alpha, ".png"))[0, 0].tolist() == [50, 50, 50]
    deep = np.full((4, 6, 3), 256 * 99 + 3, np.uint16)
    assert decode(encode(deep, ".png"))[0, 0].tolist() == [99, 99, 99]


def test_exif_orientation_is_applied():
    from io import BytesIO

    from PIL import Image

    picture = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    buffer = BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue()).shape == (40, 20, 3)


def test_truncated_images_are_refused(photo_path):
    data = photo_path.read_bytes()
    for broken in (
        data[: len(data) // 2],
        encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), ".png")[:-1000],
        b"",
        b"GIF89a",
        b"text",
    ):
        with pytest.raises(SourceError):
            decode(broken)


def test_as_rgb_shapes(rng):
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    for array in (grey, grey[:, :, None]):
        assert (as_rgb(array) == grey[:, :, None]).all()
    assert as_rgb(np.zeros((5, 7, 4), np.uint8)).shape == (5, 7, 3)
    assert as_rgb(np.zeros((5, 7, 3), np.uint8)[:, ::-1]).flags["C_CONTIGUOUS"]
    for array in (np.zeros((5, 7, 3), np.float32), np.zeros((3, 5, 7), np.uint8), np.zeros((0, 7, 3), np.uint8)):
        with pytest.raises(SourceError):
            as_rgb(array)
