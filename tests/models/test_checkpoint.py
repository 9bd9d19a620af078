"""Weights files in all the shapes the reference's trainer and its users left them in."""

import pickle
import warnings

import numpy as np
import pytest
import torch

from trt_pose import CheckpointError, UsageError, models
from trt_pose.models import checkpoint

from ..conftest import make_model

NAME = "yolo_nas_pose_n"


@pytest.fixture(scope="module")
def model():
    return make_model(NAME)


@pytest.fixture(scope="module")
def other(model):
    return {key: torch.zeros_like(value) for key, value in model.state_dict().items()}


def save(record, path):
    torch.save(record, path)
    return path


SHAPES = {
    "plain": lambda state, other: state,
    "net": lambda state, other: {"net": state, "epoch": 3},
    "ema over net": lambda state, other: {"net": other, "ema_net": state},
    "state_dict": lambda state, other: {"state_dict": state},
    "module prefix": lambda state, other: {"net": {f"module.{key}": value for key, value in state.items()}},
    "half of it": lambda state, other: {"net": {k: v for k, v in state.items() if ".rbr_reparam." not in k}},
    "numpy scalars": lambda state, other: {
        "net": state,
        "acc": np.float64(0.5),
        "metrics": {"valid": {"AP": np.float32(0.25), "count": np.int64(3)}},
    },
}


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


SHAPES |= {
    "torch.compile": lambda state, other: prefixed("_orig_mod.", state),
    "compiled, then DataParallel": lambda state, other: {"model": prefixed("module._orig_mod.", state)},
    "DataParallel, then compiled": lambda state, other: {"model": prefixed("_orig_mod.module.", state)},
    "Lightning with a loss": lambda state, other: {
        "state_dict": {**prefixed("model.", state), "criterion.weight": torch.ones(3)}, "epoch": 3,
    },
    "Lightning around a compiled net": lambda state, other: {"state_dict": prefixed("model.net._orig_mod.", state)},
    "model and optimizer": lambda state, other: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "model_state_dict": lambda state, other: {"model_state_dict": state, "optimizer_state_dict": {}},
    "ema over model": lambda state, other: {"model": other, "ema": state},
    "two levels": lambda state, other: {"state": {"model": prefixed("module.", state)}, "step": 5},
    "AveragedModel": lambda state, other: {"n_averaged": torch.tensor(5), **prefixed("module.", state)},
    "FLOP counters": lambda state, other: {
        **state, "total_ops": torch.zeros(1), "backbone.total_params": torch.zeros(1),
    },
}  # fmt: skip


