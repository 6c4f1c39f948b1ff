# The two commands of the README are `make run` and `make test`; each does all the set-up it needs.
SHELL := /bin/bash
export OMP_WAIT_POLICY := PASSIVE
PV := .venv/bin/pv
PYTEST := .venv/bin/python -m pytest

.PHONY: run test test-slow test-gpu check format setup schemas reference docs clean

run: setup            ## validate our contracts and run their quick checks; leaves the tree as it is
	$(PV) validate contracts/*.yaml
	$(PV) falsify --all --allow-blocked --check

test: setup           ## the quick suite
	$(PYTEST) -n 2 --dist loadfile

test-slow: setup      ## what takes longer: kills, full-size properties, training
	$(PYTEST) -m slow

test-gpu: setup       ## what needs a CUDA device or a real Vulkan card; fails, not skips, without one
	PV_REQUIRE_GPU=1 $(PYTEST) -m gpu

check: setup          ## format, lint, types, quick tests
	.venv/bin/ruff format --check src tests falsifiers benchmarks scripts
	.venv/bin/ruff check src tests falsifiers benchmarks scripts
	.venv/bin/mypy
	$(MAKE) test

format: setup
	.venv/bin/ruff format src tests falsifiers benchmarks scripts
	.venv/bin/ruff check --fix src tests falsifiers benchmarks scripts

schemas: setup        ## write schemas/ from the models
	$(PV) schema --write

reference: setup      ## write docs/reference/ from the code
	.venv/bin/python scripts/reference.py

docs: reference       ## build the site into site/; no network; a broken link is an error (not with --quiet)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

setup:
	@bash scripts/setup.sh

clean:                ## remove what set-up and caches made; sources and evidence stay
	rm -rf .venv .pv .pv_cache .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info
