# `make setup` makes .venv with pinned packages; `make repro` and `make test` do so too if it is missing or out of date.
PYTHON ?=
BIN := $(CURDIR)/.venv/bin
# DVC runs the commands of dvc.yaml in a shell: the project's own `pipeline` must come first there.
export PATH := $(BIN):$(PATH)
unexport PYTHON

.PHONY: setup repro test test-all lint clean

setup:
	@tools/environment.sh "$(PYTHON)"

repro: setup
	@echo "Draws 840 clips, extracts their features, fits eleven heads and prints the table. This takes 10 to 15 minutes on two"
	@echo "cores; stages that are up to date are skipped."
	dvc repro compare
	@python tools/demo_difference.py

test: setup lint
	pytest -n logical --dist loadfile --no-loadscope-reorder

test-all: setup lint
	pytest -n logical --dist loadfile --no-loadscope-reorder -m "" --timeout 1800

lint: setup
	ruff check .
	ruff format --check .
	mypy

clean:
	rm -rf .venv
