# Everything a person runs, from a machine with python3, pip and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test soak check bench teachers clean
.DEFAULT_GOAL := demo

# Plain pip, so that a CPU wheel of torch at hand (PIP_FIND_LINKS, an extra index) is used.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "torch>=2.13,<2.14"
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed  ## the whole corridor on a laptop: runs/demo
	$(RUN) -m ccray run --recipe tiny --root runs/demo

test: $(VENV)/.installed  ## all tests, with local Ray clusters
	$(RUN) -m pytest --durations=15

soak: $(VENV)/.installed  ## the long chaos runs: many kills on one cluster, local and S3; about an hour
	$(RUN) -m pytest -s tests/soak/chaos_*.py

check: $(VENV)/.installed  ## lint, types, and the tests that need no cluster
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest -m "not ray and not slow"

bench: $(VENV)/.installed  ## the ratios of benchmarks/, printed as a table
	$(RUN) -m benchmarks

teachers: $(VENV)/.installed  ## train the shapes world's VAE, captioner, text encoder and translator anew
	$(RUN) -m ccray.shapes.teachers

clean:
	rm -rf $(VENV) build *.egg-info
