#!/bin/sh
# Makes the environment of the images: the package without torch, with the TensorRT that EXTRA names.
#
#   docker/install.sh VENV EXTRA [more arguments of "python -m venv"]
set -eu
venv=$1 extra=$2
shift 2
source=$(cd "$(dirname "$0")/.." && pwd)
python3 -m venv "$@" "$venv"
"$venv/bin/pip" install --no-cache-dir --quiet --constraint "$source/.ci/constraints.txt" "$source[$extra]"
"$venv/bin/trt-pose" --version
