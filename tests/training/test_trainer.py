"""The loop: schedule, averaging, checkpoints that load here, resuming, joints of one's own, what is refused."""

import csv
import importlib.util
import itertools
import json
import logging
import math
import re

import pytest
import torch

from trt_pose import CheckpointError, SourceError, TrainingError, UsageError, models, training as run
from trt_pose.cli import main
from trt_pose.images.synthetic import Scene, SyntheticPeople
from trt_pose.images.synthetic_files import write_coco
from trt_pose.models.processing import from_checkpoint, pose_defaults
from trt_pose.models.yolo_nas_pose.network import YoloNASPose
from trt_pose.skeleton import COCO, CROWDPOSE
from trt_pose.training.augment import Augmentation
from trt_pose.training.checkpoints import processing_params
from trt_pose.training.curves import drawn_at_the_end
from trt_pose.training.loss import LossWeights, set_priors
from trt_pose.training.options import TrainOptions
from trt_pose.training.trainer import Trainer, parameter_groups, schedule

from ..conftest import TINY

QUICK = {"batch": 4, "workers": 0, "warmup_steps": 2, "learning_rate": 1e-3, "device": "cpu"}


def tiny(seed=0, joints=17):
    torch.manual_seed(seed)
    model = YoloNASPose("yolo_nas_pose_n", joints, TINY)
    set_priors(model)
    model.processing = model.processing.__class__(
        **{**vars(model.processing), "input": model.processing.input.with_size(96, 96)}
    )
    return model


def trainer(folder, epochs=2, evaluate=None, **options):
    data = run.TrainData(synthetic=8)
    model = tiny()
    chosen = TrainOptions(epochs=epochs, **{**QUICK, **options})
    pictures = data.pictures(model.processing.input, COCO, chosen)
    return Trainer(model, pictures, chosen, folder, evaluate)


