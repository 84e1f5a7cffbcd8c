# What one can do here: `make help`. Every target sets up what it needs first (.ci/setup).
#
# PACKAGES=no       leave the system's packages alone
# DEMO_ARGS=--once  stop everything at the end of the demo, on a terminal too
# PYTEST_ARGS=...   more arguments for pytest
# BENCH_ARGS=...    arguments of the benchmark, as --rounds 5 or --help
# ENGINE=docker     what builds the image, instead of buildah
# IMAGE_ARGS=...    more arguments for it, as --build-arg APT_MIRROR=... (buildah/images/README.md)
# LOCK_ARGS=...     more arguments for the resolver, as --upgrade or --upgrade-package NAME

BIN := .venv/bin
ENGINE := buildah

.DEFAULT_GOAL := help
.PHONY: help setup demo image lint test test-slow bench chart lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing: Debian packages and .venv
	@.ci/setup

demo: setup ## a registry, a server, an upload, and the image in the registry
	@$(BIN)/python examples/cli/demo.py $(DEMO_ARGS)

# Nothing that a build runs needs more than a chroot, which takes no container runtime.
image: setup ## the container image, as localhost/tusboat
	BUILDAH_ISOLATION=chroot $(ENGINE) build --file buildah/images/debian/Containerfile --tag tusboat $(IMAGE_ARGS) .

lint: setup ## style, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy server hooks buildah
	$(BIN)/lint-imports

test: lint ## lint, then every test that is not slow
	$(BIN)/pytest -m "not slow" $(PYTEST_ARGS)

test-slow: setup ## the slow tests: kill loops and gigabytes
	$(BIN)/pytest -m slow --timeout=1800 $(PYTEST_ARGS)

bench: setup ## receiving, measured beside other tus servers (numbers only)
	@$(BIN)/python -m tests.benchmarks.receiving $(BENCH_ARGS)

chart: setup ## the chart's README and schema, from its values and the settings
	@$(BIN)/python .ci/chart

lock: ## resolve requirements/*.txt anew from pyproject.toml, keeping what is locked
	@.ci/lock $(LOCK_ARGS)

clean: ## remove .venv and the tools' caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .bench dist \
		tests/clients/node_modules tests/helm/node_modules server/console/node_modules server/console/dist .screenshots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
