"""The plugin in real TensorRT registries and in TensorRT-RTX's own parser and builder; no GPU is needed for that.

Everything that imports a TensorRT runs in a process of its own: a crash of the parser is one failed test.
"""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from trt_pose import EngineError, MissingDependencyError, UsageError
from trt_pose.gpu.kernels import compile_kernel
from trt_pose.operators import keypoint_decode, nms
from trt_pose.operators.contract import NmsFields, check_shapes
from trt_pose.spec import ModelSpec, OutputSpec
from trt_pose.trt import flavor as flavors
from trt_pose.trt.compatibility import check_buildable
from trt_pose.trt.compile_plugins import build_plugin
from trt_pose.trt.flavor import Flavor, find_flavor
from trt_pose.trt.plugins import load_plugins

from ..conftest import SMALL, make_model, make_tiny
from ..kernel_on_cpu import KERNEL, PLUGINS
from ..plugins.test_pose_nms_kernel import people
from ..reference import pose_nms


def installed(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None


needs_rtx = pytest.mark.skipif(not installed("tensorrt_rtx"), reason="needs tensorrt_rtx")
needs_nvrtc = pytest.mark.skipif(not installed("cuda.core"), reason="needs cuda-core")

BUILD = textwrap.dedent(
    """
    import json, sys
    from trt_pose.trt.flavor import find_flavor
    from trt_pose.trt.plugins import load_plugins

    flavor = find_flavor("tensorrt_rtx")
    trt, plugin = flavor.module, load_plugins(flavor)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    found = {"plugin": plugin.kind, "parsed": parser.parse_from_file(sys.argv[1])}
    found["errors"] = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    found["outputs"] = {
        network.get_output(i).name: list(network.get_output(i).shape) for i in range(network.num_outputs)
    }
    config = builder.create_builder_config()
    if found["parsed"] and network.get_input(0).shape[0] == -1:
        profile, rest = builder.create_optimization_profile(), list(network.get_input(0).shape)[1:]
        profile.set_shape(network.get_input(0).name, [1, *rest], [4, *rest], [8, *rest])
        config.add_optimization_profile(profile)
    from trt_pose.operators.tensorrt_plugin import take_error

    found["reason"] = str(take_error())
    engine = builder.build_serialized_network(network, config) if found["parsed"] else None
    found["bytes"] = engine.nbytes if engine is not None else 0
    print(json.dumps(found))
    """
)


def run_child(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_rtx
@pytest.mark.parametrize(("name", "batch"), [("yolo_nas_pose_n", 4), ("yolo_nas_pose_s", "dynamic")])
def test_rtx_builds_engines_ahead_of_time_with_the_python_plugin(name, batch, tmp_path):
    path = tmp_path / "m.onnx"
    make_model(name).export(path, engine="tensorrt", batch_size=batch, max_predictions_per_image=50, verification=False)
    found = run_child(BUILD, path, TRT_POSE_PLUGINS="python")
    first = -1 if batch == "dynamic" else batch
    assert found["plugin"] == "python"
    assert found["outputs"] == {
        "num_predictions": [first, 1],
        "pred_boxes": [first, 50, 4],
        "pred_scores": [first, 50],
        "pred_joints": [first, 50, 17, 3],
    }
    assert found["bytes"] > 20_000_000


@needs_rtx
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tensorrt", "output_predictions_format": "flat"}, "flat format"),
        ({}, "NonMaxSuppression"),
    ],
    ids=["flat", "onnxruntime"],
)
def test_what_rtx_cannot_build_is_said_before_it_fails(tiny, tmp_path, options, words):
    spec = tiny.export(tmp_path / "m.onnx", verification=False, **SMALL, **options).spec
    with pytest.raises(EngineError, match=words):
        check_buildable(spec, Flavor("tensorrt_rtx", "1.7", None))
    check_buildable(spec, Flavor("tensorrt", "10.3", None))
    assert run_child(BUILD, tmp_path / "m.onnx")["bytes"] == 0  # it does fail


