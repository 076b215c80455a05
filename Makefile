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
FRONTEND := frontend

export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export npm_config_cache := $(CURDIR)/.cache/npm
export TRITON_CACHE_DIR := $(CURDIR)/.cache/triton
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/.cache/inductor
# Digests of large files, which commands keep.
demo test test-all test-rest slow-tests test-slow test-browser test-clients properties kills fuzz inject notebooks: export SAM2FAST_CACHE := $(CURDIR)/.cache/sam2fast
# Otherwise onnxruntime keeps a device id in the home folder, and pip, which asks rustc for its version, may make ~/.rustup.
export ORT_DISABLE_TELEMETRY := 1
ifeq ($(wildcard $(HOME)/.rustup),)
export RUSTUP_HOME := $(CURDIR)/.cache/rustup
endif
# Bytecode is written at the first import, not by pip for all of torch; and kept whatever the machine is set to: the tests
# start a hundred processes, and pytest rewrites their files.
export PIP_COMPILE := 0
export PYTHONDONTWRITEBYTECODE :=

# Tests download no weights.
test test-all test-rest slow-tests test-slow test-browser properties kills fuzz inject notebooks: export SAM2FAST_OFFLINE := 1

.PHONY: help demo release demo-web frontend check-frontend test-browser test properties kills fuzz inject test-all test-rest slow-tests test-slow test-transformers test-family test-clients notebooks aot test-triton sass bench bench-family bench-ops figures docs gpu carry tune where matrix lint audit format clean

USERS := help|demo|demo-web|test|bench|docs|clean
# Two groups of at most twelve targets. CONTRIBUTING.md and bench/README.md describe the targets with one # as comment.
help:  ## this list
	@for which in "" -v; do \
		[ "$$which" ] && printf '\nFor maintainers (more: CONTRIBUTING.md, bench/README.md):\n' || echo 'For users:'; \
		grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | grep -E $$which '^($(USERS)):' \
			| sed -E 's/^([a-z-]+):.*## */\1|/' | awk -F '|' '{ printf "make %-18s %s\n", $$1, $$2 }'; \
	done

demo: $(VENV)/.video  ## install, then segment and track; CHECKPOINT=FILE for another model
	$(BIN)/sam2fast demo --out $(OUT) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

demo-web: frontend $(VENV)/.serve  ## build the page, then serve it and its API; SERVE="--model tiny --port 8000"
	$(BIN)/sam2fast serve $(SERVE)

frontend: $(FRONTEND)/node_modules/.package-lock.json  # the web demo's page, into the package; needs node
	cd $(FRONTEND) && npm run build

# The page of the sources. That in the package is of the last release.
out/page/index.html: $(FRONTEND)/node_modules/.package-lock.json $(shell find $(FRONTEND)/src $(FRONTEND)/public $(FRONTEND)/index.html -type f)
	cd $(FRONTEND) && npm run build -- --outDir "$(CURDIR)/out/page" --logLevel warn

check-frontend: out/page/index.html  ## style, types, unit tests and build of the web demo's page
	cd $(FRONTEND) && npm run check

test-browser: $(VENV)/.tested $(VENV)/.serve out/page/index.html  ## tests of the page in Chromium, with the server and nano; CHROMIUM=FILE
	cd $(FRONTEND) && OMP_NUM_THREADS=1 SAM2FAST_PAGE="$(CURDIR)/out/page" SAM2FAST_PYTHON="$(abspath $(BIN))/python" npm run test:browser

# Processes of one thread each: most tests are too small for two threads to help. One more than two cores, for waits.
PYTESTS = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile
test: $(VENV)/.tested  ## install with the oracle, then run the fast tests
	$(PYTESTS) $(PYTEST)

test-all: $(VENV)/.tested  ## run all tests but those with the marker slow; see CONTRIBUTING.md
	$(PYTESTS) --set all $(PYTEST)

test-rest: $(VENV)/.tested  # run the tests that `make test` leaves out
	$(PYTESTS) --set rest $(PYTEST)

slow-tests: $(VENV)/.tested  # run all tests, then write from their costs which tests are slow
	mkdir -p out && $(PYTESTS) --set all --seconds="$(CURDIR)/out/seconds.json" $(PYTEST)
	$(BIN)/python tests/support/slow_tests.py out/seconds.json

