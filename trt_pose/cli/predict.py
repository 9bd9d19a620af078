"""``trt-pose predict``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from ..choices import Tracker
from ..errors import SourceError, UsageError
from ..tasks import find_task
from .app import RUN, Command, HostCode, Provider, app, gone, in_range, print_table, say
from .large_jobs import LargeJob

if TYPE_CHECKING:
    from ..images.reading import Unreadable
    from ..predictor import PosePredictor
    from ..results.detections import Result
    from ..results.poses import PoseResult
    from ..results.sinks import Outputs, Records

_OUT, _IN, _MANY = "Output", "Sources", "Large jobs"


def _allow_pixels(param: typer.CallbackParam, value: int | None) -> int | None:
    from ..images.pixels import allow_pixels

    if in_range(1)(param, value) is not None and value is not None:
        allow_pixels(value)
    return value


@app.command(
    cls=Command,
    rich_help_panel=RUN,
    epilog="""trt-pose predict pose.onnx photo.jpg --save drawn/
trt-pose predict pose.engine photos/ more/*.jpg --json poses.json
trt-pose predict pose.onnx clip.mp4 --save clip_poses.mp4 --jsonl poses.jsonl
trt-pose predict pose.onnx clip.mp4 --track --save drawn/ --csv tracks.csv
trt-pose predict pose.engine photos/ --device 0,1 --jsonl poses.jsonl --shard 3/8 --resume
trt-pose predict demo photo.jpg
trt-pose predict pose.onnx 0 --show""",
)
def predict(
    model: Annotated[str, typer.Argument(help="An exported .onnx file, an engine, or the name of a model.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders, glob patterns, videos, URLs, a .txt list of these, - for standard input, or a"
            " camera number."
        ),
    ],
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            rich_help_panel=_OUT,
            help="Folder for the drawn pictures and videos; or one .mp4, .mov, .mkv, or picture.",
        ),
    ] = None,
    save_frames: Annotated[
        bool, typer.Option("--save-frames", rich_help_panel=_OUT, help="Save the frames of videos as pictures.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_OUT, help="Write the poses as JSON; - is standard output."),
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_OUT, help="Write one JSON object a line, as results come."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=_OUT, help="Write one row for each prediction.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(rich_help_panel=_OUT, help="Replace files that are there already.")
    ] = False,
    show: Annotated[bool, typer.Option(rich_help_panel=_OUT, help="Open each drawn image.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", rich_help_panel=_OUT, help="Print a table for each image.")
    ] = False,
    recursive: Annotated[
        bool, typer.Option(rich_help_panel=_IN, help="Read the folders within a folder, too.")
    ] = False,
    vid_stride: Annotated[
        int, typer.Option("--vid-stride", callback=in_range(1), rich_help_panel=_IN, help="Take each n-th frame.")
    ] = 1,
    track: Annotated[
        bool, typer.Option("--track", rich_help_panel=_IN, help="Follow people or objects from frame to frame.")
    ] = False,
    tracker: Annotated[
        Tracker | None, typer.Option(rich_help_panel=_IN, help="How to follow them.", show_default="bytetrack")
    ] = None,
    reconnect: Annotated[
        bool, typer.Option(rich_help_panel=_IN, help="Open streams and cameras again when they break off.")
    ] = False,
    strict: Annotated[
        bool, typer.Option(rich_help_panel=_IN, help="Stop at the first source that cannot be read.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            callback=_allow_pixels, rich_help_panel=_IN, help="Largest image to decode.", show_default="178956970"
        ),
    ] = None,
    conf: Annotated[
        float | None,
        typer.Option(callback=in_range(0, 1), help="Keep predictions with a higher score.", show_default="the file's"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(callback=in_range(1), help="Images per run of a file with a dynamic batch.", show_default="1"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(callback=in_range(1, 1024), help=".onnx files: threads.", show_default="one per core")
    ] = None,
    provider: Provider = None,
    precision: Annotated[
        str, typer.Option(metavar="NAME", help=".onnx files: fp32, or bf16 with OpenVINO on CPUs that have it.")
    ] = "fp32",
    host_code: HostCode = False,
    workers: Annotated[
        int | None,
        typer.Option(
            callback=in_range(1, 256),
            rich_help_panel=_MANY,
            help="Processes, each with the model and a share of the cores.",
            show_default="1",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="I|I,J,…",
            rich_help_panel=_MANY,
            help="Engines: GPUs, with a process each.",
            show_default="0",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", rich_help_panel=_MANY, help="Take the I-th of N shares of the sources, from 1."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", rich_help_panel=_MANY, help="Go on with the --jsonl file of an interrupted run."),
    ] = False,
    half: Annotated[str | None, gone("--half", "the precision is the file's. Make one with trt-pose quantize.")] = None,
) -> None:
    """Find the people, or objects, in images and videos.

    A source that cannot be read does not end the run: it is named, and the exit code is 1.
    """
    from ..images.draw import check_viewer

    options: dict[str, Any] = {"threads": threads, "providers": provider}
    if precision != "fp32":
        options["precision"] = precision
    if resume and (jsonl is None or str(jsonl) == "-" or json is not None or csv is not None):
        raise UsageError("--resume: it goes on with the file of --jsonl. Name one, and leave --json and --csv out.")
    large = LargeJob(model, workers, device, shard, jsonl if resume else None)
    if large.processes == 1 and large.devices:
        options["device"] = large.devices[0]
    run = _Run(verbose, quiet=any(str(path) == "-" for path in (json, jsonl, csv)))
    if show:
        check_viewer()  # before anything is done, not at the first picture
    streaming: dict[str, Any] = {
        "batch_size": batch, "on_error": "raise" if strict else "yield", "recursive": recursive,
        "vid_stride": vid_stride, "reconnect": reconnect, "track": str(tracker) if tracker else track,
    }  # fmt: skip
    with _open(model, conf, options) as predictor:
        chosen = large.choose(sources, recursive)
        if chosen == []:
            say("nothing is left to do", sys.stderr)
            return
        if large.processes > 1:
            predictor.close()  # it has shown that the file fits; each process opens its own
            from ..workers import Job

            job = Job(model, chosen, {**options, "conf": conf}, streaming, bool(save or show), max_pixels)
            results = large.stream(job)
        else:
            results = predictor.stream(chosen, progress=True, **streaming)
        records = {"json": json, "jsonl": jsonl, "csv": csv}
        read = [Path(model), *_files(sources, recursive)] if save or any(records.values()) else []
        outputs = _outputs(_Drawn(save, save_frames, overwrite), records, read, resume)
        with outputs, closing(cast("Generator[Any]", results)):
            run.follow(results, outputs, show)
    run.end(outputs, predictor.spec.task, predictor.runtime)


class _Drawn(NamedTuple):
    """Where drawings go, and whether files may be replaced."""

    path: Path | None
    frames: bool
    overwrite: bool


def _outputs(drawn: _Drawn, records: dict[str, Path | None], read: list[Path], resume: bool) -> Outputs:
    """Opens the outputs of a run; all are checked before the first is made."""
    from ..results.sinks import CsvFile, Drawings, JsonFile, JsonLines, Outputs, check_new, resolved

    kinds: dict[str, Callable[..., Records]] = {
        "json": JsonFile,
        "jsonl": partial(JsonLines, resume=resume),
        "csv": CsvFile,
    }
    files = [(path, kinds[name]) for name, path in records.items() if path]
    drawings = None
    if drawn.path:
        drawings = Drawings(drawn.path, frames=drawn.frames, overwrite=drawn.overwrite, sources=read)
    taken = resolved(read)
    for path, _ in files:
        check_new(path, drawn.overwrite or resume, taken)
    return Outputs(drawings, [kind(path, overwrite=drawn.overwrite) for path, kind in files])


def _files(texts: list[str], recursive: bool) -> list[Path]:
    """The files among the sources, as far as they are known before they are read."""
    from ..images.sources import find_images

    files: list[Path] = []
    for text in texts:
        try:
            files += find_images(text, recursive) or [Path(text)]
        except (SourceError, OSError, ValueError):  # said when it is opened
            continue
    return files


def _open(model: str, conf: float | None, options: dict[str, Any]) -> PosePredictor:
    from ..choices import Models
    from ..predictor import PosePredictor

    if model not in {str(name) for name in Models} or Path(model).exists():
        return PosePredictor(model, conf=conf, **options)
    from ..evaluation import open_predictor

    return open_predictor(model, None, 0.5 if conf is None else conf, options)


class _Run:
    """What a run says: a line for each image, and a summary."""

    def __init__(self, verbose: bool, quiet: bool) -> None:
        self._verbose, self._quiet = verbose, quiet
        self._images = self._predictions = 0
        self._failures: list[Unreadable] = []
        self._said = 0  # failures that were written
        self._ms: Counter[str] = Counter()

    def found(self, result: Result) -> None:
        self._say()
        self._images += 1
        self._predictions += len(result)
        self._ms.update(result.speed)
        if self._quiet:
            return
        say(f"{result.origin}: {result.prediction.count_text()}")
        if self._verbose:
            _print_table(result)

    def follow(self, results: Iterable[Result | Unreadable], outputs: Outputs, show: bool) -> None:
        """Writes, says and shows results as they come."""
        from ..images.reading import Unreadable

        for item in results:
            outputs.write(item)
            if isinstance(item, Unreadable):
                self.failed(item)
                continue
            self.found(item)
            if show:
                item.show()

    def failed(self, item: Unreadable) -> None:
        self._say()
        self._failures.append(item)

    def _say(self) -> None:
        """Writes the failures; the last one waits, because alone it is the error of the run."""
        for item in self._failures[self._said :]:
            say(f"warning: {item.error}", sys.stderr, lines=False)
        self._said = len(self._failures)

    def end(self, outputs: Outputs, task: str, runtime: str) -> None:
        """Writes the summary to standard error. Raises SourceError when a source could not be read."""
        if len(self._failures) == 1 and not self._images:
            raise self._failures[0].error
        self._say()
        if self._images:
            steps = ", ".join(f"{ms / self._images:.3g} ms {step}" for step, ms in self._ms.items())
            places = f"; saved to {outputs.drawings}" if outputs.drawings else ""
            found = find_task(task).count(self._predictions)
            images = f"{self._images} image{'s' * (self._images != 1)}"
            say(f"{images}, {found}; each {steps}; by {runtime}{places}", sys.stderr)
        if self._failures:
            total = self._images + len(self._failures)
            of = f" of {total}" if all("#" not in item.source for item in self._failures) else ""
            raise SourceError(
                f"predicting: {len(self._failures)}{of} could not be read, or not to the end: "
                + ", ".join(item.source for item in self._failures[:3])
                + (", …" if len(self._failures) > 3 else "")
                + ". The rest is done."
            )


def _print_table(result: Result) -> None:
    from ..results.detections import DetectionResult

    if not isinstance(result, DetectionResult):
        _print_poses(result)
        return
    objects = result.detections
    rows = [
        (str(number), name, f"{score:.3f}", ", ".join(f"{side:.0f}" for side in box))
        for number, (name, score, box) in enumerate(zip(objects.names, objects.scores, objects.boxes, strict=True))
    ]
    if rows:
        print_table(("#", "class", "score", "box x1, y1, x2, y2"), rows)


def _print_poses(result: PoseResult) -> None:
    rows = []
    for number, pose in enumerate(result.poses):
        x1, y1, x2, y2 = pose.boxes[0]
        best = pose.joints[0, :, 2].argsort()[::-1][:3]
        seen = ", ".join(
            f"{pose.skeleton.names[i]} ({pose.joints[0, i, 0]:.0f}, {pose.joints[0, i, 1]:.0f})" for i in best
        )
        box = f"{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}"
        rows.append((str(number), f"{pose.scores[0]:.3f}", box, str(int((pose.joints[0, :, 2] > 0.5).sum())), seen))
    if rows:
        print_table(("#", "score", "box x1, y1, x2, y2", "joints > 0.5", "surest joints"), rows)
