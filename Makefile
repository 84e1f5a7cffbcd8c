# What one can do here: `make help`. Every target sets up what it needs first (.ci/setup).
#
# PACKAGES=no       leave the system's packages alone
# DEMO_ARGS=--once  stop everything at the end of the demo, on a terminal too
# PYTEST_ARGS=...   more arguments for pytest
# BENCH_ARGS=...    arguments of the benchmark, as --rounds 5 or --help
# ENGINE=podman     what builds and pushes the image, instead of buildah; or docker
# IMAGE=...         the image's name, instead of localhost/tusboat
# PLATFORMS=...     what it is for, as linux/amd64,linux/arm64; without it, this machine
# BASE=... APT_MIRROR=... SNAPSHOT=... PIP_INDEX_URL=... BUILDAH_SUITE=...
#                   what it is made of: buildah/images/README.md
# IMAGE_ARGS=...    more arguments for ENGINE when it builds; PUSH_ARGS=... when it pushes
# TO=...            where `make image-push` puts it, as harbor.example/library/tusboat:1
# LOCK_ARGS=...     more arguments for the resolver, as --upgrade or --upgrade-package NAME

BIN := .venv/bin
ENGINE := buildah
IMAGE := localhost/tusboat
BUILD_ARGS := BASE APT_MIRROR SNAPSHOT PIP_INDEX_URL BUILDAH_SUITE
# Of several platforms each has an image, and the name is a list's.
comma := ,
SEVERAL := $(findstring $(comma),$(PLATFORMS))

.DEFAULT_GOAL := help
.PHONY: help setup demo image image-push lint test test-slow bench chart lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing: Debian packages and .venv
	@.ci/setup

demo: setup ## a registry, a server, an upload, and the image in the registry
	@$(BIN)/python examples/cli/demo.py $(DEMO_ARGS)

# What the environment says is not taken: a BASE there may be anyone's. Nothing that a build runs needs more
# than a chroot, which takes no container runtime. A list that is there already would get a second image for
# each platform.
image: setup ## the container image, as localhost/tusboat
ifneq ($(SEVERAL),)
	$(if $(findstring docker,$(ENGINE)),$(error docker keeps no list of images without more set-up: \
		ENGINE=podman or buildah, or one platform at a time))
	! $(ENGINE) manifest exists $(IMAGE) || $(ENGINE) manifest rm $(IMAGE)
endif
	BUILDAH_ISOLATION=chroot $(ENGINE) build --file buildah/images/debian/Containerfile \
		$(foreach name,$(BUILD_ARGS),$(if $(findstring command,$(origin $(name))),--build-arg $(name)='$($(name))')) \
		$(if $(PLATFORMS),--platform $(PLATFORMS)) $(if $(SEVERAL),--manifest,--tag) $(IMAGE) $(IMAGE_ARGS) .

image-push: ## what `make image` made, with all its platforms, into a registry: TO=...
	$(if $(TO),,$(error TO= has to say where to, as TO=harbor.example/library/tusboat:1))
ifeq ($(findstring docker,$(ENGINE)),)
	if $(ENGINE) manifest exists $(IMAGE); then $(ENGINE) manifest push --all $(PUSH_ARGS) $(IMAGE) docker://$(TO); \
		else $(ENGINE) push $(PUSH_ARGS) $(IMAGE) docker://$(TO); fi
else
	$(ENGINE) tag $(IMAGE) $(TO)
	$(ENGINE) push $(PUSH_ARGS) $(TO)
endif

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
