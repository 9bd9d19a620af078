"""A folder from which DeepStream's nvinfer runs a pose engine."""

from __future__ import annotations

import configparser
import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from ..errors import EngineError, UsageError
from ..spec import InputSpec
from ..tasks import POSE
from ..trt.plugins import LIBRARY
from .folder import Part, check_new_folder, write_folder
from .library import carries_plugins, find_library
from .model_file import ModelFile, open_model

_DOING = "deploying to DeepStream"
_SOURCES = ("trt_pose_parser.cpp", "trt_pose_meta.cpp", "trt_pose_deepstream.hpp", "CMakeLists.txt")
CONFIG = "config_infer_pose.txt"
# nvinfer pads with black, and cannot be told otherwise (gstnvinfer.cpp).
_PADDING = 0


@dataclass(frozen=True)
class DeepStreamFolder:
    """What was written.

    Attributes:
        folder: the folder.
        notes: what differs from the results of trt_pose itself.
    """

    folder: Path
    notes: tuple[str, ...]

    def __str__(self) -> str:
        start = (
            f"{self.folder}: a configuration and a parser library for nvinfer. README.md in it says how to build it."
        )
        return "\n".join((start, *self.notes))


def deepstream(model: str | Path, folder: str | Path, *, plugins: str | Path | None = None) -> DeepStreamFolder:
    """Writes a folder with a configuration of nvinfer, the sources of its parser library and a probe in Python.

    nvinfer writes float32 into the input, whatever its type is, and pads with black.

    Args:
        model: an engine of a pose model with float32 input.
        folder: a folder that is missing or empty; it appears whole.
        plugins: the plugin library for an engine that needs it; None takes the one that is found.

    Raises:
        UsageError: the file is no engine, or of a kind that nvinfer cannot run.
        EngineError: the engine cannot be read, or needs a library that is missing.
        ExportError: the folder has content, or cannot be written.
    """
    folder = Path(folder).absolute()
    check_new_folder(folder)
    found = open_model(model, _DOING)
    _check(found)
    library = find_library(found, plugins, _DOING)
    notes = _notes(found.spec.input)
    sources = resources.files("trt_pose").joinpath("cpp/deepstream")
    parts: dict[str, Part] = {name: sources.joinpath(name).read_bytes() for name in _SOURCES}
    parts |= {
        "pose.engine": found.path,
        "labels.txt": "person\n",
        CONFIG: _configuration(found),
        "pose_probe.py": _fill("pose_probe.py.txt", found),
        "README.md": _fill("README.md.txt", found, notes="\n".join(f"- {note}" for note in notes) or "- None."),
    }
    if library is not None:
        parts[LIBRARY] = library
    write_folder(folder, parts)
    return DeepStreamFolder(folder, notes)


def _check(found: ModelFile) -> None:
    source, name = found.spec.input, found.path.name
    if found.sidecar is None or found.header is None:
        raise UsageError(f"{_DOING}: {name} is an .onnx file, an engine is needed. Build it: trt-pose build {name}.")
    if found.spec.task != POSE.name:
        raise UsageError(f"{_DOING}: {name} is a model for the task {found.spec.task!r}, a pose model is needed.")
    if found.elements[source.name] != "float32":
        raise UsageError(
            f"{_DOING}: {name} takes {found.elements[source.name]}, and nvinfer writes float32 whatever it takes."
            " Export the model with --input-dtype float32 and build it again."
        )
    wrong = [f"{output}: {kind}" for output, kind in found.elements.items() if kind not in ("float32", "int32")]
    if wrong:
        raise UsageError(
            f"{_DOING}: {name} has {wrong[0]}, float32 and int32 are needed. Export with --backend tensorrt."
        )
    if found.sidecar.options.get("version_compatible") or carries_plugins(found):
        raise EngineError(
            f"{_DOING}: {name} brings code of its own (--versionCompatible), which nvinfer does not allow. Build it"
            " without."
        )
    if int(found.header.version.partition(".")[0]) > 10:
        raise EngineError(
            f"{_DOING}: {name} was built by TensorRT {found.header.version}, DeepStream up to 9.2 has"
            " TensorRT 10. Build it with the TensorRT of the DeepStream it is for."
        )


def _notes(source: InputSpec) -> tuple[str, ...]:
    """Returns what differs from trt_pose's own results."""
    if source.resize == "stretch" or source.pad_value == _PADDING:
        return ()
    return (
        f"nvinfer pads with black, the model was trained with grey level {source.pad_value}:"
        " trt_pose/deploy/README.md says what that costs. --pad-value 0 at the export makes both sides equal.",
    )


def _configuration(found: ModelFile) -> str:
    """Returns nvinfer's configuration, a file of GLib's key groups."""
    source, spec = found.spec.input, found.spec
    config = configparser.ConfigParser(interpolation=None)
    config["property"] = {
        "gpu-id": "0",
        "gie-unique-id": "1",
        "process-mode": "1",  # whole frames
        "model-engine-file": "pose.engine",
        "batch-size": str(found.largest_batch),
        "infer-dims": f"{source.channels};{source.height};{source.width}",
        "net-scale-factor": "1" if source.white == 255 else repr(source.white / 255),
        "model-color-format": "0",  # RGB
        "maintain-aspect-ratio": "0" if source.resize == "stretch" else "1",
        "symmetric-padding": "1" if source.padding == "center" else "0",
        "num-detected-classes": "1",
        "labelfile-path": "labels.txt",
        "network-type": "3",  # objects with masks: the joints
        "cluster-mode": "4",  # none: NMS is in the engine
        "output-instance-mask": "1",
        "output-blob-names": ";".join(name for name in found.elements if name != source.name),
        "custom-lib-path": "build/libnvdsparse_trt_pose.so",
        "parse-bbox-instance-mask-func-name": "NvDsInferParseTrtPose",
    }
    config["class-attrs-all"] = {"pre-cluster-threshold": repr(spec.output.confidence_threshold or 0.0)}
    text = io.StringIO()
    config.write(text, space_around_delimiters=False)
    return text.getvalue()


def _fill(name: str, found: ModelFile, **more: str) -> str:
    """Returns a template with the facts of the model in it."""
    source, spec = found.spec.input, found.spec
    text = resources.files("trt_pose").joinpath(f"deploy/deepstream/{name}").read_text(encoding="utf-8")
    built = found.header.version if found.header else ""
    facts = {
        "model": spec.model, "width": source.width, "height": source.height, "names": list(spec.skeleton.names),
        "keep": int(source.resize != "stretch"), "centered": int(source.padding == "center"), "tensorrt": built,
        "config": CONFIG,
    }  # fmt: skip
    return Template(text).substitute({key: str(value) for key, value in facts.items()}, **more)
