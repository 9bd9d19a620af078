"""Reports of a measurement: lines like trtexec's, JSON, CSV and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..documents import to_json
from ..errors import SourceError
from ..files import check_writable, write_atomically
from ..optional import check_installed
from ..runtime.runner import QueryTimes
from .figures import Figures, Ratio
from .options import BenchOptions

# Fields of QueryTimes with trtexec's names, in trtexec's order.
ROWS = {
    "latency_ms": "Latency",
    "enqueue_ms": "Enqueue Time",
    "h2d_ms": "H2D Latency",
    "compute_ms": "GPU Compute Time",
    "d2h_ms": "D2H Latency",
}


@dataclass(frozen=True)
class FileReport:
    """The results of one file.

    Attributes:
        file: path.
        model: model name.
        precision: precision of the file.
        runtime: name and version of the runtime.
        batch: images per query.
        queries: number of measured queries.
        walltime_s: duration of the measurement without the turns of other files, s.
        times: figures by field of QueryTimes; stages the runner does not have are absent.
        stages: end-to-end figures per image by stage; empty unless requested.
        detections: mean number of detections per query; None when not known.
        candidates: mean number of candidates per query; None when not known.
        streamed_per_s: images per second of a predictor, whose stages overlap; None unless requested.
        ratio: ratio of the latency to that of the first file; None for the first file.
        every: times of every query, for histograms and ``--exportTimes``.
        beside: summary that trtexec printed for the same plan; None unless requested.
    """

    file: str
    model: str
    precision: str
    runtime: str
    batch: int
    queries: int
    walltime_s: float
    times: Mapping[str, Figures]
    stages: Mapping[str, Figures]
    detections: float | None
    candidates: float | None
    streamed_per_s: float | None = None
    ratio: Ratio | None = None
    every: Sequence[QueryTimes] = field(default_factory=tuple, repr=False)
    beside: Mapping[str, str] | None = None

    @property
    def queries_per_s(self) -> float:
        return self.queries / self.walltime_s

    @property
    def images_per_s(self) -> float:
        return self.queries_per_s * self.batch

    def lines(self) -> list[str]:
        detections = "" if self.detections is None else f", {self.detections:.1f} detections"
        worked = "" if self.candidates is None else f" of {self.candidates:.1f} candidates above the threshold"
        lines = [
            f"=== {self.file}: {self.model} in {self.precision}, {self.runtime}",
            f"Input: {self.batch} images per query{detections}{worked}",
            f"Throughput: {self.queries_per_s:.5g} qps, {self.images_per_s:.5g} images/s",
        ]
        if "enqueue_ms" in self.times:
            lines.append("In flight: one query per stream, as in trtexec with --exposeDMA; without it, two")
        lines += [f"{ROWS[name]}: {figures}" for name, figures in self.times.items()]
        lines.append(f"Total Host Walltime: {self.walltime_s:.4g} s")
        total = sum(figures.mean for figures in self.stages.values())
        for name, figures in self.stages.items():
            lines.append(f"End to end, {name}: {figures.mean / total:6.1%} of the time; {figures}")
        if self.stages:
            lines.append(
                f"End to end, one image at a time: {1e3 / total:.5g} images/s, mean = {total:.4g} ms per image"
            )
        if self.streamed_per_s is not None:
            lines.append(f"End to end, streaming: {self.streamed_per_s:.5g} images/s")
        if self.ratio is not None:
            lines.append(f"Latency relative to the first file: {self.ratio}")
        lines += [f"trtexec (on noise of its own), {name}: {value}" for name, value in (self.beside or {}).items()]
        return lines

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "file": self.file,
            "model": self.model,
            "precision": self.precision,
            "runtime": self.runtime,
            "batch": self.batch,
            "queries": self.queries,
            "queries_per_s": self.queries_per_s,
            "images_per_s": self.images_per_s,
            "walltime_s": self.walltime_s,
            "detections": self.detections,
            "candidates": self.candidates,
            **{name: figures.to_dict() for name, figures in self.times.items()},
        }
        if self.stages:
            record["stages_ms"] = {name: figures.to_dict() for name, figures in self.stages.items()}
            record["streamed_per_s"] = self.streamed_per_s
        if self.ratio is not None:
            record["ratio"] = asdict(self.ratio)
        if self.beside is not None:
            record["trtexec"] = dict(self.beside)
        return record


@dataclass(frozen=True)
class BenchReport:
    """The results of all files of one run.

    Attributes:
        machine: see :func:`trt_pose.benchmark.machine.machine`.
        settings: the options of the run.
        headline: one line that states the settings.
        files: one report per file.
    """

    machine: Mapping[str, Any]
    settings: BenchOptions
    headline: str
    files: tuple[FileReport, ...]

    def __str__(self) -> str:
        return "\n".join([self.headline, *(line for item in self.files for line in ("", *item.lines()))])

    def to_json(self) -> str:
        return to_json(
            {
                "machine": dict(self.machine),
                "settings": self.settings.to_dict(),
                "files": [item.to_dict() for item in self.files],
            }
        )

    def to_csv(self) -> str:
        """Returns CSV with one line per file; columns without any value are left out."""
        rows = [_flat(item.to_dict()) for item in self.files]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def times_json(self) -> str:
        """Returns JSON with the times of every query, ms, with the names of trtexec's ``--exportTimes``.

        Start and end times count from the first query of the file. With several files each row names its file.
        """
        rows = []
        for item in self.files:
            begin = min(query.start_s for query in item.every)
            for query in item.every:
                own = {} if len(self.files) == 1 else {"file": item.file}
                rows.append({**own, **_times(query, begin)})
        return to_json(rows)

    def save(self, path: str | Path) -> Path:
        """Writes the report as JSON, CSV or a plot, depending on the suffix ``.json``, ``.csv`` or ``.png``.

        Raises:
            SourceError: another suffix, or the file cannot be written.
            MissingDependencyError: a plot was requested, but matplotlib is not installed.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        check_savable(path)
        if suffix == ".png":
            return _draw(self, path)
        text = self.to_json() if suffix == ".json" else self.to_csv()
        return write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"), SourceError)


