import json
import struct
import zipfile

import numpy as np
import onnx
import pytest

from trt_pose import CalibrationError
from trt_pose.choices import CalibrationMethod as Method
from trt_pose.files import cache_folder
from trt_pose.graphs.file import read_spec
from trt_pose.graphs.surgery import extract_subgraph
from trt_pose.images.pixels import letterbox, read
from trt_pose.quantization import CalibrationCache, CalibrationOptions, calibrate, open_batches
from trt_pose.quantization.cache import from_tensorrt, tensorrt_version, to_tensorrt
from trt_pose.quantization.calibrate import Calibration, import_tensorrt
from trt_pose.quantization.histogram import Histogram
from trt_pose.quantization.network import Network
from trt_pose.quantization.resume import Resume
from trt_pose.runtime.ort import OnnxRunner

ALL = CalibrationOptions(batches=None)


@pytest.fixture(scope="session")
def network(tiny_onnx):
    return Network(onnx.load(tiny_onnx))


@pytest.fixture
def pixels(picture_folder, network):
    spec = read_spec(network.proto).input
    return np.stack([letterbox(read(path), spec)[0] for path in sorted(picture_folder.iterdir())])


def run(network, data, options=ALL, cache=None):
    return calibrate(network, network.activations(), data, options, cache)


def test_thresholds_are_those_of_the_tensors(network, pixels):
    """minmax has one right answer: the largest magnitude, from a plain run of the graph."""
    found = run(network, [pixels], CalibrationOptions(Method.MINMAX))
    part = extract_subgraph(network.proto, network.activations())
    largest = dict.fromkeys(network.activations(), 0.0)
    with OnnxRunner(part.SerializeToString(), providers=["cpu"]) as runner:
        for image in pixels:
            for name, values in runner.run({"input": image[None]}).items():
                largest[name] = max(largest[name], float(np.abs(values).max()))
    for name in network.activations():
        if name not in network.images():
            assert found.thresholds[name] == pytest.approx(largest[name], rel=1e-5), name
    assert found.images == 6


def test_the_image_itself_is_never_clipped(network, pixels):
    """Its range is known; entropy would clip it at the padding's grey."""
    for method in Method:
        thresholds = run(network, [pixels // 4], CalibrationOptions(method)).thresholds
        assert thresholds["/preprocess/Cast_output_0"] == 255.0


def test_the_grouping_of_images_does_not_matter(tiny, picture_folder, pixels, network, tmp_path):
    from ..conftest import SMALL

    tiny.export(tmp_path / "four.onnx", batch_size=4, verification=False, **SMALL)
    four = Network(onnx.load(tmp_path / "four.onnx"))
    alone = run(network, iter(pixels[:, None]))
    together = run(network, str(picture_folder))
    fixed = run(four, [pixels])  # 4 + 2: the last ones are filled up, and not counted twice
    for name, value in alone.thresholds.items():
        assert together.thresholds[name] == pytest.approx(value, rel=1e-3), name
        assert fixed.thresholds[name] == pytest.approx(value, rel=1e-3), name


def test_decode_is_never_calibrated(network):
    assert not [name for name in network.activations() if "postprocess" in name]


def test_a_cache_is_made_and_used(network, pixels, tmp_path):
    path = tmp_path / "c.json"
    made = run(network, [pixels], cache=path)
    assert run(network, [pixels], cache=path) == made
    assert run(network, None, cache=path) == made  # it says itself what it belongs to
    assert json.loads(path.read_text(encoding="utf-8"))["images"] == 6


def test_a_foreign_cache_is_refused_with_the_difference(network, pixels, tmp_path, picture_folder):
    from ..conftest import SMALL, make_tiny

    path = tmp_path / "c.json"
    run(network, [pixels], cache=path)

    def refused(words, network=network, data=(pixels,), options=ALL):
        with pytest.raises(CalibrationError, match=words):
            run(network, list(data), options, path)

    refused("its data is", data=(pixels[:3],))
    refused("its method is 'entropy', this run's is 'mse'", options=CalibrationOptions(Method.MSE))
    refused("its method", options=CalibrationOptions(Method.PERCENTILE, 99.9))
    other = make_tiny()
    other.heads.head1.cls_pred.weight.data += 0.1
    other.export(tmp_path / "other.onnx", verification=False, **SMALL)
    refused("its model is", network=Network(onnx.load(tmp_path / "other.onnx")))
    make_tiny().export(tmp_path / "thresholds.onnx", verification=False, **{**SMALL, "confidence_threshold": 0.7})
    run(Network(onnx.load(tmp_path / "thresholds.onnx")), [pixels], cache=path)  # the decode is no part of it


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "not json", '{"trt_pose_calibration": 9}', "TRT-100300-EntropyCalibration2\n"]
)
def test_a_damaged_cache_is_one_sentence(network, pixels, tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match="not a trt_pose calibration cache"):
        run(network, [pixels], cache=path)
    assert path.read_text(encoding="utf-8") == text


def test_no_data_and_no_cache(network, tmp_path):
    for cache in (None, tmp_path / "absent.json"):
        with pytest.raises(CalibrationError, match="INT8 needs images"):
            run(network, None, cache=cache)


