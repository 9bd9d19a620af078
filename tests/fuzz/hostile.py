"""Hostile inputs made by hand, one of each kind: bombs, code, escapes, traps for outputs. Each is run once."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import OUTPUTS, Seeds
from .runner import Case


@dataclass(frozen=True)
class Expected:
    """What a case must end with.

    Attributes:
        case: the case.
        says: text in standard output or standard error.
        code: exit code; None for any clean one.
    """

    case: Case
    says: str = ""
    code: int | None = 1


Maker = Callable[[Path, Seeds], Expected]
MAKERS: dict[str, Maker] = {}


def hostile(maker: Maker) -> Maker:
    MAKERS[maker.__name__] = maker
    return maker


def _case(folder: Path, *command: str, outputs: tuple[str, ...] = OUTPUTS, **environment: str) -> Case:
    return Case("hostile", list(command), folder, outputs, environment)


def png(width: int, height: int) -> bytes:
    """A picture of one bit per pixel whose pixels are all 0, which is small in the file and large in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@hostile
def a_picture_of_a_billion_pixels(folder: Path, seeds: Seeds) -> Expected:
    seeds.copy(folder, "good.onnx")
    (folder / "bomb.png").write_bytes(png(32_000, 32_000))
    return Expected(_case(folder, "predict", "good.onnx", "bomb.png"), "more than 178,956,970 pixels")


@hostile
def a_pickle_of_three_gigabytes_in_a_small_checkpoint(folder: Path, seeds: Seeds) -> Expected:
    with zipfile.ZipFile(folder / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3\n")
        with archive.open("archive/data.pkl", "w", force_zip64=True) as file:
            for _ in range(3 << 10):
                file.write(bytes(1 << 20))
    return Expected(_case(folder, "export", "demo", "--weights", "w.pth", "-o", "out.onnx"), "loading w.pth")


@hostile
def tensors_that_repeat_one_number(folder: Path, seeds: Seeds) -> Expected:
    import torch

    state = {f"heads.head1.{name}.weight": torch.zeros(1).expand(10**9, 1, 1, 1) for name in ("cls_pred", "pose_pred")}
    torch.save({"net": state}, folder / "w.pth")
    return Expected(_case(folder, "export", "demo", "--weights", "w.pth", "-o", "out.onnx"), "loading w.pth")


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch owned",)


@hostile
def a_checkpoint_that_runs_code(folder: Path, seeds: Seeds) -> Expected:
    (folder / "w.pth").write_bytes(pickle.dumps({"net": _Runs()}))
    return Expected(_case(folder, "export", "demo", "--weights", "w.pth", "-o", "out.onnx"), "loading w.pth")


@hostile
def code_in_the_working_folder(folder: Path, seeds: Seeds) -> Expected:
    for name in ("numpy", "onnx", "tensorrt", "tensorrt_rtx", "cuda", "sitecustomize"):
        (folder / f"{name}.py").write_text("open('owned', 'w').write('ran')")
    return Expected(_case(folder, "doctor"), code=None)


@hostile
def an_input_of_ten_billion_pixels(folder: Path, seeds: Seeds) -> Expected:
    return Expected(_case(folder, "export", "demo", "-o", "out.onnx", "--imgsz", "99968"), "--imgsz")


@hostile
def a_batch_of_a_hundred_thousand(folder: Path, seeds: Seeds) -> Expected:
    return Expected(_case(folder, "export", "demo", "-o", "out.onnx", "--batch", "100000"), "--batch")


def _described(seeds: Seeds, folder: Path, change: Callable[[dict[str, Any]], None], weights: Any = None) -> None:
    import onnx

    model = onnx.load(seeds.folder / "good.onnx")
    entry = next(item for item in model.metadata_props if item.key == "trt_pose")
    spec = json.loads(entry.value)
    change(spec)
    entry.value = json.dumps(spec)
    if weights is not None:
        weights(model)
    onnx.save(model, folder / "m.onnx")


@hostile
def a_description_of_another_size(folder: Path, seeds: Seeds) -> Expected:
    seeds.copy(folder, "p.jpg")
    _described(seeds, folder, lambda spec: spec["input"].update(height=320, width=320))
    return Expected(_case(folder, "predict", "m.onnx", "p.jpg"), "not what its description says")


@hostile
def names_of_joints_that_a_terminal_obeys(folder: Path, seeds: Seeds) -> Expected:
    seeds.copy(folder, "p.jpg")
    _described(seeds, folder, lambda spec: spec.update(model="\x1b]0;pwned\x07"))
    return Expected(_case(folder, "inspect", "m.onnx"), code=None)


@hostile
def joints_that_are_not_numbers(folder: Path, seeds: Seeds) -> Expected:
    """Their JSON is JSON, and a warning says it."""
    import numpy as np
    import onnx

    def spoil(model: Any) -> None:
        output = next(node for node in model.graph.node if "pred_joints" in node.output)
        at = list(output.output).index("pred_joints")
        output.output[at] = "joints_before"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "not_a_number"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["joints_before", "not_a_number"], ["pred_joints"]))

    seeds.copy(folder, "p.jpg")
    _described(seeds, folder, lambda spec: None, spoil)
    return Expected(_case(folder, "predict", "m.onnx", "p.jpg", "--json", "-"), "not finite", None)


