"""Rules of the house that a machine can check."""

import ast
import dataclasses
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import trt_pose
from trt_pose.export import ExportOptions
from trt_pose.models.model import Model

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "trt_pose"
FILES = sorted(PACKAGE.rglob("*.py"))
LONG = {("model.py", "export")}  # has the parameters of super-gradients


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_fit_in_the_head(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and (path.name, node.name) not in LONG:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{path.name}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_input_is_never_asserted_printed_or_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            assert path.name == "verify.py", f"{path.name}:{node.lineno} asserts"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno} catches everything"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert path.parent.name == "cli" or path.name == "weights.py", f"{path.name}:{node.lineno} prints"


def test_public_names_are_found_and_listed_once():
    assert len(trt_pose.__all__) == len(set(trt_pose.__all__))  # type: ignore[attr-defined]
    for name in trt_pose.__all__:  # type: ignore[attr-defined]
        assert getattr(trt_pose, name) is not None
    assert set(dir(trt_pose)) == set(trt_pose.__all__)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        trt_pose.nonsense  # type: ignore[attr-defined]  # noqa: B018
    verbs = {
        "quantize",
        "build_engine",
        "attach",
        "compare",
        "evaluate",
        "bench",
        "open_runner",
        "PosePredictor",
        "train",
    }
    assert verbs | {"models", "convert_to_onnx", "get_include", "__version__"} <= set(trt_pose.__all__)  # type: ignore[attr-defined]
    assert all(callable(getattr(trt_pose, name)) for name in verbs)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (Model.export, {"confidence_threshold", "conf", "iou", "batch_size", "engine", "calibration_loader"}),
        (trt_pose.PosePredictor, {"model", "confidence", "conf", "providers", "threads", "device"}),
        (trt_pose.open_runner, {"path", "providers", "cuda_graph"}),
    ],
)
def test_help_shows_the_parameters(function, names):
    signature = inspect.signature(function)
    assert names <= set(signature.parameters)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


def test_every_parameter_of_export_is_an_option_and_described():
    options = {item.name for item in dataclasses.fields(ExportOptions)}
    parameters = set(inspect.signature(Model.export).parameters) - {"self", "output", "conf", "iou"}
    assert parameters == options
    assert all(f"{name}:" in Model.export.__doc__ for name in options)


def loaded_by(code):
    script = f"import sys; before = set(sys.modules); {code}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_loads_nothing_heavy():
    heavy = {"torch", "onnx", "onnxruntime", "tensorrt", "cv2", "numpy", "pycuda"}
    assert not heavy & loaded_by("import trt_pose")
    assert not heavy & loaded_by("from trt_pose import models, Models; models.MODELS")


def test_predicting_never_loads_torch(tiny_onnx, photo_path):
    code = (
        "import trt_pose; p = trt_pose.PosePredictor("
        f"{str(tiny_onnx)!r}, providers=['cpu']); r = p.predict({str(photo_path)!r}); r.draw(); p.close()"
    )
    assert not {"torch", "onnx", "torchvision", "supervision"} & loaded_by(code)


def test_top_level_holds_what_the_house_says():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.partition("/")[0] for name in listed.stdout.split() if not name.startswith(".")}
    assert top <= {
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "trt_pose", "plugins",
        "tests", "benchmarks", "docker", "SECURITY.md", "CITATION.cff", "MANIFEST.in",
    }  # fmt: skip


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_exists(script):
    """They run rarely, so a name that moved would be noticed late."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{script.name}:{node.lineno}: a script has no package"
            if (node.module or "").startswith(("trt_pose", "tests")):
                module = importlib.import_module(node.module)
                for item in node.names:
                    assert hasattr(module, item.name) or importlib.util.find_spec(f"{node.module}.{item.name}")