@needs_rtx
def test_a_bad_attribute_is_refused_by_the_creator(tiny, tmp_path):
    import onnx

    tiny.export(tmp_path / "m.onnx", engine="tensorrt", verification=False, **SMALL)
    model = onnx.load(tmp_path / "m.onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "iou_threshold":
                attribute.f = 7.0
    onnx.save(model, tmp_path / "bad.onnx")
    found = run_child(BUILD, tmp_path / "bad.onnx", TRT_POSE_PLUGINS="python")
    assert not found["parsed"]
    assert found["errors"]
    assert "iou_threshold is 7" in found["reason"]  # what TensorRT only calls a failed creator


@needs_rtx
def test_another_version_of_the_operator_is_not_found(tiny, tmp_path):
    import onnx

    tiny.export(tmp_path / "m.onnx", engine="tensorrt", verification=False, **SMALL)
    model = onnx.load(tmp_path / "m.onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "plugin_version":
                attribute.s = b"2"
    onnx.save(model, tmp_path / "two.onnx")
    assert not run_child(BUILD, tmp_path / "two.onnx")["parsed"]


@needs_rtx
def test_the_python_plugin_serializes_its_fields():
    code = """
        import json, numpy as np
        from trt_pose.trt.flavor import find_flavor
        from trt_pose.trt.plugins import load_plugins
        flavor = find_flavor("tensorrt_rtx"); trt = flavor.module
        first, again = load_plugins(flavor), load_plugins(flavor)
        creator = trt.get_plugin_registry().get_creator("PoseNMS_TRT", "1", "")
        kinds = {"score_threshold": np.float32, "iou_threshold": np.float32, "max_output_boxes": np.int32,
                 "num_pre_nms_predictions": np.int32}
        types = {np.float32: trt.PluginFieldType.FLOAT32, np.int32: trt.PluginFieldType.INT32}
        values = {"score_threshold": 0.25, "iou_threshold": 0.5, "max_output_boxes": 7, "num_pre_nms_predictions": 70}
        arrays = {n: np.array([values[n]], k) for n, k in kinds.items()}
        fields = trt.PluginFieldCollection([trt.PluginField(n, arrays[n], types[k]) for n, k in kinds.items()])
        from trt_pose.operators.tensorrt_plugin import make_creators
        plugin = make_creators(trt)[0].create_plugin("nms", fields, trt.TensorRTPhase.BUILD)
        collection = plugin.get_fields_to_serialize()
        junk = [np.full(1, i, np.int32) for i in range(1000)]  # whatever was freed is written over
        saved = {f.name: float(np.asarray(f.data).reshape(-1)[0]) for f in collection}
        copy = plugin.clone()
        print(json.dumps({"same": first is again, "names": [f.name for f in creator.field_names], "saved": saved,
                          "copied": copy.operator.values == plugin.operator.values, "outputs": plugin.num_outputs}))
    """
    found = run_child(textwrap.dedent(code), TRT_POSE_PLUGINS="python")
    assert found["same"]
    assert found["names"] == ["score_threshold", "iou_threshold", "max_output_boxes", "num_pre_nms_predictions"]
    assert found["saved"] == {
        "score_threshold": 0.25, "iou_threshold": 0.5, "max_output_boxes": 7, "num_pre_nms_predictions": 70,
    }  # fmt: skip
    assert found["copied"]
    assert found["outputs"] == 4


def test_the_missing_name_of_the_rtx_library_is_mended(tmp_path, monkeypatch):
    (tmp_path / "libtensorrt_rtx.so.1").write_bytes(b"")
    found = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(flavors.importlib.util, "find_spec", lambda name: found)
    flavors.mend_rtx_library()
    flavors.mend_rtx_library()
    assert (tmp_path / "libtensorrt_rtx.so").resolve() == tmp_path / "libtensorrt_rtx.so.1"


def test_no_tensorrt_says_what_to_install(monkeypatch):
    monkeypatch.setattr(flavors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install tensorrt$"):
        find_flavor()
    with pytest.raises(MissingDependencyError, match="pip install tensorrt_rtx"):
        find_flavor("tensorrt_rtx")
    with pytest.raises(UsageError, match="tensorrt_rtx"):
        find_flavor("tensorflow")


class Registry:
    """A registry without the operator, whatever is loaded."""

    def load_library(self, path):
        return None if "foreign" in path else object()

    def get_creator(self, *_):
        return None

    def register_creator(self, creator, namespace):
        return False


def test_libraries_that_do_not_serve(tmp_path, monkeypatch):
    registry = Registry()
    module = type("trt", (), {"get_plugin_registry": staticmethod(lambda: registry)})
    flavor = Flavor("tensorrt", "10.3", module)
    with pytest.raises(EngineError, match=r"there is no .*missing\.so"):
        load_plugins(flavor, tmp_path / "missing.so")
    monkeypatch.setenv("TRT_POSE_PLUGINS", str(tmp_path / "elsewhere.so"))
    with pytest.raises(EngineError, match=r"there is no .*elsewhere\.so"):
        load_plugins(flavor)
    for name in ("other.so", "foreign.so"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(EngineError, match="has no PoseNMS_TRT version 1"):
            load_plugins(flavor, tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        {"score_threshold": -0.1}, {"score_threshold": float("nan")}, {"iou_threshold": 1.5}, {"max_output_boxes": 0},
        {"max_output_boxes": 4097}, {"num_pre_nms_predictions": 0}, {"num_pre_nms_predictions": 4097},
    ],
    ids=str,
)  # fmt: skip
def test_attributes_out_of_range(change):
    good = {"score_threshold": 0.2, "iou_threshold": 0.7, "max_output_boxes": 10, "num_pre_nms_predictions": 100}
    assert NmsFields.from_values(good).max_output_boxes == 10
    with pytest.raises(UsageError, match=next(iter(change))):
        NmsFields.from_values({**good, **change})
    with pytest.raises(UsageError, match="missing"):
        NmsFields.from_values({name: value for name, value in good.items() if name not in change})


@pytest.mark.parametrize(
    "shapes",
    [
        [[1, 8, 5], [1, 8, 1], [1, 8, 2, 3]], [[1, 8, 4], [1, 9, 1], [1, 8, 2, 3]],
        [[1, 8, 4], [1, 8, 2], [1, 8, 2, 3]],
        [[1, 8, 4], [1, 8, 1], [1, 8, 2, 2]], [[1, 8, 4], [1, 8, 1], [1, 8, 6]], [[8, 4], [8, 1], [8, 2, 3]],
        [[1, 8, 4], [4, 8, 1], [4, 8, 2, 3]],
        [[1, 70_000, 4], [1, 70_000, 1], [1, 70_000, 2, 3]], [[1, 8, 4], [1, 8, 1], [1, 8, 300, 3]],
        [[1, 8, 4], [1, 8, 5000]], [[1, 8, 4], [1, 9, 80]], [[1, 8, 5], [1, 8, 80]], [[1, 8, 4], [1, 8, 80, 1]],
    ],
    ids=str,
)  # fmt: skip
def test_shapes_the_operator_does_not_take(shapes):
    check_shapes([[-1, 8, 4], [-1, 8, 1], [-1, 8, 2, 3]])
    check_shapes([[-1, -1, -1], [2, 8, 1], [2, -1, -1, 3]])
    check_shapes([[-1, 8, 4], [-1, 8, 80]])
    with pytest.raises(UsageError):
        check_shapes(shapes)


def test_formats_rtx_takes():
    rtx = Flavor("tensorrt_rtx", "1.7", None)
    check_buildable(ModelSpec("m", output=OutputSpec("batch"), plugins_required=("PoseNMS_TRT",)), rtx)
    check_buildable(ModelSpec("m", output=OutputSpec("raw")), rtx)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_nvrtc_compiles_the_kernel_once(architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = KERNEL / "pose_nms_kernel.cuh"
    cubin = bytes(compile_kernel(source, architecture).code)
    assert cubin.startswith(b"\x7fELF")
    assert b"pose_nms" in cubin
    (cached,) = (path for path in (tmp_path / "trt_pose" / "kernels" / "entries").rglob("*") if path.is_file())
    cached.write_bytes(b"from the cache")
    assert bytes(compile_kernel(source, architecture).code) == b"from the cache"


@needs_nvrtc
def test_nvrtc_complaints_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "broken.cuh").write_text("__global__ void f() { return 1 }")
    for path, architecture in ((tmp_path / "broken.cuh", "sm_90"), (KERNEL / "pose_nms_kernel.cuh", "sm_1")):
        with pytest.raises(EngineError) as caught:
            compile_kernel(path, architecture)
        assert "\n" not in str(caught.value)


def test_a_missing_nvrtc_is_named(monkeypatch, tmp_path):
    core = pytest.importorskip("cuda.core")

    def missing(*_):
        raise RuntimeError("libnvrtc.so not found")

    monkeypatch.setattr(core, "Program", missing)
    with pytest.raises(MissingDependencyError, match="NVRTC"):
        compile_kernel(KERNEL / "pose_nms_kernel.cuh", "sm_90")


@pytest.mark.parametrize("operator", [nms, keypoint_decode], ids=["nms", "keypoints"])
def test_the_package_ships_the_kernel(operator):
    source = operator.kernel_source()
    shipped = source.read_text(encoding="utf-8")
    assert shipped == (PLUGINS / source.parent.name / source.name).read_text(encoding="utf-8")
    assert "#include" not in shipped  # NVRTC has no headers to offer


@pytest.mark.parametrize(
    ("operator", "name"), [(nms, "PoseNmsParams"), (keypoint_decode, "KeypointDecodeParams")], ids=["nms", "keypoints"]
)
def test_python_and_cuda_agree_on_the_parameters(operator, name):
    text = operator.kernel_source().read_text(encoding="utf-8")
    body = text[text.index(f"struct {name} {{") :].partition("};")[0]
    fields = [line.split(";")[0].split()[-1].lstrip("*") for line in body.splitlines()[1:] if ";" in line]
    ours = [name.replace("_", "").lower() for name, _ in operator.KernelParams._fields_]
    assert [field.lower() for field in fields] == ours


ORDERS = textwrap.dedent(
    """
    import json, sys
    from trt_pose import EngineError
    from trt_pose.trt.flavor import find_flavor
    from trt_pose.trt.plugins import load_plugins

    flavor, found = find_flavor("tensorrt_rtx"), []
    for step in sys.argv[1:]:
        try:
            if step.startswith("registry:"):
                flavor.module.get_plugin_registry().load_library(step.removeprefix("registry:"))
            else:
                found.append(load_plugins(flavor, step or None).kind)
        except EngineError as error:
            found.append(str(error))
    print(json.dumps(found))
    """
)


@needs_rtx
def test_the_operator_is_registered_once():
    first, again, other = run_child(ORDERS, "python", "", "/no/such.so", TRT_POSE_PLUGINS="")
    assert (first, again) == ("python", "python")
    assert "is registered in this process already" in other


@needs_rtx
def test_a_library_is_registered_once(library):
    same = run_child(ORDERS, library, library, "", "python", TRT_POSE_PLUGINS="")
    assert same[:3] == ["library", "library", "library"]
    assert "registered in this process already" in same[3]
    assert run_child(ORDERS, f"registry:{library}", "", TRT_POSE_PLUGINS="") == ["existing"]


@needs_rtx
def test_a_library_that_is_found_but_does_not_load_gives_way(tmp_path):
    if (PLUGINS / "build" / "libtrt_pose_plugins.so").exists():
        pytest.skip("the library built in this checkout is found first")
    (tmp_path / "libtrt_pose_plugins.so").write_bytes(b"no library")
    assert run_child(ORDERS, "", TRT_POSE_PLUGINS="", LD_LIBRARY_PATH=str(tmp_path)) == ["python"]


def test_the_shell_passes_its_own_test(library):
    done = subprocess.run([library.parent / "plugin_library_test", library], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip() == "0 failures"


@needs_rtx
def test_rtx_builds_the_same_engine_with_the_library(library, tiny, tmp_path):
    tiny.export(tmp_path / "m.onnx", engine="tensorrt", verification=False, **SMALL)
    compiled = run_child(BUILD, tmp_path / "m.onnx", TRT_POSE_PLUGINS=str(library))
    python = run_child(BUILD, tmp_path / "m.onnx", TRT_POSE_PLUGINS="python")
    assert compiled["plugin"] == "library"
    assert compiled["outputs"] == python["outputs"]
    assert compiled["bytes"] > 1_000_000


def test_building_without_headers_names_them(tmp_path):
    with pytest.raises(EngineError, match=r"TensorRT 10\.0"):
        build_plugin(tmp_path)


def test_building_needs_its_programs(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="cmake"):
        build_plugin()


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True], ids=["launched", "captured"])
def test_the_kernel_on_a_gpu_equals_numpy(graph):
    """The NVRTC build of the kernel, launched as the Python plugin launches it."""
    import torch

    from trt_pose.gpu.kernels import Kernel
    from trt_pose.operators.nms import BLOCK_THREADS, KernelParams

    kernel = Kernel(KERNEL / "pose_nms_kernel.cuh", "pose_nms")
    cases = [(1, 8400, 300, 100), (32, 8400, 1000, 300), (1, 65_536, 4096, 4096), (3, 100, 100, 200)]
    for seed, (batch, anchors, candidates, limit) in enumerate(cases):
        inputs = people(np.random.default_rng(seed), batch, anchors, 17, spread=640)
        want = pose_nms(*inputs, 0.25, 0.7, candidates, limit)  # type: ignore[call-arg]
        arrays = [torch.from_numpy(array).cuda() for array in (*inputs, *(np.full_like(array, 7) for array in want))]
        params = KernelParams(
            *(array.data_ptr() for array in arrays), None, anchors, 1, 17, min(candidates, anchors), limit, 0.25, 0.7
        )
        kernel.launch((batch, 1), BLOCK_THREADS, params, torch.cuda.current_stream().cuda_stream)
        if graph:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                kernel.launch((batch, 1), BLOCK_THREADS, params, torch.cuda.current_stream().cuda_stream)
            for array in arrays[3:]:
                array.fill_(9)
            captured.replay()
        torch.cuda.synchronize()
        for expected, found in zip(want, arrays[3:], strict=True):
            np.testing.assert_array_equal(expected, found.cpu().numpy())


def test_the_specification_names_the_attributes():
    text = (PLUGINS.parent / "trt_pose" / "operators" / "README.md").read_text(encoding="utf-8")
    for name in NmsFields.__dataclass_fields__:
        assert name in text


def test_tiny_is_not_changed_by_exports(tiny):
    assert make_tiny().weights_sha256() == tiny.weights_sha256()
