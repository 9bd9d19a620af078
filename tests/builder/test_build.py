"""Engines by TensorRT-RTX's own ahead-of-time builder, which needs no GPU; what needs one is marked so."""

import importlib.util
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest

from trt_pose import (
    CalibrationError,
    EngineError,
    ExportError,
    MissingDependencyError,
    PosePredictor,
    RunnerError,
    UsageError,
)
from trt_pose.builder import build, prepare
from trt_pose.builder.build import build_engine
from trt_pose.builder.calibrator import make_calibrator
from trt_pose.builder.options import BuildOptions
from trt_pose.builder.prepare import QuantizeRequest
from trt_pose.builder.worker import keep_precise
from trt_pose.cli.trtexec_words import parse_capabilities, parse_hardware, parse_pools, parse_shapes, parse_verbosity
from trt_pose.doctor import examine
from trt_pose.files import file_sha256
from trt_pose.gpu.device import find_gpu
from trt_pose.inspection import inspect_engine
from trt_pose.quantization import CalibrationOptions, QuantizeOptions, SelectiveQuantizer
from trt_pose.quantization.cache import from_tensorrt
from trt_pose.quantization.network import Network
from trt_pose.spec import InputSpec, ModelSpec
from trt_pose.trt import flavor as flavors, inspector
from trt_pose.trt.flavor import Flavor
from trt_pose.trt.inspector import count_types
from trt_pose.trt.sidecar import PlanHeader, Sidecar, read_header, sidecar_path

from ..conftest import SMALL, make_model, slow_but_first
from ..trt.test_plugins import installed, needs_rtx

RTX = {"flavor": "tensorrt_rtx", "compute_capabilities": ((8, 6),)}


@pytest.fixture(scope="session")
def engine(tiny_plugin_onnx, picture_folder, tmp_path_factory):
    """An INT8 engine of the tiny model, with its sidecar."""
    if not installed("tensorrt_rtx"):
        pytest.skip("needs tensorrt_rtx")
    path = tmp_path_factory.mktemp("engine") / "m.engine"
    build_engine(tiny_plugin_onnx, path, "int8", QuantizeRequest(picture_folder), BuildOptions(**RTX))
    return path


@needs_rtx
@pytest.mark.parametrize("precision", slow_but_first(["int8", "fp16", "fp32"]))
@pytest.mark.parametrize("name", slow_but_first(["yolo_nas_pose_n", "yolo_nas_pose_s"]))
def test_rtx_builds_every_precision_ahead_of_time(name, precision, tmp_path, picture_folder):
    make_model(name).export(tmp_path / "m.onnx", engine="tensorrt", verification=False, input_image_shape=320)
    one = QuantizeOptions(calibration=CalibrationOptions(batches=1))
    quantizing = QuantizeRequest(picture_folder, one) if precision == "int8" else None
    sidecar = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", precision, quantizing, BuildOptions(**RTX))
    size = (tmp_path / "m.engine").stat().st_size
    assert sidecar.engine_bytes == size
    least = {"fp32": 25e6, "fp16": 13e6, "int8": 7e6}[precision]
    assert size > least
    assert sidecar.spec.precision == {"int8": "int8+fp16"}.get(precision, precision)
    assert (sidecar.quantization is None) == (precision == "fp32")


def test_the_plan_is_pure_and_described(engine, tiny_plugin_onnx):
    header, sidecar = read_header(engine), Sidecar.read(engine)
    assert header.flavor == sidecar.flavor == "tensorrt_rtx"
    assert header.version == sidecar.flavor_version
    assert sidecar.engine_sha256 == file_sha256(engine)
    assert sidecar.onnx_sha256 == file_sha256(tiny_plugin_onnx)
    assert sidecar.spec.skeleton.num_joints == 17
    assert sidecar.spec.precision == "int8+fp16"
    assert sidecar.quantization["images"] == 6
    assert sidecar.compute_capabilities == ("8.6",)
    assert sidecar.plugins == ("PoseNMS_TRT",)
    assert sidecar.elements == {
        "input": "uint8", "num_predictions": "int32", "pred_boxes": "float32", "pred_scores": "float32",
        "pred_joints": "float32",
    }  # fmt: skip
    assert sidecar.precision_asked == "int8"
    assert sidecar.gpu is None
    assert "no GPU" in sidecar.precision_note
    assert json.loads(sidecar.to_json()) == json.loads(sidecar_path(engine).read_text(encoding="utf-8"))
    assert "Finished engine building" in engine.with_name("m.engine.log").read_text(encoding="utf-8")


