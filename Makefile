# The book "Where to Look". `make help` says what can be made; `make book` and `make test` need nothing done before.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PORT ?= 8000
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup digits book test serve lab strip repository clean distclean

help: ## show this list
	@echo "make …"
	@sed -n 's/^\([a-z]*\):.*## /  \1: /p' Makefile
	@echo "Variables: PYTHON=python3.12 (3.11 or newer), VENV=folder, PORT=8000,"
	@echo "TORCH_INDEX=URL (take torch and torchvision from this package index)."

setup: ## virtual environment and everything that has to be installed
	@command -v "$(PYTHON)" >/dev/null || { echo "No $(PYTHON) found: install Python 3.11 or newer, or name it: make PYTHON=…"; exit 1; }
	@"$(PYTHON)" tools/install.py --venv "$(VENV)" --torch-index "$(TORCH_INDEX)"

digits: setup ## the digits: MNIST found or downloaded, or the ones inside scikit-learn
	@"$(BIN)/python" tools/digits_ready.py

# The pages are always read afresh: read incrementally, a warning of the last build would go unseen in this one.
# What is slow, executing the chapters, is done before, several at once, and comes from the cache under _build.
book: digits ## execute the chapters and build the site
	@rm -rf _build/html
	@"$(BIN)/python" tools/execute.py
	@"$(BIN)/jupyter-book" build . --all -W --keep-going -n || { echo "The book was not built: see above, and _build/html/reports."; exit 1; }
	@echo "The book: _build/html/index.html (open it in a browser, or run: make serve)"

# Two processes share the cores, so each computes on one.
PYTEST := OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n 2 --dist loadscope

test: book ## build the book, then test package, chapters (on both sources of digits) and pages
	@"$(BIN)/ruff" check .
	@echo "Chapters on the digits of scikit-learn, by nbval"
	@STN_SOURCE=sklearn $(PYTEST) --nbval-lax notebooks
	@echo "Package, pages, and the chapters as the build has just executed them"
	@$(PYTEST) tests

serve: ## show the built site on http://127.0.0.1:8000
	@test -e _build/html/index.html || { echo "Nothing built yet: run make book first."; exit 1; }
	@"$(PYTHON)" -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lab: digits ## work on the chapters in JupyterLab
	@"$(BIN)/jupyter" lab notebooks

strip: setup ## empty the chapters' outputs before a commit, but for those that tests compare
	@"$(BIN)/python" tools/strip.py notebooks/*.ipynb

repository: ## write the repository's public address: make repository URL=https://github.com/owner/name
	@"$(PYTHON)" tools/repository.py "$(URL)"

clean: ## remove the built site, the chapters' cache and what tools left behind
	rm -rf _build build dist .pytest_cache .hypothesis .ruff_cache checkpoints
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too (downloaded digits, in data/, stay)
	rm -rf "$(VENV)"
