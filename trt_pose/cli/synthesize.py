"""``trt-pose synthesize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import SceneName
from ..documents import to_json
from .app import TRAIN, Command, Json, Scene, app, in_range


@app.command(cls=Command, rich_help_panel=TRAIN, epilog="trt-pose synthesize pictures/ --count 60 --seed 1")
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Folder for the images and annotations.json.")],
    count: Annotated[int, typer.Option(callback=in_range(1), help="Number of images.")] = 100,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    scene: Scene = SceneName.SPARSE,
    json: Json = False,
) -> None:
    """Write synthetic images of people with COCO annotations, for tests without a data set."""
    written = synthesize_people(count, seed, scene, folder)
    print(to_json({"annotations": str(written), "images": count}) if json else f"{written}: {count} images")


def synthesize_people(count: int, seed: int, scene: str, folder: Path) -> Path:
    """Writes the images and annotations; returns the path of the annotations."""
    from ..images.synthetic import SyntheticPeople, find_scene, write_coco

    return write_coco(SyntheticPeople(count, seed=seed, scene=find_scene(scene)), folder)
