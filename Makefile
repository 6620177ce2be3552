# Two commands: `make book` builds the book, `make test` checks everything that it says.
# Each installs what it needs into .venv, asks nothing, and is quick the second time.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two recipes at once would install into one environment at the same time.
.NOTPARALLEL:

VENV := .venv
PY := $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
PIP := $(PY) -m pip install --quiet --progress-bar off
# A user's own kernels and packages must not stand in for those of .venv.
unexport JUPYTER_PATH PYTHONPATH PYTHONHOME PYTHONSTARTUP
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: help book test lab sync bench browser clean

help:
	@echo "make book              build the book: _build/html/index.html"
	@echo "make test              run every test: the code, the notebooks, the pages in a browser"
	@echo "make lab               open the chapters in JupyterLab"
	@echo "make sync              run the chapters and store them as notebooks"
	@echo "make sync CHAPTER=02   only this one"
	@echo "make bench             this project against its peers, on this machine: some 35 minutes"
	@echo "make bench ONLY=race   only this part: training, race, generation or memory"
	@echo "make clean             remove what was built; .venv stays (delete it by hand)"

# The first interpreter that is new enough; PYTHON=... chooses another.
define find_python
for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    python="$$candidate"; break; \
  fi; \
done; \
if [ -z "$${python:-}" ]; then \
  echo "This book needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || true)." >&2; \
  echo "Install it, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
  exit 1; \
fi
endef

# The stamps are written last: an installation that was interrupted starts again.
$(VENV)/book.stamp: requirements.txt pyproject.toml
	@$(find_python); \
	rm -f $@; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "No virtual environment could be made; on Debian: apt-get install python3-venv" >&2; \
	    exit 1; }; \
	fi
	@echo "Installing the tested versions into $(VENV) (some minutes the first time) ..."
	@$(PIP) -r requirements.txt </dev/null
	@touch $@

$(VENV)/test.stamp: $(VENV)/book.stamp requirements-test.txt
	@rm -f $@
	@echo "Installing what the tests need ..."
	@$(PIP) -r requirements-test.txt </dev/null
	@touch $@

$(VENV)/bench.stamp: $(VENV)/book.stamp benchmarks/requirements.txt
	@rm -f $@
	@echo "Installing what this project is compared with ..."
	@$(PIP) -r benchmarks/requirements.txt </dev/null
	@touch $@

# Sphinx rebuilds what changed. After a failure it must not remember what it had read: it would
# not warn again, and the second attempt would pass.
book: $(VENV)/book.stamp
	@$(VENV)/bin/jupyter-book build . -W -n --keep-going --quiet </dev/null >/dev/null || \
	  { rm -rf _build/.doctrees; echo "The book was not built; the reasons are above." >&2; exit 1; }
	@$(PY) -m bookkit.pages _build/html

browser: $(VENV)/test.stamp
	@$(PY) -m bookkit.browser </dev/null

# Two tests at a time. Threads that wait for one another sleep: spinning, they would keep
# the other process from working.
test: $(VENV)/test.stamp browser
	@OMP_WAIT_POLICY=passive $(PY) -m pytest -n 2 --dist worksteal </dev/null

lab: $(VENV)/book.stamp
	@[ "$$(id -u)" != 0 ] || root=--allow-root; \
	$(PY) -m jupyterlab $${root:-} --LabApp.default_url=/lab/tree/chapters

sync: $(VENV)/book.stamp
	@$(PY) -m bookkit.sync $(CHAPTER) </dev/null

# NANOGPT=/its/folder adds nanoGPT; ROUNDS and THREADS as `python -m benchmarks --help` says.
bench: $(VENV)/bench.stamp
	@$(PY) -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(THREADS),--threads $(THREADS)) </dev/null

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests chapters benchmarks -name __pycache__ -o -name .ipynb_checkpoints -o -name '*.partial' \
	  | while IFS= read -r each; do rm -rf "$$each"; done
