"""Counts of the candidates above the threshold of a file, which are the input of its NMS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..graphs.file import load, read_spec
from ..graphs.surgery import extract_subgraph
from ..operators.contract import OPERATORS
from ..runtime.ort import OnnxRunner
from ..runtime.runner import Arrays

_SELECTIONS = {"NonMaxSuppression", *OPERATORS}


def count_candidates(path: str | Path, feeds: Iterable[Arrays]) -> list[int] | None:
    """Returns the number of NMS input scores above the file's threshold, per query.

    Returns None when the file has no threshold or not exactly one known NMS node.
    """
    proto = load(path)
    spec = read_spec(proto)
    nodes = [node for node in proto.graph.node if node.op_type in _SELECTIONS]
    threshold = spec.output.confidence_threshold
    if len(nodes) != 1 or threshold is None:
        return None
    scores = nodes[0].input[1]  # scores are the second input of every NMS operator
    with OnnxRunner(extract_subgraph(proto, [scores]).SerializeToString(), providers=["cpu"]) as runner:
        return [int((runner.run(feed)[scores] > np.float32(threshold)).sum()) for feed in feeds]
