"""What a build sets beyond Polygraphy's arguments, on real configurations of TensorRT-RTX and recorded ones."""

import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trt_pose import CalibrationError, UsageError
from trt_pose.builder import build as building
from trt_pose.builder.build import build_engine
from trt_pose.builder.calibrator import StoredImages, write_images
from trt_pose.builder.options import BuildOptions
from trt_pose.builder.prepare import QuantizeRequest, prepare
from trt_pose.builder.worker import Job, _set_flags
from trt_pose.cli import main
from trt_pose.spec import ModelSpec, OutputSpec
from trt_pose.trt.flavor import Flavor
from trt_pose.trt.sidecar import Sidecar

from ..bindings import answer_of, run_on

CONFIG = textwrap.dedent(
    """
    import json, os
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
    from pathlib import Path
    from polygraphy.backend.trt import PostprocessConfig
    from trt_pose.builder.options import BuildOptions
    from trt_pose.builder.worker import Job, _config, _monitor, _set_flags
    from trt_pose.spec import ModelSpec, OutputSpec
    from trt_pose.trt.flavor import find_flavor

    flavor = find_flavor("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    network.mark_output(
        network.add_activation(network.add_input("x", trt.float32, (1, 4)), trt.ActivationType.RELU).get_output(0)
    )
    found = []
    for tf32 in (True, False):
        for format in ("batch", "raw"):
            options = BuildOptions(tf32=tf32, flavor="tensorrt_rtx", compute_capabilities=((8, 9),))
            spec = ModelSpec("m", output=OutputSpec(format))
            job = Job(Path("m"), Path("e"), Path("l"), spec, options, {})
            config = PostprocessConfig(_config(flavor, job, _monitor(trt, print), None), func=_set_flags(flavor, job))
            made = config(builder, network)
            flags = trt.BuilderFlag
            found.append([made.get_flag(flags.TF32), made.get_flag(flags.REQUIRE_USER_ALLOCATION)])
    print(json.dumps(found))
    """
)


def test_rtx_gets_what_capture_asks_for_and_tf32_as_said():
    found = answer_of(run_on("rtx", CONFIG))
    assert found == [[True, True], [True, True], [False, True], [False, True]]


@pytest.mark.parametrize("tf32", [True, False])
def test_tensorrt_gets_tf32_as_said(tf32):
    """Polygraphy clears the flag where nothing is said; trtexec sets it."""
    said = {}
    flavor = Flavor("tensorrt", "10.3.0", SimpleNamespace(BuilderFlag=SimpleNamespace(TF32="TF32")))
    job = Job(Path("m"), Path("e"), Path("l"), ModelSpec("m", output=OutputSpec("flat")), BuildOptions(tf32=tf32), {})
    config = SimpleNamespace(
        set_flag=lambda flag: said.setdefault(flag, True), clear_flag=lambda flag: said.setdefault(flag, False)
    )
    _set_flags(flavor, job)(None, None, config)
    assert said == {"TF32": tf32}


def test_the_description_says_tf32(tiny_plugin_onnx, tmp_path, monkeypatch):
    """From the command line to the sidecar, with a build that makes no engine."""
    jobs = []

    def built(job, name):
        jobs.append(job)
        job.engine.write_bytes(b"plan")
        return building.Built("tensorrt_rtx", "1.7", None, "", (), 0.0)

    monkeypatch.setattr(building, "_build", built)
    monkeypatch.setattr(building, "describe_flavor", lambda name: Flavor("tensorrt_rtx", "1.7", None))
    for switch, expected in (([], True), (["--noTF32"], False)):
        with pytest.raises(SystemExit) as stopped:
            main(["build", str(tiny_plugin_onnx), "-o", str(tmp_path / "m.engine"), *switch])
        assert not stopped.value.code
        assert jobs[-1].options.tf32 is expected
        assert json.loads((tmp_path / "m.engine.json").read_text(encoding="utf-8"))["options"]["tf32"] is expected


