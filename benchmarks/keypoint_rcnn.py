"""Keypoint R-CNN as a file for TensorRT: its operations, its equality with torchvision, and what FP16 and INT8 cost it.

python benchmarks/keypoint_rcnn.py --train rcnn.pth     # once: a network on synthetic people, from nothing
python benchmarks/keypoint_rcnn.py --weights rcnn.pth   # writes benchmarks/results/keypoint_rcnn.{json,md}

Published weights cannot be fetched everywhere. So the accuracy is that of a network trained on drawn figures, which
says what a precision costs, and not how good the network is.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from machine import sentence, write_results

from trt_pose import PosePredictor, PoseResult, models
from trt_pose.benchmark.machine import machine
from trt_pose.comparison import compare
from trt_pose.evaluation import evaluate
from trt_pose.images.synthetic import SCENES, SyntheticPeople, make_picture
from trt_pose.images.synthetic_files import write_coco
from trt_pose.quantization import QuantizeOptions, quantize
from trt_pose.results.pairing import pair_boxes

NAME = "keypointrcnn_resnet50_fpn"
PACKAGES = ("torch", "torchvision", "onnxruntime", "opencv-python-headless", "numpy")
SIDE = 192  # of the pictures, px
SCENE = SCENES["sparse"].scaled(SIDE / 320)
LIMIT = 8  # people per picture, of which there are at most 3
PRECISIONS = ("fp16", "int8", "int8+fp16")


def make_network(**options: Any) -> Any:
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    return keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_keypoints=17, min_size=SIDE, max_size=SIDE,
        rpn_pre_nms_top_n_test=300, rpn_post_nms_top_n_test=100, **options,
    )  # fmt: skip


def make_batch(first: int, count: int) -> tuple[list[Any], list[Any], int]:
    """Returns pictures, torchvision's targets, and the number of the next picture."""
    images: list[Any] = []
    targets: list[Any] = []
    while len(images) < count:
        sample = make_picture(np.random.default_rng((77, first)), (SIDE, SIDE), SCENE)
        first += 1
        large = ((sample.boxes[:, 2:] - sample.boxes[:, :2]) > 4).all(axis=1)
        if not large.any():
            continue
        images.append(torch.from_numpy(sample.image.copy()).permute(2, 0, 1).float() / 255)
        joints = torch.from_numpy(sample.joints[large].copy())
        joints[..., 2] = (joints[..., 2] > 0).float()
        labels = torch.ones(int(large.sum()), dtype=torch.int64)
        boxes = torch.from_numpy(sample.boxes[large].copy())
        targets.append({"boxes": boxes, "labels": labels, "keypoints": joints})
    return images, targets, first


