# make chat   talk to the built-in guide             make test   everything CI runs
# make check  the quick loop while working           make help   all of it
#
# Each target makes .venv if it is missing and installs what it needs: with uv where that is
# installed, else with python3 -m venv and pip. On Linux, BACKEND=cuda13 or cuda12 takes MLX's
# CUDA build in place of the CPU's.

VENV ?= .venv
PYTHON ?= python3
BACKEND ?=
BIN := $(VENV)/bin
# Tests run in as many processes as there are cores; who has done theirs takes some of another's.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: help chat test check lint types golden guide snap screenshots clean

help:
	@sed -n 's/^#: //p' Makefile

#: chat    open the chat with the built-in guide (make chat MODEL=folder-or-repo)
chat: $(VENV)/.app
	@$(BIN)/mlxarch chat $(MODEL)

#: test    formatting, lint, types and every test: what CI runs
test: lint types
	$(PYTEST)

#: check   the same without the slow tests
check: lint types
	$(PYTEST) -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/ty check --python $(VENV)

#: golden  make the golden files again from transformers on torch
golden: $(VENV)/.torch
	$(BIN)/python tests/golden/make.py

#: guide   train the built-in guide again, into build/guide (torch; more than an hour on one core)
guide: $(VENV)/.torch
	$(BIN)/python -m mlxarch.app.guide.training.train build/guide/body --steps 2000 --rate 3e-3
	$(BIN)/python -m mlxarch.app.guide.training.train build/guide/heads --start build/guide/body --heads --steps 250
	$(BIN)/python -m mlxarch.app.guide.training.train build/guide/long --start build/guide/heads --heads --long --steps 100 --rate 1.5e-3
	$(BIN)/mlxarch convert build/guide/long build/guide/float
	$(BIN)/mlxarch quantize build/guide/float build/guide/model --bits 8

#: snap    take the screenshots of the tests anew; look at them before you commit
snap: $(VENV)/.dev
	$(BIN)/python -m pytest tests/chat --snapshot-update

#: screenshots  take the pictures of README and docs anew, into docs/screenshots
screenshots: $(VENV)/.dev
	$(BIN)/python tests/screenshots.py docs/screenshots

#: clean   remove .venv and caches
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info

$(VENV)/bin/python:
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --python '>=3.11' $(VENV); \
	else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "$(PYTHON) is older than 3.11: install a newer one, or uv, or set PYTHON=python3.12." >&2; exit 1; }; \
	  $(PYTHON) -m venv $(VENV) \
	    || { echo "python3 has no venv (Debian: apt install python3-venv)." >&2; rm -rf $(VENV); exit 1; }; \
	  $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'; \
	fi

# install(what): uv's pip where uv is, else the environment's own, without setuptools' warning that
# an editable installation is one.
install = if command -v uv >/dev/null; then VIRTUAL_ENV=$(abspath $(VENV)) uv pip install --quiet $(1); \
  else PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet $(1); fi

$(VENV)/.app: pyproject.toml | $(VENV)/bin/python
	@echo "Installing mlxarch into $(VENV) ..." >&2
	@$(call install,--editable .)
	@if [ -n "$(BACKEND)" ]; then \
	  $(call install,"mlx[$(BACKEND)]"); \
	  wheel=mlx-$$(echo $(BACKEND) | sed 's/cuda/cuda-/'); \
	  $(call install,--force-reinstall --no-deps $$wheel); \
	fi
	@touch $@

$(VENV)/.dev: $(VENV)/.app
	@echo "Installing the tools of development ..." >&2
	@$(call install,--group dev)
	@touch $@

$(VENV)/.torch: $(VENV)/.dev
	@echo "Installing torch (for golden files and training only) ..." >&2
	@$(call install,--group torch)
	@touch $@
