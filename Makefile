# Everything a fresh machine needs is Python 3.10-3.13, make and a package index. Nothing is left outside this folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
CONSTRAIN := -c constraints.txt
CHECKPOINT ?=
JOBS ?= 3
OUT ?= out/demo
SERVE ?=
FRONTEND := sam2fast/demo/frontend

export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export npm_config_cache := $(CURDIR)/.cache/npm
export TRITON_CACHE_DIR := $(CURDIR)/.cache/triton
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/.cache/inductor
# Bytecode is kept whatever the machine is set to: the tests start a hundred processes, and pytest rewrites their files.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-web frontend check-frontend test-browser test test-slow test-transformers aot aot-3.6 bench bench-ops bench-transformers figures gpu tune lint format clean

demo: $(VENV)/.demo  ## install, then segment and track; with another model: CHECKPOINT=FILE make demo
	$(BIN)/sam2fast demo --out $(OUT) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

demo-web: frontend $(VENV)/.serve  ## build the page, then serve it and its API; SERVE="--model tiny --port 8000"
	$(BIN)/sam2fast serve $(SERVE)

frontend: $(FRONTEND)/node_modules/.package-lock.json  ## the web demo's page, into the package; needs node
	cd $(FRONTEND) && npm run build

check-frontend: $(FRONTEND)/node_modules/.package-lock.json  ## style, types and unit tests, and that the package's page is of these sources
	cd $(FRONTEND) && npm run check

test-browser: $(VENV)/.serve $(FRONTEND)/node_modules/.package-lock.json  ## the page in Chromium, with the server and nano; CHROMIUM=FILE
	cd $(FRONTEND) && SAM2FAST_PYTHON="$(abspath $(BIN))/python" npm run test:browser

# Processes of one thread each: most tests are too small for two threads to help. One more than two cores, for waits.
test: $(VENV)/.tested  ## install with the oracle, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile $(PYTEST)

test-slow: $(VENV)/.tested  ## the larger models
	$(BIN)/pytest -m slow $(PYTEST)

test-transformers: .venv-transformers/.installed  ## the second oracle, in an environment without torchvision
	.venv-transformers/bin/pytest -o addopts="--import-mode=importlib" tests/transformers $(PYTEST)

aot: $(VENV)/.installed  ## compile every stored kernel configuration without a GPU
	env -u TRITON_INTERPRET $(BIN)/python bench/aot.py $(AOT)

aot-3.6: .venv-triton-3.6/.installed  ## the same with the oldest supported triton
	env -u TRITON_INTERPRET .venv-triton-3.6/bin/python bench/aot.py $(AOT)

# From bench/, so that the top of the repository stays off Python's path.
bench: $(VENV)/.tested  ## whole calls beside the official package on this machine, a quarter of an hour; BENCH=--help
	cd bench && $(abspath $(BIN))/python -m suite $(BENCH)

bench-ops: $(VENV)/.tested  ## microbenchmarks of the ops on this machine
	$(BIN)/pytest bench --benchmark-only $(PYTEST)

bench-transformers: .venv-transformers/.installed  ## beside Hugging Face transformers, in its environment
	.venv-transformers/bin/python bench/transformers_side_by_side.py --out bench/results $(ARGS)

figures: $(VENV)/.tested  ## tables and charts of README.md and docs/ from bench/results
	$(BIN)/python bench/figures $(ARGS)

# On a CUDA machine, with the Python that has torch and triton; no installation, no network.
gpu:  ## proof and figures: make gpu PART=parity, micro, sanitize, video-t, video-s, video-b, video-l, image, amg, cold
	@# A copy of the tree may have lost its symbolic links.
	@for name in kernels configs; do [ -d sam2fast/$$name ] || { rm -f sam2fast/$$name; ln -s ../$$name sam2fast/$$name; }; done
	PYTHONPATH=$(CURDIR) $(PYTHON) bench/gpu.py --part $(PART) $(GPU)

tune:  ## measure launch configurations on this GPU and store the best
	PYTHONPATH=$(CURDIR) $(PYTHON) bench/tune.py $(if $(OP),--op $(OP))

lint: $(VENV)/.linted  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.linted
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(FRONTEND)/node_modules $(VENV) .venv-transformers .venv-triton-3.6 .cache build dist out *.egg-info

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created setup.py pyproject.toml constraints.txt
	$(PIP) install --quiet $(CONSTRAIN) -e .
	touch $@

$(VENV)/.demo: $(VENV)/.installed
	$(PIP) install --quiet $(CONSTRAIN) -e ".[video,eval]"
	touch $@

$(VENV)/.serve: $(VENV)/.installed
	$(PIP) install --quiet $(CONSTRAIN) -e ".[serve]"
	touch $@

$(FRONTEND)/node_modules/.package-lock.json: $(FRONTEND)/package-lock.json
	cd $(FRONTEND) && npm ci --no-fund --no-audit
	touch $@

$(VENV)/.tested: $(VENV)/.installed tests/oracle.txt
	$(PIP) install --quiet $(CONSTRAIN) -e ".[test]" wheel
	SAM2_BUILD_CUDA=0 $(PIP) install --quiet --no-deps --no-build-isolation -r tests/oracle.txt
	touch $@

$(VENV)/.linted: $(VENV)/.installed
	$(PIP) install --quiet $(CONSTRAIN) ruff mypy types-tqdm
	touch $@

# Not from constraints.txt, which pins the triton that pairs with its torch.
.venv-triton-3.6/.installed: setup.py
	$(PYTHON) -m venv .venv-triton-3.6
	.venv-triton-3.6/bin/python -m pip install --quiet "torch>=2.6,<2.14" triton==3.6.0 numpy setuptools
	.venv-triton-3.6/bin/python -m pip install --quiet --no-deps -e .
	touch $@

.venv-transformers/.installed: setup.py constraints.txt tests/transformers/requirements.txt
	$(PYTHON) -m venv .venv-transformers
	.venv-transformers/bin/python -m pip install --quiet $(CONSTRAIN) -e . -r tests/transformers/requirements.txt
	touch $@
