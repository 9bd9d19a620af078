"""A real tritonserver on loopback, the one in nvidia-pytriton, in an environment of its own (make triton)."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = Path(os.environ.get("TRT_POSE_TRITON", HERE.parent.parent / "build" / "triton"))


def why_not():
    """Why there is no server here; empty if there is one."""
    return "" if (ENVIRONMENT / "ready").exists() else "needs a tritonserver (make triton)"


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def _backends(folder):
    """The folder of backends: the real one for Python, and the stand-ins for ONNX Runtime and TensorRT."""
    site = next((ENVIRONMENT / "lib").glob("python3.*/site-packages"))
    version = site.parent.name.removeprefix("python")
    shutil.copytree(site / "pytriton" / "tritonserver" / "backends", folder)
    stub = "triton_python_backend_stub"
    shutil.copy(site / "pytriton" / "tritonserver" / "python_backend_stubs" / version / stub, folder / "python" / stub)
    for name in ("onnxruntime", "tensorrt"):
        (folder / name).mkdir()
        shutil.copy(HERE / "triton_backend.py", folder / name / "model.py")
    return site


def _home():
    """The folder of the Python of the environment, whose library the backend for Python needs."""
    lines = (ENVIRONMENT / "pyvenv.cfg").read_text().splitlines()
    return Path(next(line.partition("=")[2].strip() for line in lines if line.startswith("home"))).parent


@contextlib.contextmanager
def serving(models, folder, arguments=()):
    """Yields the addresses of a server, by protocol, once it is ready or has failed; stops it at the end."""
    site = _backends(folder / "backends")
    ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
    command = [site / "pytriton" / "tritonserver" / "bin" / "tritonserver"]
    command += [f"--{name}-address=127.0.0.1" for name in ports] + [f"--{name}-port={ports[name]}" for name in ports]
    command += [f"--model-repository={models}", f"--backend-directory={folder / 'backends'}"]
    command += ["--allow-gpu-metrics=false", "--exit-timeout-secs=5", "--exit-on-error=true", *arguments]
    environment = {
        **os.environ,
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{site / 'nvidia_pytriton.libs'}:{_home() / 'lib'}",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONPATH", None)
    log = folder / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        _wait(server, addresses["http"], log)
        yield addresses
    finally:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


def _wait(server, address, log):
    limit = time.monotonic() + 90
    while time.monotonic() < limit:
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError):
            if urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=1).status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server is not ready:\n{log.read_text()}")


def ask(folder, **request):
    """Runs ask_triton.py in the environment of the server; returns its answers."""
    path = folder / "request.json"
    path.write_text(json.dumps(request))
    return json.loads(run(folder, HERE / "ask_triton.py", path))


def run(folder, *arguments):
    """Runs Python in the environment of the server; returns what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [ENVIRONMENT / "bin" / "python", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
