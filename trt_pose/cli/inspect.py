"""``trt-pose inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..documents import to_json
from .app import CHECK, Command, HostCode, Json, app, print_table, say

if TYPE_CHECKING:
    from ..inspection import EngineInspection, Inspection
    from ..spec import ModelSpec

_SHOWN = 120  # characters of a metadata entry


@app.command(
    cls=Command, rich_help_panel=CHECK, epilog="trt-pose inspect pose.onnx\ntrt-pose inspect pose.engine --json"
)
def inspect(
    file: Annotated[Path, typer.Argument(help="An .onnx file of any toolkit, or an engine.")],
    host_code: HostCode = False,
    json: Json = False,
) -> None:
    """Show the inputs, outputs, description and operators of a model file."""
    from ..inspection import inspect as inspect_file, inspect_engine
    from ..trt.sidecar import SUFFIXES

    if file.suffix.lower() in SUFFIXES:
        engine = inspect_engine(file)
        say(engine.to_json()) if json else _print_engine(engine)
        return
    inspection = inspect_file(file)
    if json:
        say(inspection.to_json())
        return
    tensors = [
        (kind, name, info.dtype, " x ".join(str(size or "?") for size in info.shape))
        for kind, items in (("input", inspection.inputs), ("output", inspection.outputs))
        for name, info in items.items()
    ]
    spec, written = inspection.spec, f"{inspection.size_bytes / 1e6:.1f} MB, opset {inspection.opset}"
    if spec is None:
        facts = [*_foreign(inspection), ("file", written)]
    else:
        facts = [*_facts(spec, inspection.precision), ("file", f"{written}, written by {spec.generator}")]
        if inspection.changed is not None:
            facts.append(
                ("contents", "changed since they were written" if inspection.changed else "as they were written")
            )
    if inspection.refusal:
        facts.append(("ONNX Runtime", inspection.refusal))
    print_table(("fact", "value"), facts)
    print_table(("kind", "tensor", "type", "shape"), tensors)
    if inspection.operators is None:
        say("operators: not counted, the onnx package is not installed (pip install onnx)")
    else:
        print_table(("operator", "nodes"), [(name, str(count)) for name, count in inspection.operators.items()])


def _foreign(inspection: Inspection) -> list[tuple[str, str]]:
    """The facts of a file that trt_pose did not write."""
    if inspection.heads is None:
        fits = "not known, onnx-graphsurgeon is not installed"
    else:
        fits = ", ".join(inspection.heads) or "none; name tensors with trt-pose attach --tensors"
    entries = [(f"metadata {key}", value[:_SHOWN]) for key, value in (inspection.metadata or {}).items()]
    return [("model", f"of another toolkit ({inspection.precision})"), ("heads of attach that fit", fits), *entries]


def _facts(spec: ModelSpec, found: str | None = None) -> list[tuple[str, str]]:
    """The facts of a description; ``found`` is the precision of the graph itself, where it is known."""
    precision = spec.precision if found in (None, spec.precision) else f"{found}; its description says {spec.precision}"
    return [
        ("model", f"{spec.model} ({spec.task}, {precision})"),
        ("quantization", spec.quantization or "none"),
        ("weights", f"{spec.weights} sha256 {spec.weights_sha256[:16]}"),
        ("image", f"{spec.input.resize} to {spec.input.resize_to}, pad {spec.input.padding} {spec.input.pad_value}"),
        *_selected(spec),
        ("plugins", ", ".join(spec.plugins_required) or "none"),
    ]


def _selected(spec: ModelSpec) -> list[tuple[str, str]]:
    """Thresholds and limits, which a raw or converted file does not have; joints or classes."""
    rows = []
    if spec.output.confidence_threshold is not None:
        rows = [
            ("kept", f"score > {spec.output.confidence_threshold:g}, IoU <= {spec.output.nms_threshold:g}"),
            (
                "limits",
                f"{spec.output.num_pre_nms_predictions} candidates, {spec.output.max_predictions_per_image} per image",
            ),
        ]
    if spec.task == "pose":
        rows.append(("joints", f"{spec.skeleton.num_joints}: {', '.join(spec.skeleton.names)}"))
    if spec.task == "detection":
        rows.append(("classes", f"{len(spec.class_names)}: {', '.join(spec.class_names)}"))
    return rows


def _print_engine(inspection: EngineInspection) -> None:
    facts = [
        ("built with", f"{inspection.header.flavor} {inspection.header.version}"),
        ("size", f"{inspection.size_bytes / 1e6:.1f} MB"),
    ]
    if inspection.sidecar is not None:
        sidecar = inspection.sidecar
        layers = ", ".join(f"{count} {kind}" for kind, count in (sidecar.precision_found or {}).items())
        facts += [
            ("for", sidecar.target),
            ("precision asked", sidecar.precision_asked),
            ("layers inspection", layers or sidecar.precision_note),
            ("profile", to_json(sidecar.profile, None) if sidecar.profile else "fixed shapes"),
            *_facts(sidecar.spec),
        ]
    if inspection.note:
        facts.append(("note", inspection.note))
    print_table(("fact", "value"), facts)
    tensors = (inspection.engine or {}).get("tensors", {})
    if tensors:
        rows = [(item["mode"], name, item["dtype"], str(item["shape"])) for name, item in tensors.items()]
        print_table(("kind", "tensor", "type", "shape"), rows)
