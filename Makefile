# Everything lives in .venv at the root. A newcomer needs two of these: `make demo` and `make test`.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow develop lint

## Find the faces on the photographs in examples/ (installs the small package, without torch).
demo: .venv/.small
	$(BIN)/nnface detect examples/*.jpg --draw demo --force
	@echo "The annotated pictures are in demo/"

## All quick tests and a sample of the long ones. PYTEST="-k zoo" narrows them.
test: .venv/.full
	$(BIN)/python -m pytest $(PYTEST)

## All tests, the long ones too.
test-slow: .venv/.full
	$(BIN)/python -m pytest --slow all $(PYTEST)

## Everything but what needs a GPU or a cluster, to work on nnface.
develop: .venv/.full

## Style, types and layers.
lint: .venv/.full
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The stamps bear the moment of the last install; the environment is kept and only brought up to date.
.venv/.made:
	@test -n "$(PYTHON)" || { echo "nnface needs Python 3.11 or newer; there is none on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.small: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/.full: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[data,dev,tensorboard,train]'
	@touch .venv/.small $@
