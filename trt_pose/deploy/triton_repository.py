"""A model repository for Triton Inference Server, with what is needed to start and to ask it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..runtime.onnx_file import has_plugin_node, with_functions
from ..trt.plugins import LIBRARY
from .folder import Part, check_new_folder, write_folder
from .library import find_library
from .model_file import ModelFile, open_model
from .protobuf_text import to_text
from .triton_config import Served, TritonOptions
from .triton_files import make_client, make_dockerfile, make_readme
from .triton_releases import choose_release

_DOING = "deploying to Triton"
_DEFAULT_BATCH = 8  # of a file whose batch has no upper limit


@dataclass(frozen=True)
class TritonRepository:
    """What was written.

    Attributes:
        folder: the folder; ``models`` in it is the repository.
        name: name of the model that clients ask.
        release: release of Triton in the Dockerfile, ``25.06``.
        arguments: the arguments of ``tritonserver`` in the image.
        note: what the release has to do with the engine; empty for an ``.onnx`` file.
    """

    folder: Path
    name: str
    release: str
    arguments: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.folder}: a repository for Triton {self.release}. README.md in it says how to start it.",
            self.note,
        ]
        return "\n".join(filter(None, lines))


def triton(model: str | Path, folder: str | Path, options: TritonOptions | None = None) -> TritonRepository:
    """Writes a folder with a model repository for Triton, a Dockerfile, a client and a README.

    Clients send the bytes of image files and get boxes and joints in px of their images, as by
    :class:`trt_pose.PosePredictor`. Pre- and post-processing run in Triton's Python backend, the network in its
    backend for TensorRT or ONNX Runtime; an ensemble joins them.

    Args:
        model: an engine of TensorRT, or an ``.onnx`` file; in batch format.
        folder: a folder that is missing or empty; it appears whole.
        options: how the model is served.

    Raises:
        UsageError: an option does not fit the file, or the file is of a kind that cannot be served.
        RunnerError: an ``.onnx`` file cannot be opened.
        EngineError: an engine cannot be read, needs a library that is missing, or is for another TensorRT than the
            image has.
        ExportError: the folder has content, or cannot be written.
    """
    folder, options = Path(folder).absolute(), options or TritonOptions()
    check_new_folder(folder)
    found = open_model(model, _DOING)
    if options.threads is not None and found.sidecar is not None:
        raise UsageError(f"{_DOING}: threads are for .onnx files, got {found.path.name}. Leave them out.")
    served = Served(found, options, _batch(found, options.max_batch))
    library = find_library(found, options.plugins, _DOING)
    release, note = choose_release(found, options.release)
    made = TritonRepository(folder, options.name, release, _arguments(found, library), note)
    parts = _models(served)
    if library is not None:
        parts[f"plugins/{LIBRARY}"] = library
    if not options.pixels:
        parts["client.py"] = make_client(found.spec, options.name)
    parts["Dockerfile"] = make_dockerfile(release, made.arguments, library is not None, options.pixels)
    parts["README.md"] = make_readme(served, release, note)
    write_folder(folder, parts)
    return made


def _models(served: Served) -> dict[str, Part]:
    """Returns the files of the repository."""
    found, options = served.model, served.options
    parts: dict[str, Part] = {f"models/{name}/config.pbtxt": to_text(made) for name, made in served.configs.items()}
    network = options.name if options.pixels else f"{options.name}_network"
    plan = found.sidecar is not None
    content: Part = with_functions(found.path) if not plan and has_plugin_node(found.path) else found.path
    parts[f"models/{network}/1/{'model.plan' if plan else 'model.onnx'}"] = content
    if not options.pixels:
        for step in ("Preprocess", "Postprocess"):
            line = f"from trt_pose.deploy.triton_steps import {step} as TritonPythonModel\n"
            parts[f"models/{options.name}_{step.lower()}/1/model.py"] = line
        parts[f"models/{options.name}/1/.keep"] = ""  # Triton wants a version of an ensemble, too
    return parts


def _batch(found: ModelFile, asked: int | None) -> int:
    """Returns the largest batch for Triton's scheduler; 0 for a file of a fixed batch."""
    if found.fixed_batch is not None:
        if asked is not None:
            raise UsageError(
                f"{_DOING}: {found.path.name} has a fixed batch of {found.fixed_batch}, so that there is no max_batch."
                " Leave it out, or export with --batch dynamic."
            )
        return 0
    if asked is not None and found.largest_batch is not None and asked > found.largest_batch:
        raise UsageError(
            f"{_DOING}: max_batch is {asked}, the profile of {found.path.name} ends at {found.largest_batch}. Lower it,"
            " or build with larger --maxShapes."
        )
    return asked or found.largest_batch or _DEFAULT_BATCH


def _arguments(found: ModelFile, library: Path | None) -> tuple[str, ...]:
    """Returns the arguments of ``tritonserver`` in the image."""
    arguments = ["--model-repository=/models"]
    if library is not None:
        arguments.append(f"--backend-config=tensorrt,plugins=/plugins/{LIBRARY}")
    if found.sidecar is not None and found.sidecar.options.get("version_compatible"):
        arguments.append("--backend-config=tensorrt,version-compatible=true")  # lets engines run the code they bring
    return tuple(arguments)
