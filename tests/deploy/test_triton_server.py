"""A real tritonserver loads what is written, and answers with the poses of PosePredictor."""

import PIL.Image
import pytest

from trt_pose.deploy import TritonOptions, triton

from . import triton_server
from .engines import write_engine

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module")
def images(tmp_path_factory, photograph):
    """Pictures of several sizes and kinds."""
    folder, paths = tmp_path_factory.mktemp("images"), []
    for index, name in enumerate(("a.png", "b.jpg", "c.webp", "d.png")):
        path = folder / name
        PIL.Image.fromarray(photograph[index * 30 :, : 300 + 60 * index]).save(path)
        paths.append(str(path))
    return paths


def check(found, direct):
    """The server's answers are the predictor's results, exactly."""
    for answer, poses in zip(found, direct, strict=True):
        count = len(poses["scores"])
        assert count > 0
        assert answer["num_predictions"] == [[count]]
        for name in ("boxes", "scores", "joints"):
            assert answer[f"pred_{name}"][0] == poses[name]


@pytest.mark.parametrize(("kind", "batch"), [("onnx", 4), ("engine", 4), ("onnx", 1)])
def test_a_server_answers_with_the_poses_of_a_predictor(kind, batch, request, images, tmp_path):
    onnx = request.getfixturevalue("tiny_dynamic_onnx" if batch > 1 else "tiny_onnx")
    model = onnx if kind == "onnx" else write_engine(onnx, tmp_path / "pose.engine", most=batch)
    options = TritonOptions(max_batch=batch if kind == "onnx" and batch > 1 else None, delay_us=50_000)
    made = triton(model, tmp_path / "server", options)
    models = made.folder / "models"
    with triton_server.serving(models, tmp_path) as addresses:
        found = triton_server.ask(
            tmp_path, name="pose", model=str(onnx), images=images, models=str(models), batch=batch, **addresses
        )
        client = (made.folder / "client.py").read_text().replace("localhost:8000", addresses["http"])
        printed = triton_server.run(tmp_path, "-c", client, *images).splitlines()
    assert [line for line in printed if " people" in line] == [
        f"{path}: {len(poses['scores'])} people" for path, poses in zip(images, found["direct"], strict=True)
    ]
    for protocol in ("http", "grpc"):
        check(found[protocol], found["direct"])
    assert found["http refusal"].startswith("400: ")
    assert found["grpc refusal"].startswith("StatusCode.INVALID_ARGUMENT: ")
    for protocol in ("http", "grpc"):
        assert "not an image that Pillow can read" in found[f"{protocol} refusal"]
    assert found["config"]["platform"] == "ensemble"
    assert set(found["parsed"]) == {"pose", "pose_preprocess", "pose_network", "pose_postprocess"}
    assert any('model="pose_network"' in line and not line.endswith(" 0") for line in found["metrics"])
    if batch > 1:
        together = found["together"]
        assert together["num_predictions"] == [[len(poses["scores"])] for poses in found["direct"][:batch]]
        images_run, runs = found["many"]
        assert runs < images_run  # batches were formed


def test_a_configuration_that_does_not_fit_is_refused_by_the_server(tiny_dynamic_onnx, tmp_path):
    """The judge can say no."""
    made = triton(tiny_dynamic_onnx, tmp_path / "server", TritonOptions(pixels=True))
    path = made.folder / "models/pose/config.pbtxt"
    path.write_text(path.read_text().replace("TYPE_INT64", "TYPE_INT32"))
    server = triton_server.serving(made.folder / "models", tmp_path)
    with pytest.raises(AssertionError, match="num_predictions"), server:
        pass
