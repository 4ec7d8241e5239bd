# Two commands need nothing but Python >= 3.11, pip and make:
#   make demo    set everything up and run the main job: a fair comparison of 16 activations on real data
#   make test    set everything up, check the code and run the tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test slow clean

demo: $(VENV)/.ready
	$(BIN)/pliant run srelu-wdbc --tier lite

test: $(VENV)/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

slow: $(VENV)/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" pytest -m slow -n auto

# uv and not pip: with some package indexes pip prefers a build of torch that other packages cannot be imported with.
# Compiled once: where Python is told to write no bytecode, each of the many processes of the tests would compile torch again.
$(VENV)/.ready: pyproject.toml constraints.txt setup.py $(wildcard src/pliant/kernels/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pliant needs Python 3.11 or later, but $(PYTHON) is " + sys.version.split()[0] + ". Set PYTHON, as in: make test PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable '.[lab,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info
