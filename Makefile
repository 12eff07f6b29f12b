# The commands a newcomer and the continuous integration need. Everything lives in .venv; nothing is fetched again
# unless pyproject.toml changes.

# The first Python that the project supports; `make PYTHON=/path/to/python` chooses another one.
PYTHON ?= $(shell for name in python3.12 python3.13 python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& command -v $$name && break; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := .venv-docs

# Without its bytecode, each process of the tests would compile all of the project again, and each worker all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all lint docs qgis-plugin clean

help:
	@echo 'make demo      predict the sample scene: out/lulc.tif and a preview of it'
	@echo 'make test      lint, types and all tests but the long ones'
	@echo 'make test-all  the long tests too'
	@echo 'make lint      lint and types'
	@echo 'make docs      the site of docs/, in build/site, with its links checked'
	@echo 'make qgis-plugin  the plugin for QGIS, build/refnet-qgis.zip'
	@echo 'make clean     remove .venv, out and caches'

$(STAMP): pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Found no Python 3.11 to 3.13; install one, or make PYTHON=/path/to/python' >&2; exit 1; }
	@echo 'Setting up $(VENV) with $(PYTHON); the first time takes some minutes.' >&2
	'$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --root-user-action=ignore --editable '.[dev]'
	@# Some packages hold templates that are not Python, which is no failure.
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

demo: $(STAMP)
	@mkdir -p out
	$(BIN)/refnet predict --optical sample_data/s2.tif --sar sample_data/s1.tif -o out/lulc.tif -o preview=out/lulc.png

lint: $(STAMP)
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy --num-workers 2

test: lint
	$(BIN)/python -m pytest -W error -q -n auto --dist worksteal -m 'not long'

test-all: lint
	$(BIN)/python -m pytest -W error -q -n auto --dist worksteal

# An environment of its own, so that tests do not depend on the site's packages.
$(DOCS)/.installed: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Found no Python 3.11 to 3.13; install one, or make PYTHON=/path/to/python' >&2; exit 1; }
	'$(PYTHON)' -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --editable '.[docs]'
	@touch $@

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	$(DOCS)/bin/python docs/check_links.py build/site

qgis-plugin:
	@test -n '$(PYTHON)' || { echo 'Found no Python 3.11 to 3.13; install one, or make PYTHON=/path/to/python' >&2; exit 1; }
	'$(PYTHON)' integrations/qgis/package.py build/refnet-qgis.zip

clean:
	rm -rf $(VENV) $(DOCS) out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
