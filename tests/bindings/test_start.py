"""Starting TensorRT: its one logger, drivers that are too old, and plugin libraries that are only opened."""

import os
import subprocess
import textwrap
from pathlib import Path

import pytest

from .. import cuda
from ..conftest import headers_version
from ..kernel_on_cpu import compile_cpp
from . import answer_of, run_on
from .fetch import FOLDER, FULL, LEAN

pytestmark = pytest.mark.bindings
no_driver = pytest.mark.skipif(cuda.REAL_DRIVER, reason="a real driver is here")

LIFETIME = textwrap.dedent(
    """
    import gc, json, threading
    from trt_pose.trt.flavor import find_flavor
    from trt_pose.trt.logger import open_log, start_runtime
    from trt_pose.trt.plugins import load_plugins, registered

    flavor = find_flavor("tensorrt_rtx")
    load_plugins(flavor)
    first, second = start_runtime(open_log(flavor)), start_runtime(open_log(flavor))
    assert open_log(flavor) is open_log(flavor)
    del first
    gc.collect()
    junk = [bytearray(1000) for _ in range(1000)]
    load_plugins(flavor)
    registry = flavor.module.get_plugin_registry()
    registry.get_creator("NoSuch_TRT", "1", "")  # TensorRT logs that as an error
    here = open_log(flavor).take()

    def work(found):
        open_log(flavor).take()
        registry.get_creator("OtherPlugin_TRT", "1", "")
        found.extend(open_log(flavor).take())

    there = []
    thread = threading.Thread(target=work, args=(there,))
    thread.start()
    thread.join()
    print(json.dumps([here, there, open_log(flavor).take(), registered(flavor)]))
    """
)


def test_engines_come_and_go_and_the_logger_stays():
    """With a logger for each engine this process ended with SIGSEGV."""
    here, there, rest, operators = answer_of(run_on("rtx", LIFETIME))
    assert "NoSuch_TRT" in " ".join(here)
    assert "OtherPlugin_TRT" not in " ".join(here)
    assert "OtherPlugin_TRT" in " ".join(there)
    assert rest == []
    assert operators == ["PoseNMS_TRT", "DetectionNMS_TRT", "KeypointDecode_TRT"]


def test_the_log_keeps_errors_and_shows_what_is_asked(capsys):
    from types import SimpleNamespace

    from trt_pose.trt.flavor import Flavor
    from trt_pose.trt.logger import open_log

    from ..gpu_stand_in import ILogger, Severity

    log = open_log(Flavor("tensorrt", "11.4", SimpleNamespace(ILogger=ILogger)))
    for shown in (False, True):
        log.shown = shown
        for severity in Severity:
            log.logger.log(severity, f"{severity.name.lower()} said")
        assert log.take() == ["internal_error said", "error said"]
        written = capsys.readouterr().err.splitlines()
        assert [line.partition("]")[0] for line in written] == (
            ["[INTERNAL_ERROR", "[ERROR", "[WARNING", "[INFO"] if shown else []
        )
    assert log.reason() == "no reason was given"


START = textwrap.dedent(
    """
    import gc, json
    from trt_pose import EngineError
    from trt_pose.trt.flavor import Flavor
    from trt_pose.trt.logger import open_log, start_builder, start_runtime

    flavor = Flavor("tensorrt", trt.__version__, trt)
    said = []
    for start in (start_runtime, start_builder):
        if not hasattr(trt, "Builder") and start is start_builder:
            continue
        try:
            start(open_log(flavor))
        except EngineError as error:
            said.append(str(error))
    gc.collect()
    print(json.dumps(said))
    """
)


@no_driver
@pytest.mark.parametrize("place", [f"full-{version}" for version in FULL])
def test_a_null_runtime_is_one_sentence(place):
    """The bindings' answer to it is a TypeError."""
    said = answer_of(run_on(place, START))
    assert len(said) == 2
    for text in said:
        assert text.startswith(
            f"starting TensorRT {place.removeprefix('full-')}: it gave no reason; there is no driver"
        )


@no_driver
@pytest.mark.parametrize("place", [f"lean-{version}" for version in LEAN])
def test_a_runtime_that_is_no_object_is_one_sentence(place):
    """Without a driver, TensorRT logs an error and returns an address near null: its first use was a SIGSEGV."""
    (text,) = answer_of(run_on(place, START))
    assert "CUDA initialization failure with error: 35" in text
    assert text.endswith("there is no driver. Check the driver, or run the ONNX file.")


def test_a_driver_older_than_tensorrt_is_named_with_both_versions(driver):
    from trt_pose import EngineError
    from trt_pose.trt.flavor import Flavor
    from trt_pose.trt.logger import check_driver

    driver.close()
    driver.open(version=12040)
    words = r"starting TensorRT 11\.4\.0: it was built for CUDA 13, and the driver supports CUDA 12\.4\. Update"
    with pytest.raises(EngineError, match=words):
        check_driver(Flavor("tensorrt", "11.4.0", None, cuda=13))
    check_driver(Flavor("tensorrt", "10.3.0", None, cuda=12))
    check_driver(Flavor("tensorrt", "10.3.0", None))  # a system package: unknown


REGISTER = textwrap.dedent(
    """
    import ctypes, json
    registry = trt.get_plugin_registry()

    def have():
        return [registry.get_creator(name, "1", "") is not None for name in ("PoseNMS_TRT", "DetectionNMS_TRT")]

    before, opened = have(), ctypes.CDLL(sys.argv[1])
    after = have()
    loaded = registry.load_library(sys.argv[1]) is not None
    fields = [field.name for field in registry.get_creator("PoseNMS_TRT", "1", "").field_names]
    print(json.dumps([before, after, loaded, have(), len(fields)]))
    """
)


@pytest.mark.parametrize("place", [*(f"lean-{version}" for version in LEAN), "rtx"])
def test_the_library_registers_itself_and_still_loads(place, headers, library):
    """Opened, as Triton and DeepStream do it, in the TensorRT of its headers; loaded, in every one."""
    mine = place.startswith(f"lean-{headers_version(headers).partition('.')[0]}.")
    found = answer_of(run_on(place, REGISTER, library))
    assert found == [[False, False], [mine, mine], True, [True, True], 4]


HOST = """
#include <NvInferRuntime.h>
#include <cstdio>
int main() { std::printf("%d", getPluginRegistry()->getCreator("PoseNMS_TRT", "1", "") != nullptr); }
"""


@pytest.mark.parametrize("place", [f"lean-{version}" for version in LEAN])
def test_ld_preload_serves_a_program_that_is_linked_with_tensorrt(place, headers, library, tmp_path):
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    if not cuda.exists() or not place.startswith(f"lean-{headers_version(headers).partition('.')[0]}."):
        pytest.skip("needs the CUDA toolkit and headers of this major version")
    (runtime,) = (FOLDER / place / "tensorrt_lean_libs").glob("libnvinfer_lean.so.*")
    (tmp_path / "host.cpp").write_text(HOST)
    folders = ("-isystem", headers, "-isystem", cuda, f"-Wl,-rpath,{runtime.parent}")
    compile_cpp(tmp_path / "host.cpp", runtime, "-o", tmp_path / "host", *folders)
    for preload, expected in (("", "0"), (str(library), "1")):
        done = subprocess.run(
            [tmp_path / "host"], capture_output=True, text=True, env={**os.environ, "LD_PRELOAD": preload}
        )
        assert (done.returncode, done.stdout) == (0, expected), done.stderr