def in_bfloat16(module: Any) -> None:
    """Makes a module compute in bfloat16 and return FP32."""
    forward = module.forward

    def run(*arguments: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            out = forward(*arguments)
        return {name: value.float() for name, value in out.items()} if isinstance(out, dict) else out.float()

    module.forward = run


def train(output: Path, minutes: float) -> None:
    torch.manual_seed(0)
    network = make_network(
        rpn_pre_nms_top_n_train=300, rpn_post_nms_top_n_train=100, rpn_batch_size_per_image=64,
        box_batch_size_per_image=16, box_positive_fraction=0.25,
    )  # fmt: skip
    heads = network.roi_heads
    for module in (network.backbone, heads.box_head, heads.keypoint_head, heads.keypoint_predictor):
        in_bfloat16(module)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-4, weight_decay=1e-4)
    network.train()
    begun, step, at = time.time(), 0, 0
    while (share := (time.time() - begun) / (60 * minutes)) < 1:
        rate = 3e-4 * min(1.0, (step + 1) / 50) * (0.5 * (1 + math.cos(math.pi * share)) + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, targets, at = make_batch(at, 4)
        losses = network(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(step, {name: round(value.item(), 3) for name, value in losses.items()}, flush=True)
    torch.save(network.state_dict(), output)
    facts = {"pictures": at, "steps": step, "minutes": minutes}
    output.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


def load(weights: Path) -> Any:
    """Returns this package's model and torchvision's network with the same weights."""
    model, network = models.get(NAME, checkpoint_path=weights), make_network()
    network.load_state_dict(torch.load(weights, weights_only=True))
    proposals: Any = model.rpn
    proposals._pre_nms_top_n, proposals._post_nms_top_n = network.rpn._pre_nms_top_n, network.rpn._post_nms_top_n
    return model, network.eval()


def count_gmacs(path: Path) -> float:
    """Returns the multiply-accumulate operations of convolutions and matrix products, in 10^9."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph, total = proto.graph, 0
    shapes = {
        item.name: [axis.dim_value for axis in item.type.tensor_type.shape.dim]
        for item in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes.update((item.name, list(item.dims)) for item in graph.initializer)
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            total += math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "Gemm":
            total += shapes[node.input[0]][0] * math.prod(shapes[node.input[1]])
    return total / 1e9


def measure_operations(folder: Path) -> dict[str, Any]:
    """GMACs of the published network at 800 x 1088 for two limits of people; parameters; size of the file."""
    model, found = models.get(NAME, pretrained_weights="none"), {}
    for limit in (20, 100):
        path = folder / f"{limit}.onnx"
        model.export(
            path, engine="tensorrt", input_image_shape=(800, 1088), max_predictions_per_image=limit, verification=False
        )
        found[str(limit)] = round(count_gmacs(path), 1)
    initializers = onnx.load(path).graph.initializer
    weights = sum(math.prod(item.dims) for item in initializers if item.data_type == onnx.TensorProto.FLOAT)
    return {
        "gmacs": found,
        "parameters": sum(value.numel() for value in model.parameters()),
        "numbers_in_the_file": weights,
        "megabytes": round(path.stat().st_size / 1e6, 1),
    }


def measure_equality(file: Path, network: Any, folder: Path) -> dict[str, Any]:
    """The file in ONNX Runtime and torchvision's network on the same pictures of its size."""
    counts, boxes, scores, joints = [0, 0, 0], [0.0], [0.0], [np.zeros(0)]
    with PosePredictor(file, providers=["cpu"]) as predictor, torch.inference_mode():
        for result in predictor.stream(str(folder)):
            (want,) = network([torch.from_numpy(result.image.copy()).permute(2, 0, 1).float() / 255])
            want = {name: value.numpy() for name, value in want.items()}
            found = cast("PoseResult", result).poses
            rows, others = pair_boxes(found.boxes, want["boxes"]).T
            counts = [sum(pair) for pair in zip(counts, (len(found), len(want["boxes"]), len(rows)), strict=True)]
            boxes += np.abs(found.boxes[rows] - want["boxes"][others]).ravel().tolist()
            scores += np.abs(found.scores[rows] - want["scores"][others]).tolist()
            apart = np.abs(found.joints[rows][..., :2] - want["keypoints"][others][..., :2]).max(axis=2)
            joints.append(apart.ravel())
    apart = np.concatenate(joints)
    return {
        "people": counts[0],
        "people_torchvision": counts[1],
        "paired": counts[2],
        "boxes_px": max(boxes),
        "scores": max(scores),
        "joints": apart.size,
        "joints_over_0.1_px": int((apart > 0.1).sum()),
        "joints_px_of_the_rest": float(apart[apart <= 0.1].max(initial=0.0)),
    }


def measure_precisions(file: Path, annotations: Path, held_out: Path, calibration: Path) -> dict[str, Any]:
    """AP and the noise of each precision, and how its people differ from those of FP32."""
    found: dict[str, Any] = {"fp32": {"AP": evaluate(file, annotations, held_out).metrics["AP"]}}
    for precision in PRECISIONS:
        made = file.with_name(f"{precision}.onnx")
        report = quantize(file, made, calibration, QuantizeOptions(precision=precision))
        gap = compare(file, made, held_out, confidence=0.5)
        found[precision] = {
            "AP": evaluate(made, annotations, held_out).metrics["AP"],
            "OKS": 1 - gap.loss,
            "people": [gap.found, gap.matched + gap.extra, gap.matched],
            "least_noise_db": min(report.noise_db.values()),
            "megabytes": round(made.stat().st_size / 1e6, 1),
        }
        print(precision, found[precision], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, metavar="FILE", help="train a network and write its weights")
    parser.add_argument("--minutes", type=float, default=75.0, help="duration of the training")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights to measure with")
    parser.add_argument("--count", type=int, default=60, help="number of held-out pictures")
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train, arguments.minutes)
    if arguments.weights:
        measure(arguments.weights, arguments.count)


def measure(weights: Path, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held_out, calibration, file = folder / "held_out", folder / "calibration", folder / "fp32.onnx"
        annotations = write_coco(SyntheticPeople(count, (SIDE, SIDE), 1, SCENE), held_out)
        write_coco(SyntheticPeople(32, (SIDE, SIDE), 3, SCENE), calibration)
        model, network = load(weights)
        model.export(
            file, engine="tensorrt", input_image_shape=(SIDE, SIDE), confidence_threshold=0.01,
            max_predictions_per_image=LIMIT,
        )  # fmt: skip
        network.roi_heads.score_thresh, network.roi_heads.detections_per_img = 0.01, LIMIT
        record = {
            "training": json.loads(weights.with_suffix(".json").read_text(encoding="utf-8")),
            "operations": measure_operations(folder),
            "equality": measure_equality(file, network, held_out),
            "precisions": measure_precisions(file, annotations, held_out, calibration),
        }
    where = machine(PACKAGES)
    text = describe(record, count, sentence(where))
    write_results("keypoint_rcnn", {"machine": where, "count": count, **record}, text)
    print(text)


def describe(record: dict[str, Any], count: int, where: str) -> str:
    made, size, same, each = (record[name] for name in ("training", "operations", "equality", "precisions"))
    rows = "\n".join(
        f"| {name} | {row['AP']:.4f} | {row['OKS']:.4f} | {row['people'][1]}, {row['people'][2]} of them in FP32 |"
        f" {row['least_noise_db']:.1f} dB | {row['megabytes']} MB |"
        for name, row in each.items()
        if name != "fp32"
    )
    people = each["fp16"]["people"][0]
    return f"""# Keypoint R-CNN as a file for TensorRT

{where} Written by benchmarks/keypoint_rcnn.py.

At 800 x 1088 the file takes {size["gmacs"]["100"]} GMACs for up to 100 people and {size["gmacs"]["20"]} for up to 20,
since the heads compute every row, whether somebody is found or not. The network has {size["parameters"] / 1e6:.1f} M
parameters, the file {size["numbers_in_the_file"] / 1e6:.1f} M numbers with its anchors, and {size["megabytes"]} MB.

The rest is of a network trained from nothing by the same script on {made["pictures"]} drawn figures of {SIDE} x {SIDE}
px ({made["steps"]} steps, {made["minutes"]:g} minutes), on {count} held-out pictures, in ONNX Runtime on the CPU. Drawn
figures are not its world, and it is far from trained: the figures say what a precision costs.

The file and torchvision's own network: {same["people"]} and {same["people_torchvision"]} people above 0.01,
{same["paired"]} in common, boxes at most {same["boxes_px"]:.2g} px and scores {same["scores"]:.2g} apart.
{same["joints_over_0.1_px"]} of {same["joints"]} joints are more than 0.1 px apart (two places of a heatmap with nearly
the same value), the rest at most {same["joints_px_of_the_rest"]:.2g} px.

| precision | AP | OKS to FP32 | people above 0.5 | least ratio of signal to noise | file |
|---|---|---|---|---|---|
| fp32 | {each["fp32"]["AP"]:.4f} | 1 | {people} | | |
{rows}
"""


if __name__ == "__main__":
    main()
