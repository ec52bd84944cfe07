# `make serve` and `make test` need nothing but Python 3.11 to 3.13, make and a package index; they install the rest.

MODEL   ?=
ARGS    ?=
BACKEND ?= auto
VENV    := .venv/bin
SETUP   := .venv/.installed
# Files that train take longest; at the end they would keep one worker waiting for the other.
LONG_FIRST := tests/trainer $(filter-out %/acceptance/ %/trainer/ %/__pycache__/,$(wildcard tests/*/))

.DEFAULT_GOAL := help
.PHONY: help install serve test lint format guard fuzz soak clean

help:  ## what make can do
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

install: $(SETUP)  ## make .venv and install everything into it; BACKEND=cpu or cuda overrides what is detected

serve: $(SETUP)  ## run the server on http://127.0.0.1:8000; MODEL=directory or org/name, ARGS="flags of patchbay serve"
	@$(VENV)/patchbay serve $(MODEL) $(ARGS)

# The acceptance tests first and alone: they and tests beside them would take each other's CPU.
test: $(SETUP)  ## run all tests; or those that ARGS="flags and paths of pytest" name
ifeq ($(ARGS),)
	$(VENV)/pytest tests/acceptance
	$(VENV)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(LONG_FIRST)
else
	$(VENV)/pytest $(ARGS)
endif

lint: $(SETUP)  ## ruff, mypy and the import contracts
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/lint-imports --no-logo

format: $(SETUP)  ## let ruff repair what it can
	$(VENV)/ruff check --fix
	$(VENV)/ruff format

guard: $(SETUP)  ## two minutes: fail if we are slower, against stock vLLM, than what bench/results has
	$(VENV)/patchbay bench guard $(ARGS)

fuzz: $(SETUP)  ## a minute of coverage-guided fuzzing for each parser of what strangers send
	@for parser in header config reference range; do $(VENV)/python -m tests.fuzz $$parser -max_total_time=60 $(ARGS) || exit 1; done

soak: $(SETUP)  ## half an hour of everything at once with kills; fails if anything acknowledged is lost
	$(VENV)/patchbay bench soak $(ARGS)

clean:  ## remove .venv and caches; .data stays
	rm -rf .venv dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SETUP): setup/install pyproject.toml requirements-overrides.txt
	setup/install $(BACKEND) dev
	@touch $@
