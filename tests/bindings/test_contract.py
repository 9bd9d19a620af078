"""Every name of TensorRT that the package uses exists in the bindings of each release, or is guarded."""

import ast
import textwrap

import pytest

from . import ROOT, answer_of, run_on
from .fetch import FULL

pytestmark = pytest.mark.bindings
SOURCES = [
    *(ROOT / "trt_pose" / "trt").glob("*.py"),
    *(ROOT / "trt_pose" / "runtime" / name for name in ("bindings.py", "engine.py", "trt.py")),
    *(ROOT / "trt_pose" / "builder" / name for name in ("calibrator.py", "worker.py")),
    ROOT / "trt_pose" / "operators" / "tensorrt_plugin.py",
]
# Classes of the objects that TensorRT hands out, by the names of the variables that hold them.
CLASSES = {
    "engine": "ICudaEngine", "context": "IExecutionContext", "_context": "IExecutionContext",
    "network": "INetworkDefinition", "layer": "ILayer", "parser": "OnnxParser", "registry": "IPluginRegistry",
    "refitter": "Refitter", "runtime": "Runtime", "kernels": "IRuntimeCache", "builder": "Builder",
}  # fmt: skip
RUNTIME_CONFIG, BUILDER_CONFIG = "IRuntimeConfig", "IBuilderConfig"
# Attributes of other objects under the same variable names: paths, dictionaries, our own classes.
# The bindings call an output allocator's methods by name and do not list them (python/src/infer/pyCore.cpp).
OWN_METHODS = {"read", "reallocate_output", "reallocate_output_async", "notify_shape"}
OURS = {"ICudaEngine.parent", "ICudaEngine.write_bytes", "ILayer.get"}
VERSIONS = [*(f"full-{version}" for version in FULL), "rtx"]
ONLY_10 = {"full-11.4.0.106", "rtx"}
ONLY_RTX = {f"full-{version}" for version in FULL}
# Names that some releases lack. The code asks for them first, or asks the flavour.
GUARDED = {
    **dict.fromkeys(
        (
            "IInt8EntropyCalibrator2",
            *(
                f"IInt8EntropyCalibrator2.{name}"
                for name in (
                    "__init__",
                    "get_batch",
                    "get_batch_size",
                    "read_calibration_cache",
                    "write_calibration_cache",
                )
            ),
        ),
        ONLY_10,
    ),
    "ILayer.precision": ONLY_10,
    "ILayer.set_output_type": ONLY_10,
    "CudaGraphStrategy": ONLY_RTX,
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE": ONLY_RTX,
    "DynamicShapesKernelSpecializationStrategy": ONLY_RTX,
    "DynamicShapesKernelSpecializationStrategy.EAGER": ONLY_RTX,
    "IRuntimeConfig": {"full-10.3.0"},
    "ICudaEngine.create_runtime_config": {"full-10.3.0"},
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": ONLY_RTX,
    "IRuntimeConfig.cuda_graph_strategy": ONLY_RTX,
    "IRuntimeConfig.create_runtime_cache": ONLY_RTX,
    "IRuntimeConfig.set_runtime_cache": ONLY_RTX,
    "IRuntimeCache": ONLY_RTX,
    "IRuntimeCache.serialize": ONLY_RTX,
    "IRuntimeCache.deserialize": ONLY_RTX,
    "BuilderFlag.REQUIRE_USER_ALLOCATION": ONLY_RTX,
}


class Names(ast.NodeVisitor):
    """Collects dotted names under the TensorRT module, through the local variables that stand for parts of it."""

    def __init__(self, path):
        self.path, self.found, self.known = path, set(), {"trt": ""}
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def chain(self, node):
        if isinstance(node, ast.Name):
            if node.id == "config":
                return RUNTIME_CONFIG if self.path.name == "engine.py" else BUILDER_CONFIG
            if node.id == "builder" and self.path.name == "tensorrt_plugin.py":
                return "IExprBuilder"
            return self.known.get(node.id, CLASSES.get(node.id))
        if isinstance(node, ast.Attribute):
            if node.attr in ("module", "trt"):  # flavor.module, runner.trt
                return ""
            base = self.chain(node.value)
            if base is None:
                return CLASSES.get(node.attr) if node.attr != "runtime" else None
            return f"{base}.{node.attr}".lstrip(".")
        return None

    def visit_ClassDef(self, node):
        """The methods of a class derived from TensorRT's are those that TensorRT calls."""
        for base in filter(None, map(self.chain, node.bases)):
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            self.found |= {f"{base}.{name}" for name in methods if name not in OWN_METHODS}
        self.generic_visit(node)

    def visit_FunctionDef(self, node):
        outer = dict(self.known)
        self.generic_visit(node)
        self.known = outer

    def visit_Assign(self, node):
        targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(targets)
        for target, value in zip(targets, values, strict=False):
            chain = self.chain(value)
            if isinstance(target, ast.Name) and chain is not None and isinstance(value, ast.Attribute):
                self.known[target.id] = chain
        self.generic_visit(node)

    def visit_Attribute(self, node):
        chain = self.chain(node)
        if chain:
            self.found.add(chain)
        self.generic_visit(node)


def used():
    return sorted(set().union(*(Names(path).found for path in SOURCES)) - OURS)


def test_the_names_are_found():
    names = used()
    assert len(names) > 80
    for name in (
        "IExecutionContext.execute_async_v3", "ICudaEngine.get_tensor_profile_shape", "BuilderFlag.TF32", "IPluginV3",
        "ILogger.Severity.VERBOSE", "Runtime.deserialize_cuda_engine", "IRuntimeCache.deserialize", "PluginField",
        "INetworkDefinition.get_layer", "IBuilderConfig.set_flag", "IRuntimeConfig.set_runtime_cache",
    ):  # fmt: skip
        assert name in names


@pytest.mark.parametrize("place", VERSIONS)
def test_the_plugins_have_the_methods_that_tensorrt_calls(place):
    code = """
    import json
    from trt_pose.operators.tensorrt_plugin import PluginMethods, make_creators
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    methods = [name for name, value in vars(PluginMethods).items() if name[0] != "_" and callable(value)]
    known = set().union(*map(dir, bases))
    creators = make_creators(trt)
    print(json.dumps([[name for name in methods if name not in known], len(methods), [c.name for c in creators]]))
    """
    found = answer_of(run_on(place, textwrap.dedent(code)))
    assert found == [[], 12, ["PoseNMS_TRT", "DetectionNMS_TRT", "KeypointDecode_TRT"]]


@pytest.mark.parametrize("place", VERSIONS)
def test_every_name_exists_or_is_guarded(place):
    code = """
    import functools, json
    def has(name):
        try:
            functools.reduce(getattr, name.split("."), trt)
        except AttributeError:
            return False
        return True
    print(json.dumps([name for name in sys.argv[1:] if not has(name)]))
    """
    missing = set(answer_of(run_on(place, textwrap.dedent(code), *used())))
    assert missing == {name for name, lacking in GUARDED.items() if place in lacking and name in used()}
