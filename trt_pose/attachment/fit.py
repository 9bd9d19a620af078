"""Which head the outputs of a file fit, by their shapes and by the file's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..choices import HeadName
from ..errors import ExportError
from .heads import HEADS, fitting
from .source import THEIRS, SourceTensor, fixed, input_of, load, outputs_of, own_name
from .ultralytics import Metadata, read_metadata


@dataclass(frozen=True)
class TheirFile:
    """A file of another toolkit.

    Attributes:
        path: path of the file.
        proto: its model, with prefixed names.
        metadata: what Ultralytics' metadata says; None in files of others.
        image: batch size, None for an open one; height and width, px; element type.
        tensors: the tensors that the selection reads.
    """

    path: str | Path
    proto: onnx.ModelProto
    metadata: Metadata | None
    image: tuple[int | None, int, int, str]
    tensors: list[SourceTensor]


def read_file(path: str | Path, named: HeadName | None = None, tensors: Sequence[str] | None = None) -> TheirFile:
    """Reads a file, with the named tensors or all its outputs.

    Raises:
        ExportError: it is not an ONNX file with one image input and such tensors of fixed shapes.
    """
    proto = load(path)
    metadata = read_metadata({item.key: item.value for item in proto.metadata_props}, str(path))
    proto = fixed(proto, path)
    image = input_of(proto, path)
    names = [THEIRS + name for name in tensors or ()] or [item.name for item in proto.graph.output]
    return TheirFile(path, proto, metadata, image, outputs_of(proto, names, path, named, image[0]))


def find_heads(theirs: TheirFile) -> dict[HeadName, tuple[int, int]]:
    """Returns the heads that the tensors of a file fit, with the numbers of anchors and joints."""
    fits = fitting([item.shape for item in theirs.tensors])
    if theirs.metadata is not None:
        # 23 columns are 6 joints of three numbers or 9 of two; the metadata says which.
        of_file = theirs.metadata.joints, theirs.metadata.values
        fits = {name: sizes for name, sizes in fits.items() if (sizes[1], HEADS[name].values) == of_file}
    return fits


def find_head(theirs: TheirFile, named: HeadName | None) -> tuple[HeadName, int, int]:
    """Returns the head of a file and the numbers of anchors and joints.

    Raises:
        ExportError: the shapes of the tensors are not those of the head; or no head fits, or several do.
    """
    listed = ", ".join(f"{own_name(item.name)} {item.shape}" for item in theirs.tensors)
    fits = find_heads(theirs)
    if named is not None:
        fits = {name: sizes for name, sizes in fits.items() if name is named}
    if not fits:
        of, known = f"head {named}" if named else "a known head", theirs.metadata
        said = f" with the {known.joints} joints of {known.values} numbers that its metadata says" if known else ""
        raise ExportError(
            f"attaching to {theirs.path}: {listed} are not the outputs of {of}{said}. Choose one of {', '.join(HEADS)}."
        )
    if len(fits) > 1:
        ways = ", ".join(f"{name} ({joints} joints)" for name, (_, joints) in fits.items())
        raise ExportError(f"attaching to {theirs.path}: {listed} may be the outputs of {ways}. Name the head.")
    return next((name, *sizes) for name, sizes in fits.items())


def heads_of(path: str | Path) -> tuple[HeadName, ...]:
    """Returns the heads that the outputs of a file fit; empty where ``attach`` cannot read the file."""
    try:
        theirs = read_file(path)
    except ExportError:
        return ()
    open_rows = any(item.open_rows for item in theirs.tensors)
    return tuple(name for name in find_heads(theirs) if HEADS[name].open_rows or not open_rows)
