"""What black padding costs, which DeepStream's nvinfer adds: AP of the demonstration model with grey and with black."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from machine import sentence, write_results

from trt_pose import models
from trt_pose.benchmark.machine import machine
from trt_pose.evaluation import evaluate
from trt_pose.images.synthetic import SyntheticPeople
from trt_pose.images.synthetic_files import write_coco

PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "numpy")
SIZE = (360, 640)  # of the pictures; they fill 180 rows of the 320 of the network
SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="number of pictures")
    count = parser.parse_args().count
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_coco(SyntheticPeople(count, SIZE, SEED), folder)
        for grey in (127, 0):
            file = folder / f"{grey}.onnx"
            models.get("demo").export(
                file, conf=0.01, max_predictions_per_image=100, num_pre_nms_predictions=300, pad_value=grey
            )
            found[grey] = evaluate(file, data, folder).metrics
    where = machine(PACKAGES)
    rows = "\n".join(
        f"| {grey} | {each['AP']:.4f} | {each['AP50']:.4f} | {each['AR']:.4f} |" for grey, each in found.items()
    )
    text = f"""# Grey and black padding

{sentence(where)} Written by benchmarks/padding.py: {count} drawn pictures of {SIZE[1]} x {SIZE[0]}, seed {SEED}, by the
demonstration model at 320 x 320, which was trained with grey level 127.

| padding | AP | AP50 | AR |
|---|---|---|---|
{rows}
"""
    write_results("padding", {"machine": where, "count": count, "metrics": {str(k): v for k, v in found.items()}}, text)
    print(text)


if __name__ == "__main__":
    main()
