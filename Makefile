# Two commands do everything on a fresh machine with Python 3.11 or 3.12, make and git:
#   make demo   set up, then train the built-in example
#   make test   set up, then lint, type-check and test
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
STAMP = $(VENV)/.installed
EXTRAS = $(VENV)/.extras
TORCH = $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)

.PHONY: demo test setup postgres lint unit slow generate clean

demo: setup
	$(VENV)/bin/llmforge train

test: setup lint unit

setup: $(STAMP)

# torch first and alone: asked for by an exact version it is the build this machine can have
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 13) else f"llmforge needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}; try make PYTHON=python3.11")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt "$(TORCH)"
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,quantize,compressed,sql,schedule-free,search,benchmarks,launchers,serve]'
	touch $@

# a real PostgreSQL for the tests that read from one; they are skipped where it cannot be had
postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null; } || \
		echo "no PostgreSQL here: its tests are skipped"

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

unit: setup postgres
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -q

# what the slow tests need besides; gptqmodel builds an extension in C
$(EXTRAS): $(STAMP)
	DS_BUILD_OPS=0 $(PIP) install --quiet --constraint constraints.txt --editable '.[deepspeed,ray,gguf]'
	$(PIP) install --quiet --constraint constraints.txt --editable '.[gptq]' || \
		echo "no GPT-QModel here: its tests are skipped"
	touch $@

slow: setup postgres $(EXTRAS)
	$(VENV)/bin/python -m pytest -m slow -q

# checked-in files that are made from the code; a test fails when they are stale. Read the diff.
generate: setup
	$(VENV)/bin/python -m llmforge.schema.export
	LLMFORGE_UPDATE_GALLERY=1 LLMFORGE_UPDATE_GOLDEN=1 \
		$(VENV)/bin/python -m pytest -q tests/diagnostics tests/golden

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
