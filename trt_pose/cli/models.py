"""``trt-pose models``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..documents import to_json
from .app import MAKE, Command, Json, app, print_table, say


@app.command(cls=Command, rich_help_panel=MAKE, epilog="trt-pose models\ntrt-pose models --json")
def models(
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of the README.")] = False,
) -> None:
    """List the models, with their input, published weights and licence."""
    from ..models.catalogue import MODELS

    if json:
        say(to_json([card.to_dict() for card in MODELS.values()]))
        return
    header = ("model", "task", "parameters", "GMACs at 640", "input", "weights", "licence of the weights")
    rows = [
        (
            card.name,
            card.task,
            f"{card.parameters / 1e6:.1f} M",
            f"{card.gmacs:.1f}",
            card.input,
            ", ".join(card.weights),
            card.licence,
        )
        for card in MODELS.values()
    ]
    if markdown:
        for row in (header, ("---",) * len(header), *rows):
            say(f"| {' | '.join(row)} |")
        return
    print_table(header, rows)
