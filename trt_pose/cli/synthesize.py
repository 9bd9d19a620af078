"""``trt-pose synthesize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import SceneName
from ..documents import to_json
from .app import TRAIN, Command, Json, Scene, app, in_range, say


@app.command(
    cls=Command,
    rich_help_panel=TRAIN,
    epilog="""trt-pose synthesize pictures/ --count 60 --seed 1
trt-pose synthesize walk.mp4 --count 250""",
)
def synthesize(
    output: Annotated[
        Path,
        typer.Argument(help="Folder for the images and annotations.json; or an .mp4 for a clip of people who walk."),
    ],
    count: Annotated[int, typer.Option(callback=in_range(1), help="Number of images, or frames.")] = 100,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    scene: Scene = SceneName.SPARSE,
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there already.")] = False,
    json: Json = False,
) -> None:
    """Write synthetic images of people with COCO annotations, for tests without a data set.

    The annotations of a clip lie beside it, with a track_id for each person.
    """
    written = synthesize_people(count, seed, scene, output, overwrite)
    say(to_json({"annotations": str(written), "images": count}) if json else f"{written}: {count} images")


def synthesize_people(count: int, seed: int, scene: str, output: Path, overwrite: bool = False) -> Path:
    """Writes the images or the clip, and the annotations; returns the path of the annotations."""
    from ..errors import SourceError
    from ..files import exclusive, make_folder
    from ..images.synthetic import SyntheticPeople, find_scene
    from ..images.synthetic_clip import SyntheticClip
    from ..images.synthetic_files import write_clip, write_coco
    from ..results.sinks import VIDEO_SUFFIXES, check_new

    chosen = find_scene(scene)
    if output.suffix.lower() not in VIDEO_SUFFIXES:
        check_new(output / "annotations.json", overwrite)
        with exclusive(make_folder(output, SourceError), SourceError):
            return write_coco(SyntheticPeople(count, seed=seed, scene=chosen), output)
    for path in (output, output.with_suffix(".json")):
        check_new(path, overwrite)
    return write_clip(SyntheticClip(count, seed=seed, scene=chosen), output)