def test_the_schedule():
    share = schedule(TrainOptions(epochs=10, warmup_steps=4, final_share=0.1), 10)
    values = [share(update) for update in range(100)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[-1] == pytest.approx(0.1)
    assert values[4 + 95 // 2] == pytest.approx(0.55, abs=0.02)
    assert all(later < earlier for earlier, later in itertools.pairwise(values[4:]))
    short = schedule(TrainOptions(epochs=1, warmup_steps=1000), 3)  # a training shorter than the rise
    assert all(0 < short(update) <= 1 for update in range(5))


def test_norms_biases_and_placeholders_do_not_decay():
    model = tiny()
    decayed, rest = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    assert all(value.ndim == 4 for value in decayed["params"])
    placeholders = sum(".rbr_reparam." in name for name, _ in model.named_parameters())
    assert len(decayed["params"]) + len(rest["params"]) + placeholders == len(list(model.parameters()))


def test_a_training_and_what_it_leaves(tmp_path):
    seen = []

    def evaluate(model):
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"AP": 0.5 if len(seen) == 1 else 0.25, "AP50": None}

    ours = trainer(tmp_path / "run", epochs=2, evaluate=evaluate)
    before = {name: value.clone() for name, value in ours.model.state_dict().items()}
    progress = ours.run()
    assert (progress.epoch, progress.best) == (2, 0.5)
    assert any(not torch.equal(before[name], value) for name, value in ours.model.state_dict().items())
    for name, value in ours.model.state_dict().items():  # the model ends with the averaged weights
        torch.testing.assert_close(value, seen[-1][name])
    rows = list(csv.DictReader((tmp_path / "run/curves.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["AP"] for row in rows] == ["0.5", "0.25"]
    assert all(float(row["loss_joints"]) > 0 for row in rows)
    best = torch.load(tmp_path / "run/ckpt_best.pth", weights_only=True)
    latest = torch.load(tmp_path / "run/ckpt_latest.pth", weights_only=True)
    assert (best["epoch"], best["acc"], latest["epoch"]) == (1, 0.5, 2)
    assert {"net", "ema_net", "optimizer_state_dict", "processing_params", "metrics", "packages"} <= set(latest)
    for name, value in best["ema_net"].items():
        torch.testing.assert_close(value, seen[0][name])


def test_averaged_weights_follow_by_the_decay(tmp_path):
    ours = trainer(tmp_path, ema_decay=0.9)
    name = "heads.head1.cls_pred.bias"
    expected = None
    for step in range(4):
        with torch.no_grad():
            dict(ours.model.named_parameters())[name].fill_(float(step))
        ours._average.update_parameters(ours.model)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = float(step) if expected is None else keep * expected + (1 - keep) * step
    assert ours.averaged.state_dict()[name][0].item() == pytest.approx(expected)


def test_resuming_is_as_if_nothing_happened(tmp_path):
    whole = trainer(tmp_path / "whole", epochs=3)
    whole.run()
    stopped = trainer(tmp_path / "stopped", epochs=3)
    real, done = stopped._save, []

    def save_twice(parts, seconds):
        real(parts, seconds)
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt

    stopped._save = save_twice
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = trainer(tmp_path / "stopped", epochs=3)
    again.resume(tmp_path / "stopped/ckpt_latest.pth")
    assert again.progress.epoch == 2
    again.run()
    for (name, one), two in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


def test_a_training_that_goes_on_is_the_one_that_was_begun(tmp_path):
    trainer(tmp_path, epochs=1).run()
    for options, words in (
        ({"learning_rate": 5e-4}, "learning_rate"),
        ({"epochs": 2}, "epochs 1, this is 2"),
        ({"batch": 2}, "batch"),
    ):
        other = trainer(tmp_path, **{"epochs": 1, **options})
        with pytest.raises(CheckpointError, match=f"it was begun with {words}"):
            other.resume(tmp_path / "ckpt_latest.pth")
    same = trainer(tmp_path, epochs=1, precision="bf16", evaluate=lambda model: {})
    same.resume(tmp_path / "ckpt_latest.pth")
    assert same.progress.epoch == 1


def test_an_epoch_is_kept_when_its_evaluation_fails(tmp_path):
    def fail(model):
        raise UsageError("no")

    with pytest.raises(UsageError, match="no"):
        trainer(tmp_path, evaluate=fail).run()
    again = trainer(tmp_path)
    again.resume(tmp_path / "ckpt_latest.pth")
    assert again.progress.epoch == 1


def test_there_is_always_a_best(tmp_path):
    trainer(tmp_path, epochs=1, evaluate=lambda model: {"AP": None}).run()
    assert (tmp_path / "ckpt_best.pth").exists()


def test_accumulating_updates_less_often(tmp_path):
    ours = trainer(tmp_path, epochs=1, batch=2, accumulate=3)
    assert len(ours._batches) == 4
    assert ours.updates_per_epoch == 2
    assert [ours._steps_of(step) for step in (1, 2, 3, 4)] == [3, 3, 3, 1]
    ours.run()
    assert int(ours._average.n_averaged) == 2


def test_half_precision_trains(tmp_path):
    ours = trainer(tmp_path, epochs=1, precision="bf16", clip_norm=1.0)
    ours.run()
    assert all(torch.isfinite(value).all() for value in ours.model.state_dict().values())
    assert next(ours.model.parameters()).dtype == torch.float32


def test_a_loss_that_is_no_number_stops(tmp_path):
    ours = trainer(tmp_path)
    with torch.no_grad():
        next(ours.model.parameters()).fill_(math.nan)
    with pytest.raises(
        TrainingError, match=r"became NaN\. Resume with --resume --precision fp32, or start again with a lower --lr"
    ):
        ours.run()
    assert not (tmp_path / "ckpt_latest.pth").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs=0, expected 1 or more"),
        ({"precision": "int8"}, "expected one of fp32, bf16, fp16"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"ema_decay": 1.5}, "from 0 to 1"),
    ],
)
def test_impossible_recipes(options, words):
    with pytest.raises(UsageError, match=words):
        TrainOptions(**options)


def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"device: got .nonsense"):
        trainer(tmp_path, device="nonsense")