def test_inspect_and_doctor_read_it(engine, tmp_path):
    found = inspect_engine(engine)
    assert found.header.flavor == "tensorrt_rtx"
    assert found.sidecar.spec.model == "yolo_nas_pose_n"
    findings = {item.what: item for item in examine(engine)}
    assert findings["description"].fine
    assert findings["version"].fine
    if findings["gpu"].fine is None:
        assert "needs a GPU" in findings["device"].detail
        assert not findings["device"].fine
    lonely = tmp_path / "lonely.engine"
    shutil.copy(engine, lonely)
    assert "no description beside" in inspect_engine(lonely).note
    assert not {item.what: item for item in examine(lonely)}["description"].fine
    shutil.copy(sidecar_path(engine), sidecar_path(lonely))
    lonely.write_bytes(engine.read_bytes() + b"x")
    assert "belongs to another engine" in {item.what: item for item in examine(lonely)}["description"].detail
    assert "belongs to another engine" in inspect_engine(lonely).note
    assert inspect_engine(lonely).sidecar is None


@pytest.mark.parametrize(
    ("change", "gpu", "what", "words"),
    [
        ({"version": (10, 3, 0, 26), "tag": b"ftrt"}, None, "runtime", "pip install tensorrt"),
        ({"version": (1, 6, 0, 1)}, None, "version", "built with 1.6.0.1, TensorRT-RTX .* here.*Build it here"),
        ({}, ("Ada", "8.9"), "device", "built for compute capability 8.6, Ada has 8.9.*trt-pose build"),
        ({}, ("Ampere", "8.6"), "device", "8.6"),
        ({}, None, "plugin PoseNMS_TRT", "Python"),
    ],
    ids=["flavour", "version", "device", "fitting device", "plugin"],
)
def test_doctor_names_what_is_wrong_and_what_mends_it(engine, tmp_path, monkeypatch, change, gpu, what, words):
    import re

    from trt_pose import doctor

    path = tmp_path / "x.engine"
    data = bytearray(engine.read_bytes())
    data[24:28] = bytes(change.get("version", data[24:28]))
    data[:4] = change.get("tag", data[:4])
    path.write_bytes(data)
    sidecar_path(path).write_text(sidecar_path(engine).read_text(encoding="utf-8"))
    monkeypatch.setattr(doctor, "find_gpu", lambda: gpu and {"name": gpu[0], "compute_capability": gpu[1]})
    monkeypatch.setattr(doctor, "probe", lambda *_: {})
    finding = {item.what: item for item in examine(path)}[what]
    assert finding.fine == (gpu == ("Ampere", "8.6") or what.startswith("plugin"))
    assert re.search(words, finding.detail), finding.detail


@needs_rtx
def test_a_dynamic_batch_gets_a_profile(tiny, tmp_path):
    tiny.export(tmp_path / "m.onnx", engine="tensorrt", batch_size="dynamic", verification=False, **SMALL)
    options = BuildOptions(**RTX, max_shapes={"input": (16, 3, 128, 160)})
    sidecar = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options=options)
    assert sidecar.profile == {"input": [[1, 3, 128, 160], [4, 3, 128, 160], [16, 3, 128, 160]]}