def check_savable(path: str | Path) -> None:
    """Raises the errors of :meth:`BenchReport.save`, to be called before the measurement."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".csv", ".png"):
        raise SourceError(f"writing {path}: got the suffix {suffix or 'none'!r}, expected .json, .csv or .png.")
    if suffix == ".png":
        check_installed("matplotlib", doing="drawing the benchmark")
    check_writable(path, SourceError)


def _times(query: QueryTimes, begin: float) -> dict[str, float]:
    record = {"startComputeMs": (query.start_s - begin) * 1e3, "endComputeMs": (query.end_s - begin) * 1e3}
    for name, value in (("h2dMs", query.h2d_ms), ("d2hMs", query.d2h_ms), ("enqueueMs", query.enqueue_ms)):
        if value is not None:
            record[name] = value
    return {**record, "computeMs": query.compute_ms, "latencyMs": query.latency_ms}


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        elif value is not None:
            flat[prefix + name] = value
    return flat


def _draw(report: BenchReport, path: Path) -> Path:
    """Draws histograms of the latency with median and percentiles, and the end-to-end stages as bars."""
    from matplotlib.figure import Figure

    staged = [item for item in report.files if item.stages]
    figure = Figure(figsize=(9, 4 * (1 + bool(staged))), layout="constrained")
    axes = figure.subplots(1 + bool(staged), squeeze=False)[:, 0]
    for item in report.files:
        _draw_latency(axes[0], item)
    axes[0].set(xlabel="latency, ms (median solid, percentiles dotted)", ylabel="queries")
    axes[0].legend(fontsize=8)
    if staged:
        _draw_stages(axes[1], staged)
    return write_atomically(path, lambda target: figure.savefig(target, format="png", dpi=120), SourceError)


def _draw_latency(axes: Any, item: FileReport) -> None:
    latency = item.times["latency_ms"]
    label = f"{Path(item.file).name}, {item.runtime}: median {latency.median:.3g} ms"
    _, _, bars = axes.hist([query.latency_ms for query in item.every], bins=60, alpha=0.5, label=label)
    color = bars[0].get_facecolor()[:3]
    axes.axvline(latency.median, color=color)
    places: dict[float, list[str]] = {}
    for share, value in latency.percentiles.items():  # those of few queries are the same
        places.setdefault(round(value, 6), []).append(f"{share:g}")
    for level, (value, shares) in enumerate(places.items()):
        axes.axvline(value, color=color, linestyle=":")
        place = (value, 0.98 - 0.05 * level)
        axes.annotate(f" {', '.join(shares)} %", place, xycoords=("data", "axes fraction"), va="top", fontsize=7)


def _draw_stages(axes: Any, staged: Sequence[FileReport]) -> None:
    colors: dict[str, str] = {}
    longest = max(sum(figures.mean for figures in item.stages.values()) for item in staged)
    for row, item in enumerate(staged):
        left = 0.0
        for name, figures in item.stages.items():
            color = colors.setdefault(name, f"C{len(colors)}")
            bar = axes.barh(row, figures.mean, left=left, color=color, label=name if row == 0 else None)
            if figures.mean > 0.04 * longest:  # there is room for it
                axes.bar_label(bar, [f"{figures.mean:.2g}"], label_type="center", fontsize=7)
            left += figures.mean
        axes.text(left, row, f" {left:.3g} ms", va="center", fontsize=8)
    axes.set(xlabel="mean ms per image", yticks=range(len(staged)))
    axes.set_yticklabels([Path(item.file).name for item in staged])
    axes.invert_yaxis()  # the first file on top, as in the legend
    axes.margins(x=0.12)
    axes.legend(fontsize=8)
