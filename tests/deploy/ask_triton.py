"""Asks a server, in the environment of the server: python ask_triton.py REQUEST; prints JSON.

The request is a JSON file: addresses, name of the model, model file, image files.
"""

import json
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from trt_pose import PosePredictor

NAMES = ("num_predictions", "pred_boxes", "pred_scores", "pred_joints")


def ask(kind, client, name, data):
    image = kind.InferInput("image", [len(data), 1], "BYTES")
    image.set_data_from_numpy(np.array([[part] for part in data], dtype=object))
    found = client.infer(name, [image])
    return {tensor: found.as_numpy(tensor).tolist() for tensor in NAMES}


def refusal(kind, client, name):
    try:
        ask(kind, client, name, [b"no image"])
    except tritonclient.utils.InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return "answered"


def many(kind, address, name, data):
    """Asks with eight clients at once; returns how many images ran in how many runs of the network."""

    def work(share):
        with kind.InferenceServerClient(address) as client:
            for part in share:
                ask(kind, client, name, [part])

    threads = [threading.Thread(target=work, args=(data[index::8],)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with kind.InferenceServerClient(address) as client:
        network = client.get_inference_statistics(f"{name}_network")["model_stats"][0]
    return network["inference_count"], network["execution_count"]


def main():
    request = json.loads(Path(sys.argv[1]).read_text())
    data, name = [Path(path).read_bytes() for path in request["images"]], request["name"]
    with PosePredictor(request["model"], providers=["cpu"], threads=1) as predictor:
        poses = [predictor.predict(part).poses for part in data]
    fields = ("boxes", "scores", "joints")
    answers: dict[str, Any] = {"direct": [{name: getattr(item, name).tolist() for name in fields} for item in poses]}
    for key, kind in (("http", tritonclient.http), ("grpc", tritonclient.grpc)):
        with kind.InferenceServerClient(request[key]) as client:
            answers[key] = [ask(kind, client, name, [part]) for part in data]
            answers[f"{key} refusal"] = refusal(kind, client, name)
            if key == "http":
                answers["config"] = client.get_model_config(name)
                if request["batch"] > 1:
                    answers["together"] = ask(kind, client, name, data[: request["batch"]])
    if request["batch"] > 1:
        answers["many"] = many(tritonclient.http, request["http"], name, data * 4)
    with urllib.request.urlopen(f"http://{request['metrics']}/metrics") as page:
        lines = page.read().decode().splitlines()
    answers["metrics"] = [line for line in lines if line.startswith("nv_inference_count")]
    answers["parsed"] = {}
    for path in Path(request["models"]).glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        answers["parsed"][path.parent.name] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    print(json.dumps(answers))


main()