def test_the_error_names_what_was_taken_away(model, tmp_path):
    state = {key: value for key, value in model.state_dict().items() if "head1" not in key}
    path = save({"model": prefixed("module._orig_mod.", state)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"after taking model, module\., _orig_mod\. away: tensors \d+ missing"):
        models.get(NAME, checkpoint_path=path)


@pytest.mark.parametrize("shape", SHAPES)
def test_checkpoints_of_every_shape(model, other, tmp_path, shape):
    path = save(SHAPES[shape](model.state_dict(), other), tmp_path / "ckpt_best.pth")
    loaded = models.get(NAME, checkpoint_path=path)
    assert not loaded.training
    assert loaded.weights == "ckpt_best.pth"
    for (key, want), got in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        if ".rbr_reparam." not in key:
            assert torch.equal(want, got), key


def test_safetensors(model, tmp_path):
    import json

    from safetensors.torch import save_file

    params = {"conf": 0.2, "iou": 0.6}
    save_file(model.state_dict(), tmp_path / "m.safetensors", metadata={"processing_params": json.dumps(params)})
    loaded = models.get(NAME, checkpoint_path=tmp_path / "m.safetensors")
    assert loaded.weights_sha256() == model.weights_sha256()
    assert (loaded.processing.confidence, loaded.processing.iou) == (0.2, 0.6)


def reference_params(**changes):
    """processing_params as the reference's trainer writes them for COCO poses."""
    steps = [
        {"ReverseImageChannels": None},
        {"KeypointsLongestMaxSizeRescale": {"output_shape": (640, 640)}},
        {"KeypointsBottomRightPadding": {"output_shape": (640, 640), "pad_value": 127}},
        {"StandardizeImage": {"max_value": 255}},
        {"ImagePermute": {"permutation": [2, 0, 1]}},
    ]
    return {"image_processor": {"ComposeProcessing": {"processings": steps}}, "conf": 0.05, "iou": 0.7, **changes}


def load_with(model, tmp_path, params):
    return models.get(
        NAME, checkpoint_path=save({"net": model.state_dict(), "processing_params": params}, tmp_path / "c.pth")
    )


def test_processing_params_of_the_reference(model, tmp_path):
    loaded = load_with(
        model, tmp_path, reference_params(edge_links=[[0, 1], [1, 2]], edge_colors=[(1, 2, 3), (4, 5, 6)])
    )
    assert loaded.processing.input == model.processing.input
    assert loaded.processing.confidence == 0.05
    assert loaded.processing.skeleton.edges == ((0, 1), (1, 2))
    assert loaded.processing.skeleton.edge_colors == ((1, 2, 3), (4, 5, 6))
    assert loaded.processing.skeleton.names[0] == "nose"


def test_processing_params_that_differ(model, tmp_path):
    steps = [
        {"KeypointsLongestMaxSizeRescale": {"output_shape": [416, 416]}},
        {"DetectionCenterPadding": {"output_shape": [416, 416], "pad_value": 114}},
        {"StandardizeImage": {"max_value": 255.0}},
        {"NormalizeImage": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}},
    ]
    loaded = load_with(model, tmp_path, reference_params(image_processor=steps, conf=0.0))
    inputs = loaded.processing.input
    assert loaded.processing.confidence == 0.0
    assert (inputs.height, inputs.resize_to, inputs.padding, inputs.pad_value) == (416, (416, 416), "center", 114)
    assert inputs.normalization.channels == "RGB"
    assert inputs.normalization.mean == pytest.approx((127.5, 102, 76.5))
    assert inputs.normalization.std == pytest.approx((51, 63.75, 127.5))


def test_omegaconf_lists_in_processing_params(model, tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"edge_links": [[0, 1], [2, 3]], "keypoint_colors": [[9, 8, 7]] * 17})
    loaded = load_with(
        model, tmp_path, reference_params(edge_links=config.edge_links, keypoint_colors=config.keypoint_colors)
    )
    assert loaded.processing.skeleton.edges == ((0, 1), (2, 3))
    assert loaded.processing.skeleton.joint_colors[3] == (9, 8, 7)


@pytest.mark.parametrize(
    "params",
    [
        {"conf": 5.0},
        {"iou": float("nan")},
        {"image_processor": [{"KeypointsLongestMaxSizeRescale": {"output_shape": [640, 640]}},
                             {"KeypointsBottomRightPadding": {"output_shape": [512, 512], "pad_value": 127}}]},
        {"image_processor": [{"NormalizeImage": {"mean": [0, 0, 0], "std": [1, 0, 1]}}]},
    ],
    ids=["conf", "iou", "does not fit", "zero"],
)  # fmt: skip
def test_impossible_processing_params_are_refused(model, tmp_path, params):
    with pytest.raises(CheckpointError, match="processing_params"):
        load_with(model, tmp_path, reference_params(**params))


def test_a_legacy_file_cut_anywhere_is_one_sentence(tmp_path):
    data = save_legacy(tmp_path / "old.pth")
    for length in range(0, len(data), 97):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            models.get(NAME, checkpoint_path=tmp_path / "cut.pth")


def save_legacy(path):
    torch.save({"net": {"a": torch.zeros(30)}}, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def test_an_unknown_image_step_is_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match="'Sharpen'"):
        load_with(model, tmp_path, reference_params(image_processor=[{"Sharpen": {}}]))


