"""The kinds of cases. Each takes a folder with copies of the good files it needs, damages one, and names a command."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from . import mutations
from .runner import Case, run

Maker = Callable[[Path, "Seeds", random.Random], Case]
ONNX_VERBS = (
    ("predict", "m.onnx", "p.jpg", "--json", "-"),
    ("predict", "m.onnx", "p.jpg", "--save", "out"),
    ("predict", "m.onnx", "p.jpg", "--provider", "openvino", "--json", "-"),
    ("inspect", "m.onnx"),
    ("inspect", "m.onnx", "--json"),
    ("doctor", "m.onnx"),
    ("quantize", "m.onnx", "-o", "out", "--precision", "fp16"),
    ("quantize", "m.onnx", "-o", "out.onnx", "--precision", "fp16"),
    ("quantize", "m.onnx", "-o", "out.onnx", "--images", "p.jpg", "--max-images", "1"),
    ("compare", "m.onnx", "good.onnx", "--images", "p.jpg"),
    ("compare", "good.onnx", "m.onnx", "--images", "p.jpg", "--report", "out.html", "--json"),
    ("bench", "m.onnx", "--duration", "0.01", "--warmUp", "0", "--iterations", "1"),
    ("bench", "m.onnx", "--duration", "0.01", "--warmUp", "0", "--iterations", "1", "--end-to-end", "--json"),
    ("eval", "m.onnx", "--data", "c.json", "--images", "pictures", "--conf", "0.2"),
    ("attach", "m.onnx", "-o", "out.onnx"),
    ("attach", "good.onnx", "-o", "out.onnx", "--spec-from", "m.onnx"),
    ("attach", "m.onnx", "-o", "out.onnx", "--spec-from", "good.onnx"),
    ("calibration", "import", "cache.trt", "--onnx", "m.onnx", "-o", "out.json"),
    ("deploy", "triton", "m.onnx", "-o", "out"),
)
ENGINE_VERBS = (
    ("inspect", "m.engine"),
    ("inspect", "m.engine", "--json"),
    ("doctor", "m.engine"),
    ("predict", "m.engine", "p.jpg"),
    ("compare", "good.onnx", "m.engine", "--images", "p.jpg"),
    ("bench", "m.engine", "--duration", "0.01"),
    ("eval", "m.engine", "--data", "c.json", "--images", "pictures"),
    ("deploy", "triton", "m.engine", "-o", "out"),
    ("deploy", "deepstream", "m.engine", "-o", "out"),
)
OUTPUTS = ("out", "out.onnx", "out.html", "out.json", "out.csv", "out.mp4", "out.trt", "out.jsonl", "out.png")
# Files of every kind that OpenCV, Pillow and FFmpeg read, and where they are read.
PICTURES = (
    "a.jpg",
    "a.png",
    "a.webp",
    "a.bmp",
    "a.tiff",
    "a.gif",
    "deep.png",
    "grey.png",
    "clip.mp4",
    "clip.avi",
    "clip.gif",
)
PICTURE_VERBS = (
    ("predict", "good.onnx", "{}"),
    ("predict", "good.onnx", "{}", "--json", "-"),
    ("predict", "good.onnx", "{}", "p.jpg", "--save", "out", "--jsonl", "out.jsonl"),
    ("predict", "good.onnx", "{}", "--save", "out.mp4"),
    ("predict", "good.onnx", ".", "--csv", "out.csv", "--strict"),
    ("compare", "good.onnx", "good.onnx", "--images", "{}"),
    ("quantize", "good.onnx", "-o", "out.onnx", "--images", "{}", "--max-images", "2"),
    ("bench", "good.onnx", "--images", "{}", "--duration", "0.01", "--iterations", "1", "--end-to-end"),
)


class Seeds:
    """The good files, made once by the command line itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for command in (
            ["export", "demo", "-o", "good.onnx", "--conf", "0.05", "--imgsz", "160"],
            ["export", "demo", "-o", "trt.onnx", "--backend", "tensorrt", "--imgsz", "160"],
            ["synthesize", "people", "--count", "2"],
            ["synthesize", "clip.mp4", "--count", "6"],
            ["quantize", "good.onnx", "-o", "int8.onnx", "--images", "random", "--cache", "cache.json"],
            ["quantize", "good.onnx", "-o", "half.onnx", "--precision", "fp16"],
            ["calibration", "export", "cache.json", "-o", "cache.trt", "--tensorrt", "10.3.0"],
        ):
            made = run(Case("seed", command, folder, ("",)))
            if made.code:
                raise RuntimeError(f"{' '.join(command)}: {made.stderr}")
        self._pictures()
        self._checkpoints()

    def _pictures(self) -> None:
        from PIL import Image

        photograph = next((self.folder / "people").rglob("*.jpg"), None) or next(
            (self.folder / "people").rglob("*.png")
        )
        image = Image.open(photograph).convert("RGB").resize((200, 160))
        image.save(self.folder / "p.jpg")
        for name in ("a.jpg", "a.png", "a.webp", "a.bmp", "a.tiff", "a.gif"):
            image.save(self.folder / name)
        image.convert("I;16").save(self.folder / "deep.png")
        image.convert("L").save(self.folder / "grey.png")
        turned = [image.rotate(angle) for angle in range(0, 60, 10)]
        image.save(self.folder / "clip.gif", save_all=True, append_images=turned)
        import av

        with av.open(str(self.folder / "clip.avi"), "w") as container:
            stream = container.add_stream("mjpeg", 10)
            stream.width, stream.height, stream.pix_fmt = 200, 160, "yuvj420p"
            for turn in turned:
                container.mux(stream.encode(av.VideoFrame.from_image(turn)))
            container.mux(stream.encode())

    def _checkpoints(self) -> None:
        """Copies the packaged weights as safetensors, and as the two formats of torch.save."""
        child = os.fork()
        if child == 0:
            import safetensors.torch
            import torch

            torch.set_num_threads(1)
            from trt_pose import models

            model = models.get("demo")
            model.export(self.folder / "raw.onnx", input_image_shape=160, postprocessing=False)
            state = model.state_dict()
            safetensors.torch.save_file(
                {name: value.contiguous() for name, value in state.items()}, self.folder / "w.safetensors"
            )
            torch.save({"net": state}, self.folder / "w.pth")
            torch.save({"net": state}, self.folder / "old.pth", _use_new_zipfile_serialization=False)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("the checkpoints could not be written")

    def copy(self, folder: Path, *names: str) -> None:
        for name in names:
            source, target = self.folder / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)

    def annotations(self, folder: Path) -> str:
        """Copies the pictures to ``pictures`` and returns their annotations."""
        found = next((self.folder / "people").rglob("*.json"))
        shutil.copytree(self.folder / "people", folder / "pictures", dirs_exist_ok=True)
        return found.read_text()


