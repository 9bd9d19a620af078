"""The real pycuda as a guest, over the strict driver; where it is installed (it is built with the CUDA toolkit)."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from .. import cuda
from ..bindings import ROOT

pytest.importorskip("pycuda")
pytestmark = pytest.mark.skipif(bool(cuda.why_not()), reason=cuda.why_not() or "-")

CODE = textwrap.dedent(
    """
    import sys
    import numpy as np
    from pathlib import Path
    from tests import gpu_stand_in
    from tests.cuda import StrictDriver

    driver = StrictDriver(Path(sys.argv[1]))
    driver.open()
    import pytest
    import {context}
    from pycuda import driver as cuda, gpuarray
    from trt_pose import RunnerError
    from trt_pose.runtime.ort import OnnxRunner
    from trt_pose.runtime.trt import TrtRunner

    patch = pytest.MonkeyPatch()
    gpu_stand_in.install(patch, driver)
    engine = gpu_stand_in.write_engine(sys.argv[2], Path(sys.argv[3]))
    images = np.load(sys.argv[4])
    with TrtRunner(engine) as runner, OnnxRunner(sys.argv[2], providers=["cpu"]) as reference:
        want = reference.run({{"input": images}})
        if "{context}".endswith("autoinit"):
            with pytest.raises(RunnerError, match="pycuda.autoprimaryctx instead of pycuda.autoinit"):
                runner.run({{"input": gpuarray.to_gpu(images)}})
            print("refused")
            sys.exit()
        stream = cuda.Stream()
        for turn in range(3):
            pixels = gpuarray.to_gpu_async(images, stream=stream)
            outputs = runner.run({{"input": pixels}}, device=True, stream=stream)
            boxes = outputs["pred_boxes"].to_pycuda()
            assert isinstance(boxes, gpuarray.GPUArray) and boxes.shape == want["pred_boxes"].shape
            found = np.empty(boxes.shape, boxes.dtype)
            cuda.memcpy_dtoh_async(found, boxes.gpudata, stream)
            stream.synchronize()
            np.testing.assert_array_equal(found, want["pred_boxes"])
    assert driver.misuses() == [] and not driver.failures
    print("equal")
    """
)


@pytest.mark.parametrize(("context", "expected"), [("pycuda.autoprimaryctx", "equal"), ("pycuda.autoinit", "refused")])
def test_gpuarrays_and_streams_go_in_and_out(context, expected, tiny_dynamic_plugin_onnx, tmp_path, rng):
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (2, 3, 128, 160), dtype=np.uint8))
    arguments = (cuda.build(), tiny_dynamic_plugin_onnx, tmp_path, tmp_path / "images.npy")
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(context=context), *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.strip().endswith(expected), done.stdout + done.stderr