EXAMPLES ?= 20
ifndef SEED
SEED := $(shell date +%s)
endif
RANDOM := tests/properties tests/sessions tests/faults/test_threads.py $(addprefix tests/strategies/test_,together.py random_histories.py sam2long.py)
properties: $(VENV)/.tested  # property-based and stateful tests, at random; EXAMPLES=20 times as many, SEED=1 to repeat
	@OMP_NUM_THREADS=1 SAM2FAST_EXAMPLES=$(EXAMPLES) $(BIN)/pytest $(RANDOM) --set all \
		--numprocesses $(JOBS) --dist loadfile --hypothesis-seed=$(SEED) $(PYTEST) \
		&& echo "properties hold: EXAMPLES=$(EXAMPLES) SEED=$(SEED)" \
		|| { echo "properties fail: EXAMPLES=$(EXAMPLES) SEED=$(SEED)"; exit 1; }

fuzz: $(VENV)/.tested  # mutated videos, images, checkpoints and texts for everything that reads files; EXAMPLES=20 times as many, SEED=1
	OMP_NUM_THREADS=1 SAM2FAST_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/fuzzing --set all \
		--numprocesses $(JOBS) --dist loadscope --hypothesis-seed=$(SEED) $(PYTEST)

RUNS ?= 50
kills: $(VENV)/.tested  # commands killed, interrupted and out of disk at random, run again and compared; RUNS=50 SEED=0 ONLY="track vos" REPORT=DIR
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/campaign.py --runs $(RUNS) --seed $(SEED) $(ONLY) $(if $(REPORT),--out "$(REPORT)")

# Most of it is the passes over videos and `generate`, of thousands of places each: PYTEST="-k 'not propagate'" leaves some out.
POINTS ?= all
inject: $(VENV)/.tested  # memory that runs out, and Ctrl-C, at every place of every call, or POINTS=100 of each; SEED=0
	@OMP_NUM_THREADS=1 SAM2FAST_INJECT_POINTS=$(POINTS) SAM2FAST_INJECT_SEED=$(SEED) \
		$(BIN)/pytest tests/faults/test_out_of_memory.py tests/faults/test_failing_programs.py $(PYTEST) \
		&& echo "calls that fail change nothing: POINTS=$(POINTS) SEED=$(SEED)" \
		|| { echo "a call that failed is not as if it had not been: POINTS=$(POINTS) SEED=$(SEED)"; exit 1; }

test-slow: $(VENV)/.tested  ## tests of minutes; before a release
	$(BIN)/pytest --set all -m slow $(PYTEST)

test-transformers: .venv-transformers/.installed  # the second oracle, in an environment without torchvision
	.venv-transformers/bin/pytest -o addopts="--import-mode=importlib" -m "not slow" tests/transformers $(PYTEST)

test-family: .venv-edgetam/.installed .venv-efficienttam/.installed  # SAM 2's relatives beside their published code, which has the name sam2, too
	for name in edgetam efficienttam; do \
		OMP_NUM_THREADS=1 .venv-$$name/bin/pytest -o addopts="--import-mode=importlib" tests/family $(PYTEST) || exit 1; \
	done

test-clients: .venv-clients/.installed  # programs that use sam2, unchanged, and those of the integrations; needs the network
	OMP_NUM_THREADS=1 .venv-clients/bin/python -m pytest -o addopts="--import-mode=importlib" tests/clients $(PYTEST)

