"""Functions called in a process of their own; most are the standard library's, because the child must import them."""

import ctypes
import json
import os
import subprocess
import sys
import time

import pytest

from trt_pose import EngineError, UsageError
from trt_pose.trt.isolated import call


def test_the_result_comes_back():
    assert call(divmod, 17, 5, doing="dividing") == (3, 2)


def test_an_exception_arrives_as_itself(tmp_path):
    with pytest.raises(json.JSONDecodeError, match="line 1 column 1") as caught:
        call(json.loads, "nonsense", doing="reading", log=tmp_path / "log")
    assert caught.value.pos == 0
    assert "Traceback" in (tmp_path / "log").read_text(encoding="utf-8")


def test_an_error_of_ours_keeps_its_kind():
    from trt_pose.cli.app import read_size

    with pytest.raises(UsageError, match="--imgsz: got 'big'"):
        call(read_size, "big", doing="reading")


@pytest.mark.parametrize(
    ("function", "argument", "reason"),
    [(os._exit, 3, r"exit code 3\): it printed nothing"), (ctypes.string_at, 0, r"signal 11\)")],
)
def test_a_crash_is_one_sentence(function, argument, reason):
    with pytest.raises(EngineError, match=f"^opening x.engine: TensorRT crashed \\({reason}") as caught:
        call(function, argument, doing="opening x.engine")
    assert "\n" not in str(caught.value)


def test_the_last_line_of_the_output_and_the_log_are_named(tmp_path):
    code = "import os; os.write(2, b'first\\nfree(): invalid pointer\\n'); os._exit(9)"
    with pytest.raises(EngineError, match=r"exit code 9\): free\(\): invalid pointer. See .*m.log"):
        call(exec, code, doing="building", log=tmp_path / "m.log")


def test_what_it_prints_goes_to_the_log_also_from_c(tmp_path, capfd):
    code = "import os; print('from Python'); os.write(1, b'from C\\n')"
    call(exec, code, doing="printing", log=tmp_path / "m.log")
    assert sorted((tmp_path / "m.log").read_text(encoding="utf-8").split("\n"))[1:] == ["from C", "from Python"]
    assert capfd.readouterr() == ("", "")


def report_twice(report):  # found by the child under the name of this module
    report(1)
    report({"two": 2})
    return "done"


def test_progress_is_passed_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)  # the root of the checkout is then a place like others
    assert call(report_twice, doing="counting", on_progress=seen.append) == "done"
    assert seen == [1, {"two": 2}]


def test_no_answer_in_time():
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"no answer in 0\.5 s"):
        call(time.sleep, 60, doing="opening", timeout_s=0.5)
    assert time.monotonic() - started < 20


def test_the_working_directory_is_not_searched(tmp_path, monkeypatch):
    (tmp_path / "colorsys.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    call(exec, "import colorsys; colorsys.rgb_to_hsv(1, 1, 1)", doing="importing")


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(EngineError, match="Choose a writable place"):
        call(divmod, 1, 1, doing="building", log=tmp_path / "missing" / "m.log")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_child_ends_with_its_parent(tmp_path):
    child = tmp_path / "child.py"
    steps = f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    child.write_text(f"import os, pathlib, time; {steps}")
    script = (
        "import os, runpy, signal, threading; from trt_pose.trt.isolated import call\n"
        "threading.Timer(4, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        f"call(runpy.run_path, {str(child)!r}, doing='waiting')"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:  # noqa: PTH110
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from trt_pose.trt.isolated import call\nprint('once')\nprint(call(divmod, 9, 4, doing='dividing'))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "once\n(2, 1)\n"
