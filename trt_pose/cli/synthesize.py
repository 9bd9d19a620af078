"""``trt-pose synthesize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Json, SceneName, app


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where to write the pictures and annotations.json.")],
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 100,
    seed: Annotated[int, typer.Option(help="Of everything in them.")] = 0,
    scene: SceneName = "sparse",
    json: Json = False,
) -> None:
    """Write pictures of articulated figures with COCO annotations: data where none can be fetched."""
    from ..documents import to_json

    written = synthesize_people(count, seed, scene, folder)
    print(to_json({"annotations": str(written), "images": count}) if json else f"{written}: {count} pictures")


def synthesize_people(count: int, seed: int, scene: str, folder: Path) -> Path:
    from ..images.synthetic import SyntheticPeople, find_scene, write_coco

    return write_coco(SyntheticPeople(count, seed=seed, scene=find_scene(scene)), folder)