def _with_onnx(folder: Path, seeds: Seeds, rng: random.Random, data: bytes, kind: str) -> Case:
    command = rng.choice(ONNX_VERBS)
    seeds.copy(folder, "good.onnx", "p.jpg", *(["cache.trt"] if "cache.trt" in command else []))
    (folder / "m.onnx").write_bytes(data)
    if "c.json" in command:
        (folder / "c.json").write_text(seeds.annotations(folder))
    return Case(kind, list(command), folder, OUTPUTS)


def onnx_bytes(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """A file cut, flipped, shifted or holed."""
    data = (seeds.folder / rng.choice(("good.onnx", "int8.onnx", "half.onnx", "trt.onnx", "raw.onnx"))).read_bytes()
    return _with_onnx(folder, seeds, rng, mutations.damage(data, rng), "onnx bytes")


def onnx_graph(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """A valid protobuf whose graph, metadata or description is wrong."""
    data = (
        seeds.folder / rng.choice(("good.onnx", "good.onnx", "int8.onnx", "half.onnx", "trt.onnx", "raw.onnx"))
    ).read_bytes()
    return _with_onnx(folder, seeds, rng, mutations.damage_graph(data, rng), "onnx graph")


def engine(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """An engine file of made-up bytes, and a description beside it."""
    seeds.copy(folder, "good.onnx", "p.jpg")
    header = b"ftrt" + bytes(20) if rng.random() < 0.5 else b"ptrt" + rng.randbytes(20)
    data = header + rng.randbytes(2000)
    (folder / "m.engine").write_bytes(mutations.damage(data, rng) if rng.random() < 0.5 else data)
    from trt_pose.files import file_sha256
    from trt_pose.runtime.onnx_file import read_metadata
    from trt_pose.spec import ModelSpec
    from trt_pose.trt.sidecar import Sidecar

    spec = ModelSpec.from_metadata(read_metadata(seeds.folder / "trt.onnx"))
    sidecar = Sidecar(
        spec,
        file_sha256(folder / "m.engine"),
        len(data),
        "",
        "tensorrt",
        "10.3.0",
        {"name": "x", "compute_capability": "8.6"},
        options={"version_compatible": rng.random() < 0.5, "plugins_to_serialize": ["x"] * (rng.random() < 0.5)},
        elements=dict.fromkeys(("input", *spec.output.names), "float32"),
    )
    text = sidecar.to_json()
    (folder / "m.engine.json").write_bytes(
        (mutations.damage_json(text, rng) if rng.random() < 0.9 else text).encode("utf-8", "surrogateescape")
    )
    command = rng.choice(ENGINE_VERBS)
    if "c.json" in command:
        (folder / "c.json").write_text(seeds.annotations(folder))
    return Case("engine and description", list(command), folder, OUTPUTS)


def calibration(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """A damaged cache, of ours or TensorRT's."""
    seeds.copy(folder, "good.onnx", "p.jpg", "cache.json", "cache.trt")
    if rng.random() < 0.6:
        text = mutations.damage_json((folder / "cache.json").read_text(), rng)
        (folder / "cache.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        command = rng.choice(
            (
                ["quantize", "good.onnx", "-o", "out.onnx", "--images", "random", "--cache", "cache.json"],
                ["calibration", "export", "cache.json", "-o", "out.trt", "--tensorrt", "10.3.0"],
            )
        )
        return Case("calibration cache", command, folder, (*OUTPUTS, "cache.json"))
    (folder / "cache.trt").write_bytes(mutations.damage((folder / "cache.trt").read_bytes(), rng))
    command = ["calibration", "import", "cache.trt", "--onnx", "good.onnx", "-o", "out.json"]
    return Case("calibration cache", command, folder, OUTPUTS)


def labels(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """COCO annotations with wrong values."""
    seeds.copy(folder, "good.onnx")
    text = mutations.damage_json(seeds.annotations(folder), rng)
    (folder / "c.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    command = rng.choice(
        (
            ["eval", "good.onnx", "--data", "c.json", "--images", "pictures"],
            ["eval", "good.onnx", "--data", "c.json", "--images", "pictures", "--json", "--report", "out.json"],
            [
                "train",
                "--model",
                "demo",
                "--data",
                "c.json",
                "--images",
                "pictures",
                "-o",
                "out",
                "--epochs",
                "1",
                "--batch",
                "2",
                "--imgsz",
                "64",
                "--workers",
                "0",
                "--val-synthetic",
                "1",
            ],
        )
    )
    return Case("annotations", command, folder, OUTPUTS)


def checkpoint(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """A damaged checkpoint, of each format."""
    name = rng.choice(("w.pth", "old.pth", "w.safetensors"))
    (folder / name).write_bytes(mutations.damage((seeds.folder / name).read_bytes(), rng))
    command = rng.choice(
        (
            ["export", "demo", "--weights", name, "-o", "out.onnx", "--imgsz", "64"],
            ["eval", name, "--model", "demo", "--synthetic", "1"],
        )
    )
    return Case("checkpoint", command, folder, OUTPUTS)


def picture(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """A damaged image or video, by any name."""
    name = rng.choice(PICTURES)
    seeds.copy(folder, "good.onnx", "p.jpg")
    data = mutations.damage((seeds.folder / name).read_bytes(), rng)
    called = rng.choice(
        (
            name,
            name,
            "x" + rng.choice((".jpg", ".png", ".mp4", ".ts", "", ".txt", ".tif")),
            "é\x1b[31m" + name,
            "l" * 240 + Path(name).suffix,
        )
    )
    (folder / called).write_bytes(data)
    command = [word.format(called) for word in rng.choice(PICTURE_VERBS)]
    return Case("picture or video", command, folder, OUTPUTS)


def special(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """A source, a model or an output that is a link, a folder, a device, a pipe, or nothing."""
    seeds.copy(folder, "good.onnx", "p.jpg")
    odd = folder / "odd.onnx"
    kind = rng.randrange(7)
    if kind == 0:
        odd.symlink_to("/dev/zero")
    elif kind == 1:
        os.mkfifo(odd)
    elif kind == 2:
        odd.mkdir()
    elif kind == 3:
        odd.symlink_to("odd.onnx")
    elif kind == 4:
        odd.symlink_to("/dev/null")
    elif kind == 5:
        odd.write_bytes(b"")
    command = rng.choice(
        (
            ["predict", "odd.onnx", "p.jpg"],
            ["predict", "good.onnx", "odd.onnx"],
            ["predict", "good.onnx", "p.jpg", "--json", "odd.onnx"],
            ["inspect", "odd.onnx"],
            ["doctor", "odd.onnx"],
            ["quantize", "odd.onnx", "-o", "out.onnx", "--precision", "fp16"],
            ["quantize", "good.onnx", "-o", "odd.onnx", "--precision", "fp16"],
            ["compare", "good.onnx", "odd.onnx", "--images", "p.jpg"],
            ["eval", "good.onnx", "--data", "odd.onnx", "--images", "."],
            ["export", "demo", "--weights", "odd.onnx", "-o", "out.onnx"],
            ["attach", "odd.onnx", "-o", "out.onnx"],
            ["predict", "good.onnx", "p.jpg", "--save", "odd.onnx"],
            ["bench", "odd.onnx"],
            ["bench", "good.onnx", "--save", "odd.onnx", "--duration", "0.01"],
            ["quantize", "good.onnx", "-o", "out.onnx", "--images", "odd.onnx"],
            ["quantize", "good.onnx", "-o", "out.onnx", "--images", "random", "--cache", "odd.onnx"],
        )
    )
    outputs = OUTPUTS if odd.is_file() else (*OUTPUTS, "odd.onnx")
    return Case("special file", command, folder, outputs, replaces="odd.onnx" if "-o" in command else "")


def options(folder: Path, seeds: Seeds, rng: random.Random) -> Case:
    """An option with a value that is no number, or far out of bounds."""
    seeds.copy(folder, "good.onnx", "p.jpg")
    commands: tuple[tuple[list[str], tuple[str, ...]], ...] = (
        (
            ["predict", "good.onnx", "p.jpg"],
            ("--conf", "--batch", "--threads", "--vid-stride", "--provider", "--precision"),
        ),
        (
            ["export", "demo", "-o", "out.onnx"],
            (
                "--imgsz",
                "--batch",
                "--conf",
                "--iou",
                "--max-det",
                "--pre-nms",
                "--joints",
                "--classes",
                "--opset",
                "--device",
                "--weights",
                "--input-dtype",
                "--pad-value",
            ),
        ),
        (
            ["quantize", "good.onnx", "-o", "out.onnx", "--images", "p.jpg"],
            ("--max-images", "--percentile", "--method", "--include"),
        ),
        (
            ["bench", "good.onnx", "--duration", "0.01", "--iterations", "1", "--warmUp", "0"],
            ("--avgRuns", "--percentile", "--infStreams", "--batch", "--threads", "--loadInputs"),
        ),
        (["eval", "good.onnx", "--synthetic", "1"], ("--conf", "--seed", "--worst", "--synthetic", "--scene")),
        (["compare", "good.onnx", "good.onnx", "--images", "p.jpg"], ("--conf", "--max-oks-loss")),
        (
            ["deploy", "triton", "good.onnx", "-o", "out"],
            ("--name", "--max-batch", "--delay-us", "--instances", "--gpus", "--threads", "--plugins", "--triton"),
        ),
        (["synthesize", "out", "--count", "1"], ("--count", "--seed", "--imgsz", "--size")),
        (["predict", "good.onnx"], ("",)),
    )
    command, names = rng.choice(commands)
    name, value = (
        rng.choice(names),
        rng.choice((*mutations.NUMBERS, "\x1b[31mx", "a" * 300, "http://[bad", "rtsp://127.0.0.1:1/x")),
    )
    # A large but legal amount of work is no fault.
    if (name, value) in {("--synthetic", "1e9"), ("--count", "1e9")} or (
        name in ("--synthetic", "--count", "--infStreams") and len(value) > 4
    ):
        value = "-5"
    return Case("option", [*command, *([name] if name else []), value], folder, OUTPUTS)


KINDS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (onnx_bytes, onnx_graph, engine, calibration, labels, checkpoint, picture, special, options)
}


def draw(number: int, seed: int, folder: Path, seeds: Seeds, kinds: tuple[str, ...] = ()) -> Case:
    """Returns case ``number`` of a seed; the same for the same numbers."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311
    folder.mkdir()
    return KINDS[rng.choice(kinds or tuple(KINDS))](folder, seeds, rng)
