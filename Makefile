# Everything lives in .venv at the root. A newcomer needs two of these: `make demo` and `make test`.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow develop lint browser

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

## The page in examples/browser with what it needs: ONNX Runtime for browsers (needs npm) and the bundled models.
browser: examples/browser/node_modules/.package-lock.json
	mkdir -p examples/browser/models
	cp $(wildcard $(addprefix src/nnface/zoo/weights/,default.onnx parser.onnx)) examples/browser/models/
	@echo "Now: python3 -m http.server --bind 127.0.0.1 --directory examples/browser 8000"

# Exactly what the lock names, by hash, and none of its install scripts.
examples/browser/node_modules/.package-lock.json: examples/browser/package-lock.json
	cd examples/browser && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# The stamps bear the moment of the last install; the environment is kept and only brought up to date.
.venv/.made:
	@test -n "$(PYTHON)" || { echo "nnface needs Python 3.11 or newer; there is none on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.small: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/.full: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[data,dev,ncnn,openvino,scale,tensorboard,train]'
	@touch .venv/.small $@
