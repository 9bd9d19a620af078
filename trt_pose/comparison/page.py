"""A comparison as one HTML page: the verdict first, then the images that differ most, then all of them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ..images.pixels import Image
from ..results.detections import Result
from ..results.pairing import pair
from ..results.predictions import Predictions
from ..tasks import TASKS
from .result import Comparison, ImageComparison

_SHOWN_PX = 480
_MISSED, _EXTRA = (214, 40, 40), (230, 126, 0)  # RGB; the same as in _STYLE
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:68em;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.4em;margin-bottom:.2em}
.verdict{font-size:1.2em;padding:.8em 1em;margin:1em 0;border-left:.4em solid #777;background:#f3f3f3}
.verdict.pass{border-color:#2a8a3e;background:#eaf6ec}
.verdict.fail{border-color:#d62828;background:#fbeaea}
dl{display:grid;grid-template-columns:max-content auto;gap:.1em 1em;margin:1em 0}dt{color:#666}dd{margin:0}
figure{margin:1.5em 0;display:grid;grid-template-columns:1fr 1fr;gap:.3em .6em}
figure img{width:100%;display:block}figcaption{grid-column:1/3;font-weight:600}figure span{color:#666;font-size:.85em}
.missed{color:#d62828;font-weight:600}.extra{color:#e67e00;font-weight:600}
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #e5e5e5}
td:first-child,th:first-child{text-align:left}tr.differs td{background:#fff6e8}
"""


def write_page(
    result: Comparison, worst: Sequence[tuple[ImageComparison, Result, Result]], max_loss: float | None
) -> str:
    """Returns the page.

    Args:
        result: the comparison.
        worst: the images that differ most, with the results of both files.
        max_loss: the loss that is allowed, if there is a limit.
    """
    task = TASKS[result.task]
    names = [escape(Path(file).name) for file in (result.first, result.second)]
    title = f"{names[0]} and {names[1]}"
    legend = (
        f'<p><b class="missed">Red</b>: {task.many} that only {names[0]} finds.'
        f' <b class="extra">Orange</b>: {task.many} that only {names[1]} finds.</p>'
    )
    figures = "".join(_figure(row, a, b, names, task.similarity) for row, a, b in worst)
    head = "".join(f"<th>{escape(name)}</th>" for name in result.header[:-1])
    rows = "".join(_row(row) for row in result.images)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>{_verdict(result, max_loss)}{_facts(result)}"
        f"<h2>Images that differ most</h2>{legend}{figures}"
        f"<h2>All images</h2><table><tr>{head}</tr>{rows}</table>{_tensors(result)}</html>\n"
    )


def _verdict(result: Comparison, max_loss: float | None) -> str:
    task = TASKS[result.task]
    text = f"{task.similarity} loss {result.loss:.4f}"
    kind = ""
    if max_loss is not None:
        kind = " pass" if result.loss <= max_loss else " fail"
        text = f"{'Passed' if result.loss <= max_loss else 'Failed'}: {text}, at most {max_loss:g} allowed"
    return (
        f'<div class="verdict{kind}"><b>{text}.</b> {result.matched} of {result.found} {task.many} found by both,'
        f" {result.missed} missed, {result.extra} extra.</div>"
    )


def _facts(result: Comparison) -> str:
    task = TASKS[result.task]
    facts = {
        "reference": result.first,
        "compared": result.second,
        "images": str(len(result.images)),
        "scores above": f"{result.confidence:g}",
        f"{task.points} apart": f"{result.px_mean:.2f} px on average",
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


def _figure(row: ImageComparison, first: Result, second: Result, names: Sequence[str], similarity: str) -> str:
    pairs = pair(first.prediction, second.prediction)
    missed = np.setdiff1d(np.arange(len(first)), pairs[:, 0])
    extra = np.setdiff1d(np.arange(len(second)), pairs[:, 1])
    what = (
        f"{row.first} and {row.second} found, {row.missed} missed, {row.extra} extra, {similarity} {row.similarity:.3f}"
    )
    return (
        f"<figure><figcaption>{escape(Path(row.source).name)}: {what}</figcaption>"
        f"<div>{_picture(first, missed, _MISSED)}<span>{names[0]}</span></div>"
        f"<div>{_picture(second, extra, _EXTRA)}<span>{names[1]}</span></div></figure>"
    )


def _picture(result: Result, marked: npt.NDArray[np.intp], color: tuple[int, int, int]) -> str:
    """The drawn image as a tag; the predictions in rows ``marked`` have thick boxes."""
    drawn: Image = result.draw()
    boxes: Predictions = result.prediction
    height, width = drawn.shape[:2]
    edges, thickness = (width - 1, height - 1) * 2, max(2, round(max(height, width) / 160))
    for box in boxes.boxes[marked]:
        if np.isfinite(box).all():
            x1, y1, x2, y2 = (int(side) for side in np.clip(box, 0, edges))
            cv2.rectangle(drawn, (x1, y1), (x2, y2), color, thickness)
    scale = _SHOWN_PX / max(drawn.shape[:2])
    if scale < 1:
        drawn = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}">'


def _row(row: ImageComparison) -> str:
    kind = ' class="differs"' if row.missed or row.extra else ""
    cells = (
        Path(row.source).name, row.first, row.second, row.missed, row.extra, f"{row.px_mean:.2f}", f"{row.px_max:.2f}",
        f"{row.similarity:.4f}",
    )  # fmt: skip
    return f"<tr{kind}>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"


def _tensors(result: Comparison) -> str:
    if not result.noise_db:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{db:.1f}</td></tr>" for name, db in result.noise_db.items())
    return f"<h2>Tensors</h2><table><tr><th>tensor</th><th>signal to noise, dB</th></tr>{rows}</table>"