# Kernels, IPython and matplotlib keep files of their own: inside the checkout, too.
NOTEBOOKS := out/notebooks
notebooks: $(VENV)/.notebooks  ## run shortened copies of all notebooks; WRITE=1 runs them in full and stores their outputs
	rm -rf $(NOTEBOOKS) && mkdir -p $(NOTEBOOKS) && cp notebooks/*.ipynb $(NOTEBOOKS)
	$(if $(WRITE),,sed -i.bak 's#sam2fast/mini#sam2fast/nano#; s#updates=40#updates=8#' $(NOTEBOOKS)/*.ipynb)
	env IPYTHONDIR="$(CURDIR)/.cache/ipython" JUPYTER_RUNTIME_DIR="$(CURDIR)/.cache/jupyter" \
		OMP_NUM_THREADS=1 \
		$(BIN)/pytest --nbmake --nbmake-timeout 600 --overwrite --exitfirst --durations 0 $(PYTEST) $(NOTEBOOKS)
	$(BIN)/python notebooks/clean.py $(NOTEBOOKS) $(if $(WRITE),notebooks,$(NOTEBOOKS))

TRITON ?=
OF_TRITON := $(if $(TRITON),.venv-triton-$(TRITON),$(VENV))
aot: $(OF_TRITON)/.installed  ## compile every kernel without a GPU; TRITON=3.4.0 with this version
	env -u TRITON_INTERPRET $(OF_TRITON)/bin/python bench/aot.py $(AOT)

test-triton: $(OF_TRITON)/.installed  # the kernels in the interpreter of a version of triton: TRITON=3.4.0
	OMP_NUM_THREADS=1 $(OF_TRITON)/bin/python -m pytest tests/kernels --set all --numprocesses $(JOBS) --dist loadfile $(PYTEST)

sass: $(VENV)/.installed  # read the machine code of every kernel: what a loop executes, and a bound on the speed of products; SASS="--target sm_90"
	env -u TRITON_INTERPRET $(BIN)/python bench/sass.py $(SASS)

# From bench/, so that the top of the repository stays off Python's path.
bench: $(VENV)/.tested  ## time whole calls beside the official package, for a quarter of an hour; BENCH=--help
	cd bench && "$(abspath $(BIN))/python" -m suite $(BENCH)

bench-family: $(VENV)/.tested .venv-edgetam/.installed .venv-efficienttam/.installed  # SAM 2's relatives beside their published code, ten minutes
	for folder in "$(BIN)" .venv-edgetam/bin .venv-efficienttam/bin; do \
		OMP_NUM_THREADS=1 "$$folder/python" bench/family_costs.py || exit 1; \
	done

bench-ops: $(VENV)/.tested  # microbenchmarks of the ops on this machine
	$(BIN)/pytest bench --benchmark-only $(PYTEST)

figures: $(VENV)/.tested  ## tables and sentences of README.md and docs/ from bench/results
	$(BIN)/python bench/figures $(ARGS)

# Material for MkDocs writes a paragraph about MkDocs 2 into every build, unless told that it was read. Not --quiet: what is
# not said is not counted as a warning either.
docs: $(VENV)/.docs  ## the documents as a site in out/docs, warnings are errors; LIVE=1 shows it while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(if $(LIVE),serve,build)

# On a CUDA machine, with the Python that has torch and triton; no installation, no network.
gpu:  ## checks and measurements on a CUDA machine, into out/gpu; PART=parity for some steps, GPU=--list
	@# A copy of the tree may have lost its symbolic links.
	@for name in kernels configs; do [ -d sam2fast/$$name ] || { rm -f sam2fast/$$name; ln -s ../$$name sam2fast/$$name; }; done
	$(PYTHON) bench/gpu $(if $(PART),--only "$(PART)") $(GPU)

carry: $(VENV)/.tested  # before a visit to a GPU without a network: what it may lack, into .carry
	$(BIN)/python bench/gpu/carry.py

tune:  # measure launch configurations on this GPU, and print what to change
	PYTHONPATH="$(CURDIR)" $(PYTHON) bench/tune.py $(if $(OP),--op $(OP))

release: $(VENV)/.installed frontend  ## build and check the page, wheel and sdist in dist/; publishes nothing
	@test -z "$$(git status --porcelain -- sam2fast/demo/server/static)" \
		|| { echo "commit the page that was built: sam2fast/demo/server/static"; exit 1; }
	rm -rf dist out/release
	$(PIP) install --quiet build twine
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv out/release
	out/release/bin/python -m pip install --quiet $(CONSTRAIN) dist/*.whl
	cd out/release && bin/sam2fast --help >/dev/null && bin/sam2fast segment ../../sam2fast/demo/media/coffee.jpg --point 290,150 --model nano --out .

where:  ## where a name is defined, tested, measured and documented; NAME=fill_holes, NAME=tracking/session.py
	@$(PYTHON) tests/support/where.py $(NAME)

matrix: $(VENV)/.created  # install in many environments and check each, by nox; ROWS="oldest no-extras", MATRIX="--report FILE"
	$(PIP) install --quiet nox
	$(BIN)/nox --envdir .cache/nox $(if $(ROWS),--sessions $(ROWS)) $(MATRIX)

SINCE ?=
lint: $(VENV)/.linted  ## style, types, directions of imports, words; expressions in lines changed since SINCE=COMMIT
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tests/support/hard_sentences.py $(SINCE)
	$(BIN)/python tests/api/check_user_types.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -o addopts="--import-mode=importlib" --quiet tests/style

audit: $(VENV)/.tested .venv-audit/.installed  # what is installed against published advisories; asks for them on the network
	@# Without what the index does not have: this package, the oracle's build, and the suffix of torch's CPU build.
	$(PIP) freeze --exclude-editable | sed '/ @ /d; s/+cpu$$//' > .venv-audit/requirements.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement .venv-audit/requirements.txt
	cd $(FRONTEND) && npm audit

format: $(VENV)/.linted  ## rewrite the style of Python files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove environments, caches and what was built
	rm -rf $(FRONTEND)/node_modules $(VENV) .venv-transformers .venv-edgetam .venv-efficienttam .venv-clients .venv-triton-* .venv-audit .cache .carry .*_cache .benchmarks .hypothesis build dist out *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created setup.py pyproject.toml constraints.txt
	$(PIP) install --quiet $(CONSTRAIN) -e .
	touch $@

# The extras of what is installed, which is not built again.
$(addprefix $(VENV)/.,video notebooks serve docs): $(VENV)/.%: $(VENV)/.installed
	$(PIP) install --quiet $(CONSTRAIN) "sam2fast[$*]"
	touch $@

$(FRONTEND)/node_modules/.package-lock.json: $(FRONTEND)/package-lock.json
	cd $(FRONTEND) && npm ci --no-fund --no-audit
	touch $@

$(VENV)/.tested: $(VENV)/.installed tests/oracle.txt
	$(PIP) install --quiet $(CONSTRAIN) "sam2fast[test]" wheel
	SAM2_BUILD_CUDA=0 $(PIP) install --quiet --no-deps --no-build-isolation -r tests/oracle.txt
	touch $@

# What mypy finds depends on what is installed: everything.
$(VENV)/.linted: $(VENV)/.tested
	$(PIP) install --quiet $(CONSTRAIN) ruff mypy types-tqdm import-linter codespell
	touch $@

# All extras of .ci/run at once.
$(VENV)/.complete: $(VENV)/.installed
	$(PIP) install --quiet $(CONSTRAIN) "sam2fast[docs,notebooks,serve]"
	touch $(VENV)/.docs $(VENV)/.notebooks $(VENV)/.serve $@

.venv-audit/.installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	touch $@

# Adds the packages of the main environment, behind its own, to an environment.
define with_main_environment
$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	> "$$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/main.pth"
endef

# Another triton before everything else that is in the main environment.
.venv-triton-%/.installed: $(VENV)/.tested
	$(BIN)/python -m venv .venv-triton-$*
	.venv-triton-$*/bin/python -m pip install --quiet --no-deps triton==$*
	$(call with_main_environment,.venv-triton-$*)
	touch $@

# Beside everything else that is in the main environment.
.venv-clients/.installed: $(VENV)/.tested tests/clients/requirements.txt tests/clients/requirements_napari.txt
	$(BIN)/python -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --no-deps -r tests/clients/requirements.txt
	$(call with_main_environment,.venv-clients)
	.venv-clients/bin/python -m pip install --quiet $(CONSTRAIN) -r tests/clients/requirements_napari.txt
	touch $@

.venv-%tam/.installed: setup.py constraints.txt tests/family/requirements_%tam.txt
	$(PYTHON) -m venv .venv-$*tam
	.venv-$*tam/bin/python -m pip install --quiet $(CONSTRAIN) -e . -r tests/family/requirements_$*tam.txt
	touch $@

.venv-transformers/.installed: setup.py constraints.txt tests/transformers/requirements.txt
	$(PYTHON) -m venv .venv-transformers
	.venv-transformers/bin/python -m pip install --quiet $(CONSTRAIN) -e . -r tests/transformers/requirements.txt
	touch $@