def dynamic(batch=None):
    return ModelSpec("m", input=InputSpec(batch=batch, height=64, width=96, resize_to=(64, 96)))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (1, 4, 8)),
        ({"max": 2}, (1, 2, 2)),
        ({"min": 6}, (6, 6, 8)),
        ({"min": 16}, (16, 16, 16)),
        ({"opt": 12}, (1, 12, 12)),
        ({"min": 2, "opt": 3, "max": 5}, (2, 3, 5)),
    ],
)
def test_what_is_said_of_the_profile_moves_what_is_not(given, wanted):
    shapes = {f"{which}_shapes": {"input": (batch, 3, 64, 96)} for which, batch in given.items()}
    profile = BuildOptions(**shapes).profile(dynamic())["input"]
    assert tuple(shape[0] for shape in profile) == wanted


@pytest.mark.parametrize(
    ("options", "batch", "words"),
    [
        ({"min_shapes": {"input": (4, 3, 64, 96)}, "max_shapes": {"input": (2, 3, 64, 96)}}, None, "growing batches"),
        ({"max_shapes": {"input": (4, 3, 64, 64)}}, None, "growing batches of 3x64x96"),
        ({"max_shapes": {"image": (4, 3, 64, 96)}}, None, "got input 'image', the file's is 'input'"),
        ({"max_shapes": {"input": (4, 3, 64, 96)}}, 2, "fixed at 2"),
    ],
)
def test_impossible_profiles(options, batch, words):
    with pytest.raises(UsageError, match=words):
        BuildOptions(**options).profile(dynamic(batch))


def test_trtexec_words():
    assert parse_shapes("input:1x3x64x96,b:2") == {"input": (1, 3, 64, 96), "b": (2,)}
    assert parse_shapes("1x3x64x96") == {"": (1, 3, 64, 96)}
    assert parse_shapes(None) == {}
    assert parse_pools("workspace:2048,tacticSharedMem:48K") == {
        "WORKSPACE": 2048 << 20,
        "TACTIC_SHARED_MEMORY": 48 << 10,
    }
    assert parse_pools("workspace:1.5G") == {"WORKSPACE": 3 << 29}
    assert parse_capabilities("8.6,89, 12.0,120") == ((8, 6), (8, 9), (12, 0), (12, 0))
    assert parse_hardware("none") is None
    assert parse_hardware("ampere+") == "AMPERE_PLUS"
    assert parse_verbosity("layer_names_only") == "LAYER_NAMES_ONLY"
    for parse, text in (
        (parse_shapes, "input=1x3"),
        (parse_pools, "workspace"),
        (parse_pools, "gpu:3"),
        (parse_pools, "workspace:2T"),
        (parse_pools, "workspace:2,workspace:3"),
        (parse_shapes, "a:1,a:2"),
        (parse_capabilities, "sm_86"),
        (parse_hardware, "all"),
        (parse_verbosity, "loud"),
    ):
        with pytest.raises(UsageError, match="expected"):
            parse(text)


@pytest.mark.parametrize(
    ("options", "flavor", "words"),
    [
        ({"timing_cache": "t"}, ("tensorrt_rtx", "1.7"), "TensorRT-RTX 1.7: it has no --timingCacheFile"),
        ({"version_compatible": True}, ("tensorrt_rtx", "1.7"), "--versionCompatible"),
        ({"hardware_compatibility": "AMPERE_PLUS"}, ("tensorrt_rtx", "1.7"), "--hardwareCompatibilityLevel"),
        (
            {"compute_capabilities": ((8, 6),)},
            ("tensorrt", "10.3.0"),
            "TensorRT 10.3.0: it has no --computeCapabilities",
        ),
        ({"int8_mode": "implicit"}, ("tensorrt", "11.4.0.106"), "no INT8 calibrator, which ended with TensorRT 10"),
        ({"int8_mode": "implicit"}, ("tensorrt_rtx", "1.7"), "no INT8 calibrator"),
        ({"memory_pools": {"DLA_LOCAL_DRAM": 1}}, ("tensorrt_rtx", "1.7"), "it has no DLA"),
    ],
)
def test_what_a_flavour_lacks_is_an_error(options, flavor, words):
    with pytest.raises(EngineError, match=words):
        BuildOptions(**options).check_flavor(Flavor(*flavor, None))  # type: ignore[call-arg]
    BuildOptions(int8_mode="implicit").check_flavor(Flavor("tensorrt", "10.16.1", None))


