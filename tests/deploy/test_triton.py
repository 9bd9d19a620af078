"""Model repositories for Triton: what is in them, and what is refused; test_triton_server.py starts a server."""

import re

import pytest

from trt_pose import EngineError, ExportError, RunnerError, UsageError
from trt_pose.cli import main
from trt_pose.deploy import TritonOptions, triton
from trt_pose.deploy.protobuf_text import Word, to_text
from trt_pose.runtime.ort import OnnxRunner
from trt_pose.trt import plugins

from ..conftest import SMALL, make_tiny
from .engines import write_engine


@pytest.fixture(autouse=True)
def no_library(monkeypatch, tmp_path):
    """No plugin library but those that a test makes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(plugins.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(plugins, "_places", lambda: iter([tmp_path / "cache" / plugins.LIBRARY]))


@pytest.fixture(scope="module")
def plugin_onnx(tmp_path_factory):
    path = tmp_path_factory.mktemp("deploy") / "plugin.onnx"
    make_tiny().export(path, engine="tensorrt", batch_size="dynamic", max_predictions_per_image=20, **SMALL)
    return path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_text_format():
    steps = [{"a": 1}, {"a": 2}]
    message = {"name": 'a "b"\\', "kind": Word("KIND_CPU"), "yes": True, "dims": [3, -1], "empty": [], "step": steps}
    assert to_text(message).splitlines() == [
        r'name: "a \"b\"\\"', "kind: KIND_CPU", "yes: true", "dims: [ 3, -1 ]", "empty: [  ]", "step {",
        "  a: 1", "}", "step {", "  a: 2", "}",
    ]  # fmt: skip


def test_an_ensemble_for_an_onnx_file(tiny_dynamic_onnx, tmp_path):
    made = triton(tiny_dynamic_onnx, tmp_path / "server", TritonOptions(name="people", max_batch=3, threads=2))
    assert files(tmp_path / "server") == sorted([
        "Dockerfile", "README.md", "client.py", "models/people/1/.keep", "models/people/config.pbtxt",
        "models/people_network/1/model.onnx", "models/people_network/config.pbtxt",
        "models/people_postprocess/1/model.py", "models/people_postprocess/config.pbtxt",
        "models/people_preprocess/1/model.py", "models/people_preprocess/config.pbtxt",
    ])  # fmt: skip
    network = (made.folder / "models/people_network/config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in network
    assert "max_batch_size: 3" in network
    assert "max_queue_delay_microseconds: 2000" in network
    assert re.search(r'name: "num_predictions"\n\s+data_type: TYPE_INT64', network)  # as in the file
    assert re.search(r'key: "intra_op_thread_count"\n\s+value {\n\s+string_value: "2"', network)
    assert "optimization" not in network
    content = (made.folder / "models/people_network/1/model.onnx").read_bytes()
    assert content == tiny_dynamic_onnx.read_bytes()
    compile((made.folder / "client.py").read_text(), "client.py", "exec")
    assert (made.folder / "Dockerfile").read_text().startswith("FROM nvcr.io/nvidia/tritonserver:")
    assert not list(tmp_path.glob(".server*"))


def test_a_file_of_a_fixed_batch_is_served_without_batching(tiny_onnx, tmp_path):
    made = triton(tiny_onnx, tmp_path / "server")
    network = (made.folder / "models/pose_network/config.pbtxt").read_text()
    assert "max_batch_size: 0" in network
    assert "dims: [ 1, 3, 128, 160 ]" in network
    assert "dynamic_batching" not in network
    with pytest.raises(UsageError, match=r"fixed batch of 1, .* --batch dynamic"):
        triton(tiny_onnx, tmp_path / "other", TritonOptions(max_batch=4))
    assert not (tmp_path / "other").exists()


def test_an_engine_with_a_plugin(plugin_onnx, tmp_path):
    engine = write_engine(plugin_onnx, tmp_path / "pose.engine", most=6)
    with pytest.raises(EngineError, match=r"needs PoseNMS_TRT, .* trt-pose plugin build"):
        triton(engine, tmp_path / "server")
    library = tmp_path / "mine.so"
    library.write_bytes(b"no library")
    with pytest.raises(EngineError, match=r"mine\.so is not a shared library"):
        triton(engine, tmp_path / "server", TritonOptions(plugins=library))
    with pytest.raises(EngineError, match=r"there is no such file"):
        triton(engine, tmp_path / "server", TritonOptions(plugins=tmp_path / "none.so"))
    library.write_bytes(b"\x7fELF library")
    made = triton(engine, tmp_path / "server", TritonOptions(plugins=library, gpus=(0, 1), instances=2))
    assert (made.folder / "plugins" / plugins.LIBRARY).read_bytes() == library.read_bytes()
    assert (made.folder / "models/pose_network/1/model.plan").read_bytes() == engine.read_bytes()
    network = (made.folder / "models/pose_network/config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in network
    assert "gpus: [ 0, 1 ]" in network
    assert re.findall(r"batch_size: (\d)\n\s+input", network) == ["1", "2", "4", "6"]
    assert f"plugins=/plugins/{plugins.LIBRARY}" in (made.folder / "Dockerfile").read_text()
    assert "TensorRT 10.16.1.11" in made.note
    with pytest.raises(UsageError, match=r"max_batch is 7, the profile of pose\.engine ends at 6"):
        triton(engine, tmp_path / "other", TritonOptions(max_batch=7, plugins=library))


def test_an_engine_that_brings_its_plugin(plugin_onnx, tmp_path):
    brought = {"options": {"version_compatible": True, "plugins_to_serialize": ["x.so"]}}
    engine = write_engine(plugin_onnx, tmp_path / "pose.engine", **brought)
    made = triton(engine, tmp_path / "server")
    assert made.arguments[1:] == ("--backend-config=tensorrt,version-compatible=true",)
    assert not (made.folder / "plugins").exists()
    with pytest.raises(UsageError, match="needs no plugin library"):
        triton(engine, tmp_path / "other", TritonOptions(plugins="x.so"))


def test_a_plugin_node_is_expanded_for_onnx_runtime(plugin_onnx, tmp_path):
    """ONNX Runtime itself opens the file in the repository."""
    import onnxruntime

    made = triton(plugin_onnx, tmp_path / "server", TritonOptions(pixels=True))
    assert files(made.folder) == ["Dockerfile", "README.md", "models/pose/1/model.onnx", "models/pose/config.pbtxt"]
    session = onnxruntime.InferenceSession(made.folder / "models/pose/1/model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "num_predictions"
    with OnnxRunner(made.folder / "models/pose/1/model.onnx", providers=["cpu"]) as runner:
        assert runner.spec.task == "pose"


@pytest.mark.parametrize(
    ("built", "asked", "said"),
    [
        ("10.8.0.43", None, "Triton 25.01 both have TensorRT 10.8.0"),
        ("10.7.0.23", "24.12", "Triton 24.12 both have TensorRT 10.7.0"),
        ("10.16.1.11", "26.02", "Which one Triton 26.02 has is not known here"),
        ("10.16.1.11", None, "Which one Triton 26.08 has is not known here"),
    ],
)
def test_the_release_fits_the_engine(tiny_dynamic_onnx, tmp_path, built, asked, said):
    engine = write_engine(tiny_dynamic_onnx, tmp_path / "pose.engine", built)
    made = triton(engine, tmp_path / "server", TritonOptions(release=asked))
    assert said in made.note
    assert f"tritonserver:{made.release}-py3" in (made.folder / "Dockerfile").read_text()


def test_an_engine_for_another_tensorrt_than_the_image(tiny_dynamic_onnx, tmp_path):
    engine = write_engine(tiny_dynamic_onnx, tmp_path / "pose.engine", "10.3.0.26")
    with pytest.raises(EngineError, match=r"built by TensorRT 10\.3\.0\.26, Triton 25\.01 has 10\.8\.0\. Build it in"):
        triton(engine, tmp_path / "server", TritonOptions(release="25.01"))
    lasting = {"version_compatible": True}
    compatible = write_engine(tiny_dynamic_onnx, tmp_path / "pose.engine", "10.3.0.26", options=lasting)
    assert triton(compatible, tmp_path / "server", TritonOptions(release="25.01")).release == "25.01"


def test_what_cannot_be_served(tiny, tiny_dynamic_onnx, tmp_path):
    raw, flat, stripped = tmp_path / "raw.onnx", tmp_path / "flat.onnx", {"strip_weights": True}
    tiny.export(raw, input_image_shape=(128, 160), postprocessing=False)
    tiny.export(flat, output_predictions_format="flat", **SMALL)
    refused = [
        (raw, UsageError, "'raw', padded arrays per image are needed. Export it with --format batch"),
        (flat, UsageError, "'flat', padded arrays"),
        (tmp_path / "none.onnx", RunnerError, "none.onnx"),
        (tmp_path / "none.engine", EngineError, "none.engine"),
        (write_engine(tiny_dynamic_onnx, tmp_path / "a.engine", rtx=True), UsageError, "by TensorRT-RTX"),
        (write_engine(tiny_dynamic_onnx, tmp_path / "b.engine", elements={}), EngineError, "Build it again"),
        (
            write_engine(tiny_dynamic_onnx, tmp_path / "e.engine", profile={"input": [[]]}),
            EngineError,
            "Build it again",
        ),
        (write_engine(tiny_dynamic_onnx, tmp_path / "c.engine", engine_sha256=""), EngineError, "another engine"),
        (
            write_engine(tiny_dynamic_onnx, tmp_path / "d.engine", options=stripped),
            UsageError,
            "stripWeights",
        ),
    ]
    for path, error, words in refused:
        with pytest.raises(error, match=re.escape(words)):
            triton(path, tmp_path / "server")
    assert not (tmp_path / "server").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0}, {"delay_us": -1}, {"instances": 0}, {"threads": 0}, {"gpus": (0, -1)}, {"name": "a/b"},
        {"preprocess_instances": 0},
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_range(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is "):
        TritonOptions(**wrong)


def test_the_command(tiny_dynamic_onnx, tmp_path, capsys):
    words = ["deploy", "triton", str(tiny_dynamic_onnx), "-o", str(tmp_path / "server")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--gpus", "0,1"])
    assert end.value.code == 0
    assert "a repository for Triton" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for more, said in (
        ([], "exists already"),
        (["--gpus", "a"], "--gpus: got 'a'"),
        (["--triton", "new"], "--triton is 'new'"),
        (["--max-batch", "0"], "--max-batch: got 0"),
    ):
        other = words if not more else [*words[:-1], str(tmp_path / "other"), *more]
        with pytest.raises(SystemExit) as end:
            main(other)
        assert end.value.code in (1, 2)
        assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_written(tiny_dynamic_onnx, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "server"):
        with pytest.raises(ExportError, match="writing"):
            triton(tiny_dynamic_onnx, folder)