def test_files_that_cannot_be_resumed(tmp_path):
    ours = trainer(tmp_path / "run")
    with pytest.raises(CheckpointError, match="there is no such file"):
        ours.resume(tmp_path / "none.pth")
    torch.save({"net": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"not the ckpt_latest\.pth of a training"):
        ours.resume(tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match=r"not the ckpt_latest\.pth"):
        ours.resume(tmp_path / "cut.pth")


@pytest.mark.parametrize("joints", [17, 14, 5])
def test_processing_comes_back_from_a_checkpoint(joints):
    own = pose_defaults(joints)
    own = own.__class__(**{**vars(own), "input": own.input.with_size(320, 416), "confidence": 0.3})
    again = from_checkpoint(processing_params(own), pose_defaults(joints), "here")
    assert again.input == own.input
    assert (again.confidence, again.iou, again.max_candidates) == (0.3, 0.7, 300)
    assert again.skeleton == own.skeleton  # the names of others travel in an entry of our own


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """A training of the demonstration model on eight pictures by the command line."""
    folder = tmp_path_factory.mktemp("train") / "run"
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "train", "--model", "demo", "--synthetic", "8", "--val-synthetic", "3", "--epochs", "1", "--batch", "4",
                "--workers", "0", "--imgsz", "96", "--device", "cpu", "-o", str(folder),
            ]
        )  # fmt: skip
    assert not stopped.value.code
    return folder


def test_checkpoints_load_export_and_evaluate(demo_run, tmp_path, capsys):
    network = models.get("demo", checkpoint_path=demo_run / "ckpt_latest.pth")
    assert network.processing.input.height == 96
    assert network.processing.skeleton == COCO
    # What two steps of training say is all near the threshold: a last bit decides who is found.
    network.export(tmp_path / "m.onnx", confidence_threshold=0.01, verification=False)
    with pytest.raises(SystemExit) as stopped:
        main(["eval", str(tmp_path / "m.onnx"), str(demo_run / "ckpt_latest.pth"), "--model", "demo",
              "--synthetic", "2", "--json"])  # fmt: skip
    assert not stopped.value.code
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_folder_with_a_training_is_not_overwritten(demo_run, capsys):
    arguments = ["train", "--model", "demo", "--synthetic", "8", "-o", str(demo_run), "--workers", "0"]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    assert "Go on with --resume" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--resume", "--epochs", "2", "--batch", "4", "--imgsz", "96"])
    assert stopped.value.code == 1
    assert "it was begun with epochs 1, this is 2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--resume", "--epochs", "1", "--batch", "4", "--imgsz", "96"])
    assert not stopped.value.code  # it is done already


def test_the_curves_are_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    head = "epoch,learning_rate,seconds,loss_scores,loss_boxes,AP,AP50,AR\n"
    (tmp_path / "curves.csv").write_text(head + "1,0.1,1,2,3,,,\n2,0.1,1,1,2,0.5,0.7,0.6\n", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), drawn_at_the_end(tmp_path):
        raise KeyboardInterrupt
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "curves.png").unlink()
    with drawn_at_the_end(tmp_path):
        pass
    assert not (tmp_path / "curves.png").exists()


def test_a_run_that_never_began_leaves_nothing_to_go_on_with(tmp_path):
    arguments = ["train", "--model", "demo", "--epochs", "1", "--batch", "4", "--workers", "0", "--imgsz", "64"]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--weights", str(tmp_path / "missing.pth"), "--synthetic", "4", "-o", str(tmp_path / "run")])
    assert stopped.value.code == 1
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(
        '["--synthetic", "9"]', encoding="utf-8"
    )  # of a run that was killed early
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--synthetic", "4", "-o", str(tmp_path / "run")])
    assert not stopped.value.code
    assert '"4"' in (tmp_path / "run" / "run.json").read_text(encoding="utf-8")