@pytest.mark.parametrize("options", [{"percentile": 0.0}, {"percentile": 101}, {"percentile": np.nan}, {"batches": 0}])
def test_options_out_of_range(options):
    with pytest.raises(CalibrationError, match="expected"):
        CalibrationOptions(**options)


def breaking(pixels, after):
    for index, image in enumerate(pixels):
        if index == after:
            raise RuntimeError("power cut")
        yield image[None]


def test_an_interrupted_calibration_goes_on(network, pixels, monkeypatch):
    want = run(network, iter(pixels[:, None]))
    with pytest.raises(CalibrationError, match="power cut"):
        run(network, breaking(pixels, 4))
    counted = []
    count = Calibration._count
    monkeypatch.setattr(Calibration, "_count", lambda self, *rest: (counted.append(1), count(self, *rest))[1])
    again = run(network, iter(pixels[:, None]))
    assert len(counted) == 2  # four of six were finished
    assert again == want
    run(network, iter(pixels[:, None]))
    assert len(counted) == 8  # nothing is left behind by a finished one


def test_an_interrupted_calibration_of_other_images_starts_over(network, pixels):
    want = run(network, iter(pixels[::-1, None]))
    with pytest.raises(CalibrationError):
        run(network, breaking(pixels, 4))
    assert run(network, iter(pixels[::-1, None])) == want


SPOILED = {
    "no number": lambda state: state["counts"].__setitem__((0, 3), np.nan),
    "negative counts": lambda state: state["counts"].__setitem__((0, 3), -1.0),
    "endless range": lambda state: state["rest"].__setitem__((0, 0), np.inf),
    "negative range": lambda state: state["rest"].__setitem__((0, 0), -1.0),
    "range that is no power of 2": lambda state: state["rest"].__setitem__((0, 0), 3.0),
    "largest above the range": lambda state: state["rest"].__setitem__((0, 1), 1e30),
    "text": lambda state: state.update(rest=state["rest"].astype(str)),
    "one digest": lambda state: state.update(digests=np.array("x")),
    "no digests": lambda state: state.pop("digests"),
    "another shape": lambda state: state.update(counts=state["counts"][:, :7]),
    "objects": lambda state: state.update(digests=np.array([{}], object)),
}


def saved_state():
    """A state with three batches of two tensors, and its file."""
    histograms = {name: Histogram() for name in ("first", "second")}
    resume = Resume("model", histograms)
    for histogram in histograms.values():
        histogram.add(np.linspace(0, 3, 1000, dtype=np.float32))
    resume.digests += ["a", "b", "c"]
    resume.save()
    (path,) = cache_folder("calibration").glob("model*.npz")
    return path


def loaded_digests():
    histograms = {name: Histogram() for name in ("first", "second")}
    resume = Resume("model", histograms)
    resume.load()
    assert bool(resume.digests) == (histograms["first"].seen > 0)  # all of it, or nothing
    return resume.digests


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_damaged_state_is_not_continued(spoil):
    path = saved_state()
    assert loaded_digests() == ["a", "b", "c"]
    with np.load(path) as saved:
        state = {name: saved[name].copy() for name in saved.files}
    spoil(state)
    np.savez(path, **state)
    assert loaded_digests() == []


def test_a_state_that_unpacks_to_gigabytes_is_not_read():
    with zipfile.ZipFile(saved_state(), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", bytes(1 << 28))
    assert loaded_digests() == []


def test_an_interrupted_calibration_that_changes_midway_says_so(network, pixels):
    for rest in ([3, 2, 1], []):  # other images, and fewer
        with pytest.raises(CalibrationError):
            run(network, breaking(pixels, 4))
        with pytest.raises(CalibrationError, match="same first 2 batches"):
            run(network, iter(pixels[[0, 1, *rest], None]))
        assert run(network, iter(pixels[[0, 1, *rest], None])).images == 2 + len(rest)


def test_nan_weights_are_found(network, pixels):
    broken = onnx.ModelProto()
    broken.CopyFrom(network.proto)
    for item in broken.graph.initializer:
        if item.name.endswith("stem.conv.rbr_reparam.bias"):
            item.CopyFrom(onnx.numpy_helper.from_array(np.full(item.dims, np.nan, np.float32), item.name))
    with pytest.raises(CalibrationError, match="is NaN or infinite for batch 0"):
        run(Network(broken), [pixels])


def test_a_file_without_description(network, pixels):
    bare = onnx.ModelProto()
    bare.CopyFrom(network.proto)
    del bare.metadata_props[:]
    with pytest.raises(CalibrationError, match="no trt_pose description"):
        run(Network(bare), [pixels])


def test_tensorrt_format_by_hand():
    """0.0078759 is what a published cache of TensorRT 8.5 holds for a tensor of amax 1.0002."""
    text = "TRT-8510-EntropyCalibration2\nimages: 3c010a14\nwith: colon: 3f800000\n"
    version, thresholds = from_tensorrt(text)
    assert version == 8510
    assert thresholds["images"] == pytest.approx(1.0002, abs=1e-4)
    assert thresholds["with: colon"] == 127.0
    assert to_tensorrt(thresholds, "8.5.1") == "TRT-8501-EntropyCalibration2\nimages: 3c010a14\nwith: colon: 3f800000\n"
    assert struct.unpack(">f", bytes.fromhex("3c010a14"))[0] == pytest.approx(1.0002 / 127, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "number"), [("10.3.0", 100300), ("10.14.1.48", 101401), ("8.5.10", 8510), ("100300", 100300)]
)
def test_tensorrt_versions(text, number):
    assert tensorrt_version(text) == number


