# Each target works alone on a fresh machine: it makes the environment it needs first.
#
#   PYTHON       the Python to make the environment with
#   TORCH_INDEX  another index of PyTorch wheels: https://download.pytorch.org/whl/cpu has them without CUDA
#   TENSORRT     test-gpu: the TensorRT to install, as a pip requirement (tensorrt==10.16.*, tensorrt, tensorrt_rtx)
PYTHON ?= python3
TENSORRT ?= tensorrt_rtx
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt
DEMO := build/demo
LOWEST := build/lowest
# Two files of tests at a time, one thread of torch each: most of the time is spent outside torch.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
CPP := $(shell find plugins tests -path plugins/build -prune -o \( -name '*.cpp' -o -name '*.hpp' -o -name '*.cu*' -o -name '*.h' \) -print)

.PHONY: setup demo test fuzz bindings triton ray test-scale test-slow test-gpu test-lowest coverage wheel lab plugin lint format clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	@echo "Making $(VENV). PyTorch's default wheels for Linux contain CUDA: about 3 GB to download, 7 GB on the disk."
	@echo "Without a GPU: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--editable '.[export,dev]'
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --no-deps 'trackers>=2.6'
	touch $@

# The demonstration model on pictures it never saw: AP by torch, as ONNX and in INT8, and a picture of what it finds.
# With WEIGHTS=CHECKPOINT also YOLO-NAS-Pose N of your own on a photograph.
demo: setup
	mkdir -p $(DEMO)
	$(BIN)/trt-pose synthesize $(DEMO)/held_out --count 60 --seed 1 --overwrite
	$(BIN)/trt-pose synthesize $(DEMO)/calibration --count 32 --seed 3 --overwrite
	$(BIN)/trt-pose export demo --conf 0.01 --max-det 100 --pre-nms 300 --output $(DEMO)/demo.onnx > $(DEMO)/usage.md
	$(BIN)/trt-pose quantize $(DEMO)/demo.onnx --images $(DEMO)/calibration --output $(DEMO)/demo_int8.onnx
	$(BIN)/trt-pose eval demo $(DEMO)/demo.onnx $(DEMO)/demo_int8.onnx --worst 1 \
		--data $(DEMO)/held_out/annotations.json --images $(DEMO)/held_out
	$(BIN)/trt-pose predict $(DEMO)/demo_int8.onnx $(DEMO)/held_out/000002.png --conf 0.5 --provider cpu --save $(DEMO) --overwrite
	$(if $(WEIGHTS),$(BIN)/trt-pose export yolo_nas_pose_n --weights $(WEIGHTS) --output $(DEMO)/yolo_nas_pose_n.onnx)
	$(if $(WEIGHTS),$(BIN)/trt-pose predict $(DEMO)/yolo_nas_pose_n.onnx trt_pose/assets/astronaut.jpg --save $(DEMO) --overwrite)
	@echo "The picture: $(DEMO)/$(if $(WEIGHTS),astronaut.jpg,000002.png)"

test: setup
	$(PYTEST) -m "not slow"

# Real bindings of TensorRT 10.3, 10.16 and 11.4, lean runtimes and two versions of cuda-bindings: about 110 MB, which the
# tests use without installing them. They need no GPU.
bindings: setup
	$(BIN)/python tests/bindings/fetch.py

# A real tritonserver with its clients, and Ray, each in an environment of its own: 600 MB and 900 MB. The server's Python
# backend is of 2024 and wants NumPy 1.
triton: build/triton/ready
build/triton/ready:
	$(PYTHON) -m venv build/triton
	build/triton/bin/python -m pip install --quiet 'nvidia-pytriton==0.7.0' 'tritonclient[http,grpc]==2.73.0' 'numpy<2' \
		'opencv-python-headless<4.12' --editable .
	touch $@

ray: build/ray/ready
build/ray/ready:
	$(PYTHON) -m venv build/ray
	build/ray/bin/python -m pip install --quiet 'ray[data]==2.60.0' --editable .
	touch $@

# What runs beyond one process: a Triton server, the parser for DeepStream, Ray Data.
test-scale: setup triton ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/deploy tests/test_ray.py tests/test_batch.py

# What make test leaves out; with TRT_POSE_NETWORK=1 also the tests that download packages.
test-slow: setup
	$(PYTEST) -m slow

# Branch coverage of the package; fails below the floor in pyproject.toml.
coverage: setup
	$(PYTEST) --cov --cov-report=term:skip-covered

# Damaged and hostile files and values for every verb; the counts are written to benchmarks/results/robustness.md.
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/robustness.py --cases $(or $(CASES),5000) --seed $(or $(SEED),1)

# The lowest versions that pyproject.toml declares, in an environment of their own.
test-lowest: BIN := $(LOWEST)/bin
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(BIN)/python -m pip install uv
	$(BIN)/uv pip install --python $(BIN)/python --resolution lowest-direct --editable '.[export,dev]'
	$(PYTEST) -m "not slow"

# The wheel and the source distribution, and the test that an installed wheel is complete.
wheel: setup
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pytest tests/test_package.py -m ""

# On a GPU host: what is skipped elsewhere fails here if it cannot run; then the measurements, which are written to
# benchmarks/results/gpu_NAME.md.
test-gpu: setup
	$(BIN)/python -m pip install --editable '.[keypoint-rcnn]' "$(TENSORRT)" 'cuda-core[cu13]'
	TRT_POSE_REQUIRE_GPU=1 $(BIN)/python -m pytest -m "gpu or tensorrt"
	$(BIN)/python benchmarks/gpu.py

# The plugin library; TENSORRT_INCLUDE_DIR names TensorRT's headers where CMake does not find them.
plugin: setup
	$(BIN)/trt-pose plugin build $(if $(TENSORRT_INCLUDE_DIR),--include $(TENSORRT_INCLUDE_DIR))

# The kernel laboratory, on a GPU host: checks and times the variants of the pose NMS kernel.
lab: setup
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[keypoint-rcnn]'
	mkdir -p build
	nvcc -std=c++17 -O3 -arch=native -Xcompiler=-ffp-contract=off -o build/pose_nms_lab plugins/pose_nms/pose_nms_lab.cu
	build/pose_nms_lab benchmarks/results/pose_nms_lab.md
	$(BIN)/python benchmarks/pose_nms.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build dist $(VENV)