def test_options_out_of_range():
    for options in (
        {"optimization_level": 6},
        {"int8_mode": "both"},
        {"memory_pools": {"WORKSPACE": 0}},
        {"plugins_to_serialize": ("x.so",)},
    ):
        with pytest.raises(UsageError):
            BuildOptions(**options)


@needs_rtx
@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (ExportError, "not a valid ONNX file", {"onnx": "truncated"}),
        (ExportError, "no such file", {"onnx": "none.onnx"}),
        (CalibrationError, "no trt_pose description", {"onnx": "bare"}),
        (EngineError, "Choose a writable place", {"engine": "none/m.engine"}),
        (UsageError, "expected .engine", {"engine": "m.onnx"}),
        (UsageError, "precision: got 'fp8', expected one of fp32", {"precision": "fp8"}),
        (CalibrationError, "INT8 needs images", {"precision": "int8"}),
        (EngineError, "cannot build its NonMaxSuppression", {"onnx": "plain"}),
        (EngineError, "no --versionCompatible", {"options": {"version_compatible": True}}),
        (UsageError, "choosing TensorRT: got 'trt'", {"options": {"flavor": "trt"}}),
        (EngineError, "strips and refits weights with a GPU only", {"options": {"refit": True}}),
        (EngineError, "Compute capability 9.9|9.9", {"options": {"compute_capabilities": ((9, 9),)}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(tiny_onnx, tiny_plugin_onnx, tmp_path, error, words, change):
    if "with a GPU only" in words and find_gpu():
        pytest.skip("there is a GPU")
    bare = onnx.load(tiny_plugin_onnx)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare")
    (tmp_path / "truncated").write_bytes(tiny_plugin_onnx.read_bytes()[:30_000])
    shutil.copy(tiny_onnx, tmp_path / "plain")
    source = tmp_path / change["onnx"] if "onnx" in change else tiny_plugin_onnx
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error, match=words) as caught:
        build_engine(
            source,
            tmp_path / change.get("engine", "m.engine"),
            change.get("precision"),
            None,
            BuildOptions(**{**RTX, **change.get("options", {})}),
        )
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".log") == before


@needs_rtx
def test_a_parser_error_names_its_node(tiny_plugin_onnx, tmp_path):
    proto = onnx.load(tiny_plugin_onnx)
    for node in proto.graph.node:
        if node.op_type == "PoseNMS_TRT":
            for item in node.attribute:
                if item.name == "iou_threshold":
                    item.f = 7.0
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(EngineError, match="iou_threshold is 7") as caught:
        build_engine(tmp_path / "bad.onnx", tmp_path / "m.engine", options=BuildOptions(**RTX))
    assert "m.engine.log has the rest" in str(caught.value)
    assert (tmp_path / "m.engine.log").exists()
    assert not (tmp_path / "m.engine").exists()


def crash(job, report):
    """Stands for the build: prints what the C library prints, and dies."""
    import os
    import signal

    os.write(2, b"free(): invalid pointer\n")
    os.kill(os.getpid(), signal.SIGSEGV)