def test_what_a_run_was_begun_with_is_read_back(tmp_path, capsys, monkeypatch):
    """Paths are absolute, and options of the second call come later; a spoilt file is said."""
    data = write_coco(SyntheticPeople(2, (64, 64), seed=2), tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    begun = ["train", "--model", "demo", "--weights", "none", "--data", "set/annotations.json", "--images", "set",
             "--epochs", "1", "--batch", "2", "--workers", "0", "--imgsz", "64", "-o", "run"]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(begun)
    assert not stopped.value.code
    words = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert words[words.index("--data") + 1] == str(data)
    assert words[words.index("--imgsz") + 1] == "64"
    for change, code in ((["--workers", "1"], 0), (["--epochs", "3"], 1)):
        with pytest.raises(SystemExit) as stopped:
            main(["train", "-o", "run", "--resume", *change])
        assert (stopped.value.code or 0) == code
    assert "it was begun with epochs 1, this is 3" in capsys.readouterr().err
    (tmp_path / "run" / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["train", "-o", "run", "--resume"])
    assert "resuming run: run.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("weights", "untrained"), [(None, False), ("none", True), ("synthetic", False)])
def test_the_demo_model_starts_from_its_own_weights(weights, untrained):
    """As in every other command; an untrained one is asked for."""
    made, own = run.start_model("demo", weights, None, None), models.get("demo")
    assert (made.weights_sha256() != own.weights_sha256()) is untrained
    assert run.starting_weights("yolo_nas_pose_n", None) is None


def test_each_epoch_is_a_line_and_an_interrupted_training_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    arguments = [
        "train", "--model", "demo", "--synthetic", "4", "--val-synthetic", "2", "--epochs", "2", "--batch", "4",
        "--workers", "0", "--imgsz", "96", "--device", "cpu", "-o", str(tmp_path / "run"),
    ]  # fmt: skip
    epoch = Trainer._epoch

    def interrupted(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    monkeypatch.setattr(Trainer, "_epoch", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 130
    first, last = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("epoch", "stopped"))]
    assert re.fullmatch(r"epoch 1/2: loss \d+\.\d{4}, AP \d\.\d{4} \(best \d\.\d{4}\), \d+\.\d s", first)
    assert last == f"stopped; trt-pose train -o {tmp_path / 'run'} --resume goes on after the last whole epoch"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)  # what it was begun with is in the folder
    with pytest.raises(SystemExit) as stopped:
        main(["train", "-o", "run", "--resume"])
    assert not stopped.value.code
    assert "epoch 2/2: loss" in capsys.readouterr().err
    assert not logging.getLogger("trt_pose.training").handlers


def test_fine_tuning_to_other_joints_keeps_the_rest(demo_run):
    start = models.get("demo", checkpoint_path=demo_run / "ckpt_latest.pth")
    model = run.start_model("demo", str(demo_run / "ckpt_latest.pth"), CROWDPOSE, (64, 96))
    assert model.num_joints == 14
    assert model.processing.skeleton == CROWDPOSE
    assert (model.processing.input.height, model.processing.input.width) == (64, 96)
    have, own = start.state_dict(), model.state_dict()
    different = [name for name in own if own[name].shape != have[name].shape]
    assert all("cls_pred" in name or "pose_pred" in name for name in different)
    assert len(different) == 12
    for name, value in own.items():
        if name not in different:
            assert torch.equal(value, have[name])
    assert torch.equal(own["heads.head2.cls_pred.bias"][0], have["heads.head2.cls_pred.bias"][0])


