"""``trt-pose models``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..documents import to_json
from .app import Json, app, print_table


@app.command()
def models(
    json: Json = False, markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False
) -> None:
    """List the models."""

    from ..models.catalogue import MODELS

    if json:
        print(to_json([card.to_dict() for card in MODELS.values()]))
        return
    rows = [
        (
            m.name, m.task, f"{m.parameters / 1e6:.1f} M", f"{m.gmacs:.1f}", m.input, ", ".join(m.weights),
            m.licence,
        )
        for m in MODELS.values()
    ]  # fmt: skip
    header = ("model", "task", "parameters", "GMACs at 640", "input", "weights", "licence of the weights")
    if markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)))
    else:
        print_table(header, rows)