@hostile
def a_drawing_over_a_source(folder: Path, seeds: Seeds) -> Expected:
    seeds.copy(folder, "good.onnx")
    for name in ("one", "two"):
        (folder / name).mkdir()
        seeds.copy(folder / name, "p.jpg")
    command = ("predict", "good.onnx", "one/p.jpg", "two/p.jpg", "--save", "two")
    return Expected(_case(folder, *command, outputs=("two/p_poses.jpg", "two/p_2.jpg")), "two/p.jpg", 0)


@hostile
def a_name_that_is_no_text(folder: Path, seeds: Seeds) -> Expected:
    seeds.copy(folder, "good.onnx", "p.jpg")
    (folder / "p.jpg").rename(folder / os.fsdecode(b"p\xe9.jpg"))
    return Expected(_case(folder, "predict", "good.onnx", os.fsdecode(b"p\xe9.jpg"), "--save", "out"), "people", 0)


@hostile
def a_model_whose_name_is_no_text(folder: Path, seeds: Seeds) -> Expected:
    seeds.copy(folder, "good.onnx", "p.jpg")
    (folder / "good.onnx").rename(folder / os.fsdecode(b"m\xe9.onnx"))
    return Expected(_case(folder, "predict", os.fsdecode(b"m\xe9.onnx"), "p.jpg"), code=None)


@hostile
def a_legal_name_of_255_letters(folder: Path, seeds: Seeds) -> Expected:
    seeds.copy(folder, "good.onnx")
    name = "n" * 250 + ".onnx"
    return Expected(_case(folder, "quantize", "good.onnx", "-o", name, "--precision", "fp16", outputs=(name,)), code=0)


@hostile
def an_address_of_weights_that_is_none(folder: Path, seeds: Seeds) -> Expected:
    command = ("export", "yolo_nas_pose_n", "-o", "out.onnx")
    return Expected(_case(folder, *command, TRT_POSE_WEIGHTS_URL="http://[bad"), "TRT_POSE_WEIGHTS_URL")


@hostile
def weights_over_plain_http(folder: Path, seeds: Seeds) -> Expected:
    command = ("export", "yolo_nas_pose_n", "-o", "out.onnx")
    return Expected(_case(folder, *command, TRT_POSE_WEIGHTS_URL="http://weights.example"), "https")


@hostile
def a_cache_folder_that_is_a_file(folder: Path, seeds: Seeds) -> Expected:
    (folder / "cache").write_text("")
    command = ("export", "yolo_nas_pose_n", "-o", "out.onnx")
    return Expected(_case(folder, *command, XDG_CACHE_HOME=str(folder / "cache")), "Name another with XDG_CACHE_HOME")


@hostile
def weights_that_overflow_inside(folder: Path, seeds: Seeds) -> Expected:
    from safetensors.numpy import load_file, save_file

    state = load_file(seeds.folder / "w.safetensors")
    name = next(name for name in state if name.endswith("post_bn.weight"))
    save_file({**state, name: state[name] * 1e38}, folder / "w.safetensors")
    command = ("export", "demo", "--weights", "w.safetensors", "-o", "out.onnx")
    return Expected(_case(folder, *command), "not finite")