@needs_rtx
def test_a_crash_of_tensorrt_is_one_sentence(tiny_plugin_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(build.worker, "build", crash)
    monkeypatch.chdir(tmp_path)  # the child finds this module: only the working directory is no place for modules
    with pytest.raises(EngineError, match=r"TensorRT crashed \(signal 11\): free\(\): invalid pointer"):
        build_engine(tiny_plugin_onnx, tmp_path / "m.engine", options=BuildOptions(**RTX))
    assert not (tmp_path / "m.engine").exists()


@needs_rtx
def test_an_interrupted_build_leaves_no_process(tiny_plugin_onnx, tmp_path, monkeypatch):
    from trt_pose.trt import isolated

    started = []
    real = isolated.subprocess.Popen

    def record(*arguments, **options):
        started.append(real(*arguments, **options))
        return started[-1]

    def interrupt(answers, on_progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(isolated.subprocess, "Popen", record)
    monkeypatch.setattr(isolated, "_follow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny_plugin_onnx, tmp_path / "m.engine", options=BuildOptions(**RTX))
    assert started[0].poll() is not None


def test_no_tensorrt_at_all(monkeypatch, tiny_plugin_onnx, tmp_path):
    monkeypatch.setattr(flavors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install tensorrt"):
        build_engine(tiny_plugin_onnx, tmp_path / "m.engine")


def test_an_engine_of_an_int8_file_and_the_wrong_way_round(engine, tiny_plugin_onnx, picture_folder, tmp_path):
    from trt_pose.quantization import quantize

    quantize(tiny_plugin_onnx, tmp_path / "q.onnx", picture_folder)
    asked = build_engine(tmp_path / "q.onnx", tmp_path / "asis.engine", options=BuildOptions(**RTX))
    assert asked.spec.precision == "int8"
    asked = build_engine(tmp_path / "q.onnx", tmp_path / "both.engine", "best", options=BuildOptions(**RTX))
    assert asked.spec.precision == "int8+fp16"
    with pytest.raises(UsageError, match="the file is in int8 already"):
        build_engine(tmp_path / "q.onnx", tmp_path / "x.engine", "fp16", options=BuildOptions(**RTX))
    for source, precision in ((tmp_path / "q.onnx", None), (tiny_plugin_onnx, "fp16"), (tiny_plugin_onnx, None)):
        for quantizing in (
            QuantizeRequest(picture_folder),
            QuantizeRequest(options=QuantizeOptions(cache=tmp_path / "c.json")),
            QuantizeRequest(options=QuantizeOptions(selective=SelectiveQuantizer(exclude=("stem",)))),
        ):
            with pytest.raises(UsageError, match="belong to an INT8 build of an FP32 file"):
                build_engine(source, tmp_path / "x.engine", precision, quantizing, BuildOptions(**RTX))
    verify = QuantizeRequest(verify=lambda first, second: {})
    with pytest.raises(UsageError, match="nothing is quantized here"):
        build_engine(tiny_plugin_onnx, tmp_path / "x.engine", None, verify, BuildOptions(**RTX))


@needs_rtx
def test_accuracy_beside_the_engine(tiny_plugin_onnx, tmp_path):
    """Of the file, of what was quantized of it, and why the engine was not measured where it cannot run."""
    asked = []

    def measure(path):
        asked.append(path)
        if path.suffix == ".engine":
            raise RunnerError("no GPU")
        return {"metrics": {"AP": 0.5}}

    path = tmp_path / "m.engine"
    sidecar = build_engine(tiny_plugin_onnx, path, "fp16", None, BuildOptions(**RTX), measure)
    assert asked[0] == tiny_plugin_onnx
    assert asked[2] == path
    half = {"metrics": {"AP": 0.5}}
    assert sidecar.accuracy == {"file": half, "quantized": half, "engine": {"not_measured": "no GPU"}}
    assert Sidecar.read(path).accuracy == sidecar.accuracy
    assert set(build_engine(tiny_plugin_onnx, path, None, None, BuildOptions(**RTX), measure).accuracy) == {
        "file",
        "engine",
    }


def test_a_calibration_cache_makes_the_images_unnecessary(engine, tiny_plugin_onnx, picture_folder, tmp_path):
    quantizing = QuantizeRequest(picture_folder, QuantizeOptions(cache=tmp_path / "c.json"))
    first = build_engine(tiny_plugin_onnx, tmp_path / "a.engine", "int8", quantizing, BuildOptions(**RTX))
    second = build_engine(
        tiny_plugin_onnx, tmp_path / "b.engine", "int8", QuantizeRequest(None, quantizing.options), BuildOptions(**RTX)
    )
    assert first.quantization["images"] == second.quantization["images"] == 6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes are not an engine"),
        (b"x" * 100, "no TensorRT plan"),
        (b"ftrt", "4 bytes"),
        (None, "no such file"),
    ],
)
def test_files_that_are_no_plans(tmp_path, content, words):
    path = tmp_path / "x.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=words):
        read_header(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trt_pose_engine": 1}', '{"trt_pose_engine": 99}'])
def test_damaged_sidecars(tmp_path, text):
    sidecar_path(tmp_path / "x.engine").write_text(text)
    with pytest.raises(EngineError, match=r"x\.engine\.json"):
        Sidecar.read(tmp_path / "x.engine")


def test_layers_per_type_of_either_tensorrt():
    ten = {"Layers": [{"Outputs": [{"Format/Datatype": "Int8 NC/32HW32"}]}, {"Outputs": [{"Format/Datatype": "Half"}]}]}
    kinds = ("FP32", "UINT8", "BFloat16", "INT8")
    eleven = {"Layers": [*({"Outputs": [{"Format": "Linear", "Datatype": kind}]} for kind in kinds), {"Outputs": []}]}
    assert count_types(ten) == ({"INT8": 1, "FP16": 1}, "")
    assert count_types(eleven) == ({"FP32": 1, "UINT8": 1, "BF16": 1, "INT8": 1}, "")
    assert count_types({"Layers": []})[0] is None
    assert count_types({"Layers": ["conv1", "conv2"]})[0] is None


HOPPER = (
    "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has"
    " compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0. TensorRT-RTX does not"
    " support this compute capability, so the engine cannot be rebuilt for it"
)


@pytest.mark.parametrize(
    ("flavor", "reason", "words"),
    [
        ("tensorrt_rtx", HOPPER, r"has no code for this GPU: install TensorRT and build it with --tensorrt tensorrt\."),
        ("tensorrt_rtx", "the plan is damaged", r"the plan is damaged\. Build it on this machine\."),
        ("tensorrt", "the plan is damaged", r"the plan is damaged\. Build it on this machine\."),
    ],
)
def test_what_to_do_about_an_engine_that_does_not_open(tmp_path, monkeypatch, flavor, reason, words):
    """On an H100, TensorRT-RTX builds engines that it then does not open there."""
    (tmp_path / "m.engine").touch()
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: None)
    monkeypatch.setattr(inspector, "start_runtime", lambda log: runtime)
    log = SimpleNamespace(flavor=Flavor(flavor, "1.7", None), reason=lambda: reason)
    with pytest.raises(EngineError, match=f"opening m.engine with TensorRT.*{words}"):
        inspector.open_engine(log, tmp_path / "m.engine", False, "opening m.engine")


@needs_rtx
@pytest.mark.parametrize("capabilities", [(), ((8, 9),)])
def test_an_engine_that_cannot_be_opened_where_it_was_built_is_said(
    tiny_plugin_onnx, tmp_path, monkeypatch, recwarn, capabilities
):
    real = build.call

    def refuse(function, *arguments, **options):
        if function is build.worker.inspect_layers:
            raise EngineError(f"inspecting: {HOPPER}.")
        made = real(function, *arguments, **options)
        return replace(made, gpu={"name": "H100", "compute_capability": "9.0"})

    monkeypatch.setattr(build, "call", refuse)
    sidecar = build_engine(
        tiny_plugin_onnx, tmp_path / "m.engine", options=BuildOptions(compute_capabilities=capabilities)
    )
    said = [str(item.message) for item in recwarn]
    assert sidecar.precision_note.startswith("not inspected: inspecting: IRuntime")
    if capabilities:  # it was built for another GPU
        assert said == []
    else:
        assert len(said) == 1
        assert "building m.engine: it is written, and cannot be opened here: inspecting: IRuntime" in said[0]


@pytest.mark.tensorrt
@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["explicit", "implicit"])
def test_tensorrt_builds_int8_on_its_gpu(tiny_plugin_onnx, picture_folder, tmp_path, mode):
    """On a GPU host: the calibrator of TensorRT 10, and what the inspector finds in the engine."""
    from trt_pose.trt.flavor import describe_flavor

    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT-RTX builds without the GPU: tested above")
    if mode == "implicit" and not describe_flavor("tensorrt").has_implicit_int8:
        pytest.skip("TensorRT 11 has no calibrators")
    options = BuildOptions(flavor="tensorrt", int8_mode=mode)
    sidecar = build_engine(tiny_plugin_onnx, tmp_path / "m.engine", "int8", QuantizeRequest(picture_folder), options)
    assert sidecar.gpu
    assert sidecar.precision_found.get("INT8", 0) > 20
    assert all(item.fine is not False for item in examine(tmp_path / "m.engine"))


class FakeTensorRT:
    """The classes of TensorRT 10 that the calibrator and the pinning of layers touch."""

    float32, int32 = "float32", "int32"

    class IInt8EntropyCalibrator2:
        pass

    class LayerType:
        CONSTANT, SHAPE, CONVOLUTION = range(3)


def test_the_calibrator_serves_the_cache_and_reports_what_tensorrt_swallows():
    calibrator = make_calibrator(FakeTensorRT, b"TRT-100300-EntropyCalibration2\n", 4)
    assert isinstance(calibrator, FakeTensorRT.IInt8EntropyCalibrator2)
    assert calibrator.get_batch_size() == 4  # type: ignore[attr-defined]
    assert calibrator.read_calibration_cache().startswith(b"TRT-100300")  # type: ignore[attr-defined]
    assert calibrator.failure is None  # type: ignore[attr-defined]
    assert calibrator.get_batch(["input"]) is None  # type: ignore[attr-defined]
    assert "did not take the calibration cache" in str(calibrator.failure)  # type: ignore[attr-defined]


def test_implicit_int8_gets_ranges_of_the_network_alone(tiny_plugin_onnx, picture_folder, tmp_path, monkeypatch):
    """What the worker would be given on a TensorRT 10 host."""
    jobs = []

    def record(job, name):
        jobs.append(job)
        raise EngineError("far enough")

    monkeypatch.setattr(build, "_build", record)
    monkeypatch.setattr(build, "describe_flavor", lambda name=None: Flavor("tensorrt", "10.3.0", None))
    monkeypatch.setattr(prepare, "describe_flavor", build.describe_flavor)
    options = BuildOptions(flavor="tensorrt", int8_mode="implicit")
    with pytest.raises(EngineError, match="far enough"):
        build_engine(tiny_plugin_onnx, tmp_path / "m.engine", "int8", QuantizeRequest(picture_folder), options)
    implicit = jobs[0].implicit
    version, thresholds = from_tensorrt(implicit.cache)
    network = Network(onnx.load(tiny_plugin_onnx))
    assert version == 100300
    assert set(network.activations()) <= set(thresholds)
    assert len(thresholds) > len(network.activations())  # the sums and convolutions in between, too
    assert not set(network.border) & set(thresholds)
    assert set(implicit.nodes) == set(network.nodes)
    cache = tmp_path / "c.json"
    quantizing = QuantizeRequest(picture_folder, QuantizeOptions(cache=cache))
    build_rtx = BuildOptions(**RTX)
    monkeypatch.undo()
    if installed("tensorrt_rtx"):  # a cache of an explicit build serves
        build_engine(tiny_plugin_onnx, tmp_path / "m.engine", "int8", quantizing, build_rtx)
        monkeypatch.setattr(build, "_build", record)
        monkeypatch.setattr(build, "describe_flavor", lambda name=None: Flavor("tensorrt", "10.3.0", None))
        monkeypatch.setattr(prepare, "describe_flavor", build.describe_flavor)
        with pytest.raises(EngineError, match="far enough"):
            build_engine(
                tiny_plugin_onnx, tmp_path / "x.engine", "int8", QuantizeRequest(None, quantizing.options), options
            )
        assert set(from_tensorrt(jobs[1].implicit.cache)[1]) == set(network.activations())


def test_implicit_mode_pins_the_decode_to_fp32():
    from types import SimpleNamespace

    def layer(name, *types, kind=FakeTensorRT.LayerType.CONVOLUTION):
        outputs = [SimpleNamespace(dtype=dtype) for dtype in types]
        made = SimpleNamespace(name=name, type=kind, num_outputs=len(types), get_output=outputs.__getitem__, set=[])
        made.set_output_type = lambda place, dtype: made.set.append((place, dtype))
        return made

    inside, decode, indices = layer("conv", "float32"), layer("softmax", "float32"), layer("topk", "float32", "int32")
    layers = [inside, decode, indices, layer("c", "float32", kind=FakeTensorRT.LayerType.CONSTANT)]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    keep_precise(FakeTensorRT, network, {"conv"})
    assert decode.precision == "float32"
    assert decode.set == [(0, "float32")]
    assert not any(hasattr(item, "precision") for item in (inside, indices, layers[3]))


@pytest.mark.parametrize(
    ("level", "built", "capability", "fine"),
    [
        (None, "8.6", "8.6", True),
        (None, "8.6", "8.9", False),
        ("AMPERE_PLUS", "8.6", "12.0", True),
        ("AMPERE_PLUS", "8.6", "7.5", False),
        ("SAME_COMPUTE_CAPABILITY", "8.6", "8.9", False),
    ],
)
def test_which_gpus_an_engine_of_tensorrt_is_for(level, built, capability, fine):
    from trt_pose.trt.compatibility import device_fit

    gpu = {"name": "A", "compute_capability": built}
    sidecar = Sidecar(dynamic(), "", 1, "", "tensorrt", "11.0", gpu, options={"hardware_compatibility": level})
    assert device_fit(sidecar, {"name": "B", "compute_capability": capability}).fine is fine
    assert "A (8.6)" in sidecar.target


@pytest.mark.parametrize(
    ("built", "here", "compatible", "fine"),
    [
        ("10.16.0.72", "10.16.0.72", False, True),
        ("10.16.0.72", "10.16.0.80", False, False),
        ("10.16.0.72", "10.16.0", False, True),
        ("10.3.0.26", "10.16.0.72", True, True),
        ("10.3.0.26", "11.4.0.106", True, True),
        ("11.4.0.106", "10.16.0.72", True, False),
        ("8.6.1.6", "11.0.0.1rc1", True, False),
    ],
)
def test_which_versions_an_engine_loads_in(built, here, compatible, fine):
    from trt_pose.trt.compatibility import version_fit

    sidecar = Sidecar(dynamic(), "", 1, "", "tensorrt", built, options={"version_compatible": compatible})
    assert version_fit(PlanHeader("tensorrt", built, "ftrt"), Flavor("tensorrt", here, None), sidecar).fine is fine


@needs_rtx
def test_weights_in_a_file_of_their_own(tiny_plugin_onnx, tmp_path, picture_folder):
    proto = onnx.load(tiny_plugin_onnx)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.weights", size_threshold=100)
    sidecar = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options=BuildOptions(**RTX))
    assert sidecar.engine_bytes > 100_000
    with PosePredictor(tmp_path / "m.onnx", providers=["cpu"]) as predictor:
        assert predictor.predict(str(picture_folder))


@needs_rtx
def test_what_is_no_pose_error_is_still_one_sentence(tiny_plugin_onnx, tmp_path):
    with pytest.raises(EngineError, match=r"Compute capability 8\.7") as caught:
        build_engine(
            tiny_plugin_onnx,
            tmp_path / "m.engine",
            options=BuildOptions(flavor="tensorrt_rtx", compute_capabilities=((8, 7),)),
        )
    assert "crashed" not in str(caught.value)