def test_joints_are_counted_in_the_checkpoint(tmp_path):
    fourteen = make_model(NAME, num_classes=14)
    path = save(fourteen.state_dict(), tmp_path / "crowd.pth")
    assert models.get(NAME, checkpoint_path=path).num_joints == 14
    assert models.get(NAME, checkpoint_path=path, num_classes=14).num_joints == 14
    with pytest.raises(CheckpointError, match="14 joints, 17 were asked for"):
        models.get(NAME, checkpoint_path=path, num_classes=17)


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a checkpoint was run')",))


def broken_files(model, path):
    state = model.state_dict()
    data = save(state, path / "good.pth").read_bytes()
    nan = {**state, "heads.head1.cls_pred.bias": torch.full((18,), float("nan"))}
    return {
        "missing": path / "missing.pth",
        "folder": path,
        "empty": write(path / "empty.pth", b""),
        "text": write(path / "text.pth", b"hello"),
        "truncated": write(path / "truncated.pth", data[: len(data) // 2]),
        "directory": write(path / "directory.pth", data.replace(b"PK\x01\x02", b"PK\x01\x03", 1)),
        "code": save({"net": state, "bomb": Bomb()}, path / "code.pth"),
        "plain pickle with code": write(path / "pickle.pth", pickle.dumps(Bomb())),
        "a list": save([1, 2], path / "list.pth"),
        "no tensors": save({"epoch": 1}, path / "none.pth"),
        "not a number": save(nan, path / "nan.pth"),
        "bad safetensors": write(path / "bad.safetensors", b"\x08" * 40),
    }


def write(path, data):
    path.write_bytes(data)
    return path


def test_broken_and_unsafe_files_are_one_sentence_each(model, tmp_path):
    words = {
        "missing": "no such file", "folder": "folder", "empty": "damaged", "text": "damaged", "truncated": "damaged",
        "directory": "damaged",
        "code": "can run code", "plain pickle with code": "can run code", "a list": "holds a list",
        "no tensors": "no tensors", "not a number": "NaN", "bad safetensors": "damaged",
    }  # fmt: skip
    for case, path in broken_files(model, tmp_path).items():
        with pytest.raises(CheckpointError, match=words[case]) as caught:
            models.get(NAME, checkpoint_path=path)
        assert "\n" not in str(caught.value), case


def test_a_checkpoint_of_another_size_names_the_likely_model(tmp_path):
    path = save(make_model("yolo_nas_pose_s").state_dict(), tmp_path / "s.pth")
    with pytest.raises(CheckpointError, match="looks like yolo_nas_pose_s") as caught:
        models.get(NAME, checkpoint_path=path)
    assert "missing" in str(caught.value) or "another shape" in str(caught.value)


def test_fused_weights_and_torchscript_are_named(model, tmp_path):
    fused = save(make_model(NAME).fuse().state_dict(), tmp_path / "fused.pth")
    with pytest.raises(CheckpointError, match=r"saved after fuse\(\)"):
        models.get(NAME, checkpoint_path=fused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        models.get(NAME, checkpoint_path=tmp_path / "script.pt")


def test_counters_only_training_reads_may_be_missing(model, tmp_path):
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert models.get(NAME, checkpoint_path=save(state, tmp_path / "c.pth")).num_joints == 17


def test_a_checkpoint_of_another_family(tmp_path):
    path = save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"missing .*unexpected \(conv1\.weight, fc\.bias\)"):
        models.get(NAME, checkpoint_path=path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_name": "yolo_nas_pose_x"}, "Did you mean yolo_nas_pose_"),
        ({"model_name": "resnet"}, "See trt-pose models"),
        ({"pretrained_weights": "coco_pose", "checkpoint_path": "x"}, "Give one"),
        ({"num_classes": 0}, r"1\.\.1024"),
        ({"pretrained_weights": "imagenet"}, "coco_pose"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(UsageError, match=words):
        models.get(**{"model_name": NAME, **options})


def test_loading_warns_of_nothing(model, tmp_path):
    path = save({"net": model.state_dict(), "acc": np.float64(1)}, tmp_path / "c.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.load(NAME, path)
