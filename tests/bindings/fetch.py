"""Fetches real bindings of TensorRT and CUDA that need no GPU, into build/bindings: ``make bindings``.

TensorRT's full bindings import over stub libraries with the functions that the module looks up: every class, enum and
signature is then the release's own. The lean runtimes are the real libraries. Nothing is installed.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build" / "bindings"
FULL = ("10.3.0", "10.16.1.11", "11.4.0.106")
LEAN = ("10.16.1.11", "11.4.0.106")
CUDA = ("12.9.*", "13.*")
# The functions that tensorrt.so of the bindings wants of each library; each returns null, initLibNvInferPlugins true.
STUBS = {
    "libnvinfer": (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry", "getPluginRegistry",
    ),
    "libnvonnxparser": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    "libnvinfer_plugin": ("initLibNvInferPlugins",),
}  # fmt: skip


def main():
    for version in FULL:
        place = FOLDER / f"full-{version}"
        if fetch(place, f"tensorrt_cu12_bindings=={version}"):
            make_stubs(place / "stubs", version.partition(".")[0])
    for version in LEAN:
        fetch(
            FOLDER / f"lean-{version}", f"tensorrt_lean_cu13_libs=={version}", f"tensorrt_lean_cu13_bindings=={version}"
        )
    for version in CUDA:
        fetch(FOLDER / f"cuda-{version.rstrip('.*')}", f"cuda-bindings=={version}")


def fetch(place, *packages):
    """Downloads and unpacks packages into ``place``; returns False when it is there already."""
    if place.exists():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        wheels, unpacked = Path(folder) / "wheels", Path(folder) / "unpacked"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(wheels), *packages], check=True)
        for wheel in sorted(wheels.glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(unpacked)
        unpacked.rename(place)
    return True


def make_stubs(folder, major):
    folder.mkdir()
    for library, functions in STUBS.items():
        source = folder / f"{library}.c"
        source.write_text("\n".join(f"int {name}(void) {{ return {int('init' in name)}; }}" for name in functions))
        name = f"{library}.so.{major}"
        command = [shutil.which("gcc") or "gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([*command, str(source)], check=True)


if __name__ == "__main__":
    main()