def test_joints_come_from_the_annotations(tmp_path):
    record = json.loads(
        write_coco(SyntheticPeople(2, (64, 64), seed=2, scene=Scene((1, 3), (30, 60))), tmp_path).read_text(
            encoding="utf-8"
        )
    )
    record["categories"][0] |= {"keypoints": ["left_end", "right_end"], "skeleton": [[1, 2]]}
    for note in record["annotations"]:
        note["keypoints"] = note["keypoints"][:6]
        del note["num_keypoints"]
    (tmp_path / "two.json").write_text(json.dumps(record))
    data = run.TrainData(tmp_path / "two.json", tmp_path)
    skeleton = data.skeleton()
    assert skeleton.flip_pairs == ((0, 1),)
    model = run.start_model("demo", "none", skeleton, (64, 64))
    options = TrainOptions(epochs=1, **{**QUICK, "batch": 2})
    progress = run.train(model, data, tmp_path / "run", options, validation=data)
    assert set(progress.metrics) >= {"AP", "AR"}
    again = models.get("demo", checkpoint_path=tmp_path / "run/ckpt_best.pth")
    assert again.processing.skeleton == skeleton


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--synthetic", "8", "--imgsz", "100"), "expected positive multiples of 32"),
        (("--synthetic", "8", "--seed", "-1"), "seed=-1, expected 0 or more"),
        (
            ("--synthetic", "8", "--classification", "hinge"),
            "--classification: got 'hinge', expected focal, varifocal or bce",
        ),
        (("--synthetic", "8", "--data", "a.json"), "give --data with --images, or --synthetic, not both"),
        ((), "give --data with --images"),
        (("--synthetic", "8", "--model", "yolo_nas_s"), "the loss is YOLO-NAS-Pose's"),
        (("--synthetic", "8", "--model", "demo", "--weights", "none.pth"), "there is no such file"),
        (("--data", "none.json", "--images", "."), "Check the path"),
    ],
)
def test_bad_commands(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "-o", str(tmp_path / "run"), *arguments])
    assert stopped.value.code == 1
    assert words in capsys.readouterr().err


def test_synthetic_people_have_cocos_joints(tmp_path):
    model = run.start_model("demo", "none", CROWDPOSE, (64, 64))
    with pytest.raises(UsageError, match="they have COCO's 17 joints"):
        run.train(model, run.TrainData(synthetic=4), tmp_path / "run")


def test_places_that_are_no_folders(tmp_path):
    (tmp_path / "file").write_text("")
    model = run.start_model("demo", "none", None, (64, 64))
    with pytest.raises(SourceError, match="Choose a writable place"):
        run.train(model, run.TrainData(synthetic=4), tmp_path / "file")


def test_joints_that_are_not_measured(tmp_path):
    """Before the first epoch, not after it."""
    folder = tmp_path / "coco"
    data = run.TrainData(
        write_coco(SyntheticPeople(2, (64, 64), seed=2, scene=Scene((1, 3), (30, 60))), folder), folder
    )
    model = run.start_model("demo", "none", CROWDPOSE, (64, 64))
    with pytest.raises(UsageError, match=r"none has the model's 14 joints \(they have 17 joints\)"):
        run.train(model, data, tmp_path / "run", validation=data)


@pytest.mark.slow
def test_four_pictures_are_learnt_by_heart(tmp_path):
    """AP above 0.95 on the four pictures it sees, in minutes on a CPU."""
    people = SyntheticPeople(4, (128, 128), seed=5, scene=Scene((1, 2), (60, 120)))
    data = run.TrainData(write_coco(people, tmp_path / "coco"), tmp_path / "coco")
    model = run.start_model("demo", "none", COCO, (128, 128))
    still = Augmentation(flip=0, affine=0, color=0)
    options = TrainOptions(epochs=400, batch=4, workers=0, warmup_steps=20, learning_rate=2e-3, evaluate_every=400,
                           ema_decay=0.98, augmentation=still, device="cpu",
                           loss=LossWeights(distance=10.0))  # fmt: skip
    progress = run.train(model, data, tmp_path / "run", options, validation=data)
    assert progress.metrics["AP"] > 0.95