def test_a_stripped_engine_names_its_weights(tiny_plugin_onnx, tmp_path, monkeypatch):
    def built(job, name):
        job.engine.write_bytes(b"plan")
        return building.Built("tensorrt", "10.3", None, "", (), 0.0)

    monkeypatch.setattr(building, "_build", built)
    monkeypatch.setattr(building, "describe_flavor", lambda name: Flavor("tensorrt", "10.3.0", None))
    monkeypatch.setattr("trt_pose.builder.prepare.describe_flavor", lambda name: Flavor("tensorrt", "10.3.0", None))
    build_engine(tiny_plugin_onnx, tmp_path / "m.engine", options=BuildOptions(strip_weights=True))
    assert Sidecar.read(tmp_path / "m.engine").weights == (tiny_plugin_onnx.name,)
    build_engine(tiny_plugin_onnx, tmp_path / "m.engine")
    assert Sidecar.read(tmp_path / "m.engine").weights == ()
    with pytest.raises(UsageError, match="Make it with trt-pose quantize, and build of it"):
        build_engine(tiny_plugin_onnx, tmp_path / "m.engine", "fp16", options=BuildOptions(strip_weights=True))


def test_images_for_tensorrts_own_calibrator(tmp_path, rng):
    batches = [rng.integers(0, 256, (size, 3, 8, 8), dtype=np.uint8) for size in (3, 1, 5)]
    assert write_images(batches, tmp_path / "images") == 9
    stored = StoredImages(tmp_path / "images", "input", 4)
    for _ in range(2):  # TensorRT may ask twice
        found = [feed["input"] for feed in stored]
        assert [(item.shape, item.dtype) for item in found] == [((4, 3, 8, 8), np.float32)] * 2
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(batches)[:8])
    with pytest.raises(CalibrationError, match="got 9 images, expected at least a batch of 10"):
        StoredImages(tmp_path / "images", "input", 10)


def test_tensorrts_own_calibrator_gets_the_checked_batches(tiny_plugin_onnx, picture_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("trt_pose.builder.prepare.describe_flavor", lambda name: Flavor("tensorrt", "10.3.0", None))
    options = BuildOptions(int8_mode="implicit", calibrator="tensorrt", flavor="tensorrt")
    request = QuantizeRequest(str(picture_folder))
    made = prepare(tiny_plugin_onnx, "int8", request, options, tmp_path)
    assert made.implicit is not None
    assert (made.implicit.cache, made.implicit.input) == (None, "input")
    assert made.spec.quantization == "implicit INT8 and FP16, TensorRT's entropy on 6 images"
    (feed, *rest) = StoredImages(made.implicit.images, "input", 1)
    assert len(rest) == 5
    assert feed["input"].shape == (1, 3, 128, 160)
    with pytest.raises(CalibrationError, match="TensorRT's calibrator needs images"):
        prepare(tiny_plugin_onnx, "int8", replace(request, data=None), options, tmp_path)


@pytest.mark.bindings
@pytest.mark.parametrize("place", ["full-10.3.0", "full-10.16.1.11"])
def test_polygraphys_calibrator_is_tensorrts(place, tmp_path, rng):
    write_images([rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)], tmp_path)
    code = """
    import json
    from pathlib import Path
    from polygraphy.backend.trt import Calibrator
    from trt_pose.builder.calibrator import StoredImages
    made = Calibrator(StoredImages(Path(sys.argv[1]), "input", 2), batch_size=2)
    kind = isinstance(made, trt.IInt8EntropyCalibrator2)
    print(json.dumps([kind, made.get_batch_size(), made.read_calibration_cache()]))
    """
    assert answer_of(run_on(place, textwrap.dedent(code), tmp_path)) == [True, 2, None]


def test_every_extra_asks_for_a_polygraphy_that_works():
    """0.49 has no RTX backend, and 0.49.26 fails with RTX 1.7; 0.53.4 is the lowest that was tried."""
    text = (Path(__file__).parent.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    lowest = re.findall(r'"polygraphy>=([\d.]+)"', text)
    assert len(lowest) >= 4
    assert all(tuple(map(int, version.split("."))) >= (0, 53, 4) for version in lowest)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calibrator": "tensorrt"}, "it belongs to --int8-mode implicit"),
        ({"calibrator": "theirs", "int8_mode": "implicit"}, "expected one of ours, tensorrt"),
        ({"int8_mode": "sometimes"}, "expected one of explicit, implicit"),
    ],
)
def test_calibrators_that_there_are_not(options, words):
    with pytest.raises(UsageError, match=words):
        BuildOptions(**options)
