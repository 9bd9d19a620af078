# Each target works alone on a fresh machine: it makes the environment it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt
DEMO := build/demo

.PHONY: setup demo test test-slow lint format clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[export,dev]'
	touch $@

# Export a model, find the people in a photograph, draw them, print the table.
demo: setup
	mkdir -p $(DEMO)
	$(BIN)/trt-pose export yolo_nas_pose_n --weights $(or $(WEIGHTS),none) --max-det 3 $(if $(WEIGHTS),,--conf 0) \
		--output $(DEMO)/yolo_nas_pose_n.onnx
	$(BIN)/trt-pose predict $(DEMO)/yolo_nas_pose_n.onnx trt_pose/assets/astronaut.jpg --save $(DEMO)
	@echo "The picture: $(DEMO)/astronaut.jpg"

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build $(VENV)
