# Two commands do everything: `make repro` and `make test`. Both make .venv with pinned packages if it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(CURDIR)/.venv/bin
# DVC runs the commands of dvc.yaml in a shell: the project's own `pipeline` must come first there.
export PATH := $(BIN):$(PATH)

.PHONY: repro test test-all lint clean

repro: .venv/installed
	dvc repro

test: .venv/installed lint
	pytest -n logical --dist loadfile

test-all: .venv/installed lint
	pytest -n logical --dist loadfile -m "" --timeout 1800

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed; name it with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,onnx]'
	touch $@

clean:
	rm -rf .venv