@pytest.mark.parametrize("text", ["", "ten", "10", "10.3.0-rc"])
def test_unknown_tensorrt_versions(text):
    with pytest.raises(CalibrationError, match="expected the form"):
        tensorrt_version(text)


@pytest.mark.parametrize(
    "text", ["", "hello", "TRT-100300-MinMaxCalibration\n", "TRT-100300-EntropyCalibration2\nx 12\n"]
)
def test_damaged_tensorrt_caches(text):
    with pytest.raises(CalibrationError, match="TensorRT calibration cache"):
        from_tensorrt(text)


def test_a_tensorrt_cache_there_and_back(network, tiny_onnx, tiny_dynamic_onnx, pixels, tmp_path):
    ours = run(network, [pixels])
    path = tmp_path / "trt.cache"
    path.write_text(to_tensorrt(ours.thresholds, "10.3.0"))
    imported = import_tensorrt(tiny_onnx, path)
    for name, value in ours.thresholds.items():
        assert imported.thresholds[name] == pytest.approx(value, rel=1e-6)
    imported.write(tmp_path / "ours.json")
    assert run(network, None, cache=tmp_path / "ours.json").thresholds == imported.thresholds
    path.write_text(to_tensorrt({"input": 1.0}, "10.3.0"))
    with pytest.raises(CalibrationError, match="It was made with another file"):
        import_tensorrt(tiny_onnx, path)
    with pytest.raises(CalibrationError, match="no such file"):
        import_tensorrt(tiny_onnx, tmp_path / "none")


def test_a_cache_is_written_whole(network, pixels, tmp_path):
    cache = run(network, [pixels])
    with pytest.raises(CalibrationError, match="Choose a writable place"):
        cache.write(tmp_path / "none" / "c.json")
    assert CalibrationCache.read(_written(cache, tmp_path)) == cache


def _written(cache, folder):
    cache.write(folder / "c.json")
    return folder / "c.json"


def test_batches_are_limited(network, pixels):
    assert run(network, iter(pixels[:, None]), CalibrationOptions(batches=2)).images == 2
    assert len(list(open_batches(iter(pixels[:, None]), read_spec(network.proto).input, 4))) == 4


def test_interruptions_while_resuming_and_within_a_batch(network, pixels, monkeypatch):
    want = run(network, iter(pixels[:, None]))
    for after in (4, 1):  # the second time before all that was counted has passed by
        with pytest.raises(CalibrationError, match="power cut"):
            run(network, breaking(pixels, after))
    assert run(network, iter(pixels[:, None])) == want

    together = [pixels[:2], pixels[2:]]
    want = run(network, together)
    real, calls = OnnxRunner.run, []

    def interrupting(self, feeds):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, feeds)

    monkeypatch.setattr(OnnxRunner, "run", interrupting)
    with pytest.raises(KeyboardInterrupt):
        run(network, together)
    assert run(network, together) == want


def test_a_cache_serves_in_any_order_and_grouping_and_for_either_backend(
    network, pixels, tiny_plugin_onnx, tiny_dynamic_onnx, tmp_path
):
    path = tmp_path / "c.json"
    made = run(network, [pixels], cache=path)
    assert run(network, [pixels[3:], pixels[:3]], cache=path) == made
    for other in (tiny_plugin_onnx, tiny_dynamic_onnx):
        assert run(Network(onnx.load(other)), [pixels[::-1]], cache=path) == made


def test_nothing_is_lost_when_the_cache_cannot_be_written(network, pixels, tmp_path, monkeypatch):
    counted = []
    count = Calibration._count
    monkeypatch.setattr(Calibration, "_count", lambda self, *rest: (counted.append(1), count(self, *rest))[1])
    with pytest.raises(CalibrationError, match="Choose a writable place"):
        run(network, [pixels], cache=tmp_path / "none" / "c.json")
    assert counted == []  # said before the work


@pytest.mark.parametrize("home", ["/dev/null", "/proc/nothing"])
def test_a_cache_folder_that_cannot_be_used_costs_nothing_but_the_resuming(network, pixels, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert run(network, [pixels]).images == 6


def test_a_damaged_state_is_no_state(network, pixels):
    from trt_pose.files import cache_folder

    with pytest.raises(CalibrationError):
        run(network, breaking(pixels, 3))
    (state,) = cache_folder("calibration").iterdir()
    state.write_bytes(state.read_bytes()[:2000])
    assert run(network, [pixels]).images == 6


def test_containers_without_a_home_have_a_cache_folder(monkeypatch):
    from pathlib import Path

    from trt_pose.files import cache_folder

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder("x").name == "x"
