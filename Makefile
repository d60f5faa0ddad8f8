# anomalysmith. `make demo` and `make test` need Linux, Python 3.11 to 3.13, make and a package index.
PYTHON ?= python3
VENV ?= .venv
PYTEST ?= -n 2 --dist loadfile
BIN = $(VENV)/bin

# Two stamps inside the venv: a new lock empties and refills it, a new pyproject.toml or another
# checkout only reinstalls the editable project.
LOCKED := $(VENV)/locked-$(shell cksum < requirements.lock | cut -d' ' -f1)
READY := $(VENV)/ready-$(shell (pwd; cat requirements.lock pyproject.toml) | cksum | cut -d' ' -f1)

# Once per venv and catalogue: the default model files were asked for, with or without success.
WEIGHTS := $(VENV)/weights-$(shell cksum < pipeline/models/weights/catalog.py | cut -d' ' -f1)

# What is supported: the classifiers of pyproject.toml.
PYTHONS ?= python3.11 python3.12 python3.13

# The tools that open our exports, laid over $(VENV) (docs/decisions/0011-peers-beside-the-project.md).
PEERS ?= .venv-peers
PEERS_READY := $(PEERS)/ready-$(shell (echo $(abspath $(VENV)); cat requirements.lock requirements-peers.lock) | cksum | cut -d' ' -f1)
PACKAGES = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test test-pythons test-peers test-browser lint bench lock lock-peers install locked clean
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: install ## render example scenes, generate dataset versions, train and evaluate detectors
	$(BIN)/python -m flows.demo

test: install ## the whole test suite (PYTEST='-x -k name' for a part, '-m slow' for the slow tests)
	$(BIN)/python -m pytest $(PYTEST)

# A shim of pyenv is on the path without its version, hence the second place to look.
test-pythons: ## the suite on every supported Python, each with a venv of its own (PYTHONS='python3.13')
	@for python in $(PYTHONS); do \
	    for found in $$python $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$${python#python}.*/bin/$$python none; do \
	        $$found -c '' 2> /dev/null && break; \
	    done; \
	    if [ "$$found" = none ]; then ended="not found"; \
	    elif $(MAKE) test PYTHON=$$found VENV=$(VENV)-$$python; then ended="passed"; \
	    else ended="failed"; fi; \
	    all="$$all$$python: $$ended\n"; \
	done; \
	printf "$$all"; ! printf "$$all" | grep -qv ': passed'

test-peers: install $(PEERS_READY) ## open every export with the tool that it is for
	$(PEERS)/bin/python -m pytest -n 0 -m 'slow or not slow' tests/pipeline/export/test_export_peers.py tests/detectors/metrics/test_metrics_peers.py

test-browser: install ## the pages of `serve` in Chromium, also the slow tests (minutes)
	$(BIN)/python -m pytest -n 0 -m 'slow or not slow' tests/flows/serve/test_browser.py

lint: install ## ruff, import contracts, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: install ## every performance claim of the README, measured
	PEERS=$(PEERS) $(BIN)/python -m benchmarks

lock: ## resolve requirements.in into requirements.lock (UPGRADE=1: newest allowed versions)
	UPGRADE=$(UPGRADE) $(PYTHON) .ci/lock.py

lock-peers: ## resolve requirements-peers.in on top of requirements.lock
	$(PYTHON) .ci/lock_peers.py

clean: ## remove what runs left behind; .venv stays
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

install: $(WEIGHTS) ## build .venv from the lock, and fetch the small default model files
locked: $(LOCKED)

$(LOCKED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "anomalysmith needs Python 3.11, 3.12 or 3.13; $(PYTHON) is " + sys.version.split()[0] + ", so name another: make PYTHON=python3.13")'
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 14) or print("Python 3.11 to 3.13 are tested; $(PYTHON) is " + sys.version.split()[0])'
	@echo "installing the locked packages into $(VENV): minutes, once"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	touch $@

$(READY): | $(LOCKED)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# Files that are there are kept. Where no index offers the others, the bundled models do the work.
$(WEIGHTS): | $(READY)
	@said=$$($(BIN)/anomalysmith weights pull 2>&1) \
	    || echo "$$(echo "$$said" | tail -n 1); the bundled models do the work, \`anomalysmith weights pull\` tries again"
	@touch $@

$(PEERS_READY): | $(READY)
	@echo "installing the tools that open exports into $(PEERS): minutes, once"
	$(PYTHON) -m venv --clear $(PEERS)
	echo "import site; site.addsitedir('$$($(BIN)/python $(PACKAGES))')" > "$$($(PEERS)/bin/python $(PACKAGES))/project.pth"
	$(PEERS)/bin/python -m pip install --quiet --no-deps -r requirements-peers.lock
	touch $@
