# Everything runs in an environment of its own, .venv, made from specs/dev.lock.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
ARCH ?=
SOURCE ?=
TAG ?=
VECTOR_STORE ?=
COMPRESS ?=
DB ?=
PROFILE ?=
ENGINE ?=
SPLIT ?=
BASE ?=
STORE ?=
# A folder shaped like a Dify checkout, for the tests with upstream's real files.
DIFY ?= $(DIFY_CHECKOUT)
# Where tests and demo keep what is slow to make.
WORK ?= .cache/tests
# How long the fault trials go on, and the seed that they are drawn from (else one at random, which is told).
MINUTES ?= 30
SEED ?=

.PHONY: help bundle test check demo bench growth faults docs selinux format clean system-packages

help:
	@echo "make bundle   dist/dify-installer, dist/dify-images.tar, dist/SHA256SUMS"
	@echo "              SOURCE=PATH|URL TAG=1.11.3 ARCH=amd64 VECTOR_STORE=weaviate DB=postgresql ENGINE=podman SPLIT=4G BASE=manifest.json STORE=1 COMPRESS=1"
	@echo "make demo     builds the sample's bundle and installs it on an air-gapped target machine (root)"
	@echo "make test     style, types, unit and end-to-end tests (root); DIFY=PATH adds upstream's real files"
	@echo "make bench    measures our way against the manual one, side by side (root)"
	@echo "make growth   measures how an installation's cost grows with the bundle: 1 to 16 GB, 13 to 40 images (root)"
	@echo "make faults   breaks installations on purpose, MINUTES=30 long, drawn from SEED (root): tests/faults/RESULTS.md"
	@echo "make selinux  installs on a virtual machine with SELinux enforcing: RIG=PATH DIST=PATH"
	@echo "make check    style, types and unit tests alone"
	@echo "make docs     writes the tables in docs/ that are made from the code"

$(VENV)/complete: specs/dev.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement specs/dev.lock
	touch $@

bundle: $(VENV)/complete
	$(RUN) -m build bundle $(if $(SOURCE),--source $(SOURCE)) $(if $(TAG),--tag $(TAG)) $(if $(ARCH),--arch $(ARCH)) \
	    $(if $(VECTOR_STORE),--vector-store $(VECTOR_STORE)) $(if $(DB),--db $(DB)) $(if $(PROFILE),--profile $(PROFILE)) $(if $(ENGINE),--engine $(ENGINE)) $(if $(SPLIT),--split $(SPLIT)) $(if $(BASE),--base $(BASE)) $(if $(STORE),--store) $(if $(COMPRESS),--compress)

check: $(VENV)/complete
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest tests/unit $(if $(DIFY),--dify=$(DIFY))

test: system-packages $(VENV)/complete
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest tests --durations=10 --work=$(WORK) $(if $(DIFY),--dify=$(DIFY)) $(PYTEST)

demo: system-packages $(VENV)/complete
	$(RUN) -m tests.target.demo $(WORK)

# The tables in docs/ that are made from the code: commands, options, exit codes, checks, host features.
docs: $(VENV)/complete
	$(RUN) -m tests.docs

# Our way against the manual one; 10 GB of disk and half an hour. Writes tests/bench/RESULTS.md and results.svg.
bench: system-packages $(VENV)/complete
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement specs/bench.lock
	$(RUN) -m tests.bench.bench --work $(WORK) $(BENCH)

# What an installation costs as the bundle grows; 40 GB of disk and half an hour. Writes tests/bench/GROWTH.md.
growth: system-packages $(VENV)/complete
	$(RUN) -m tests.bench.growth --work $(WORK) $(GROWTH)

# Kills, power cuts, damage, full disks, broken states. Writes tests/faults/RESULTS.md, and JSON lines below WORK.
faults: system-packages $(VENV)/complete
	$(RUN) -m tests.faults --work $(WORK) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# On a virtual machine with SELinux enforcing, made by the rig in RIG; a quarter of an hour, emulated.
selinux: $(VENV)/complete
	@test -n "$(RIG)" || { echo "name the rig: make selinux RIG=PATH" >&2; exit 2; }
	$(RUN) -m tests.target.selinux $(RIG) $(WORK)/selinux $(DIST)

# Debian packages that the target machine, the registry and the stand-in images need.
system-packages:
	bash tests/target/packages.sh

format: $(VENV)/complete
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf dist .cache .venv .mypy_cache .pytest_cache .ruff_cache
	find payload -mindepth 1 ! -name README.md -delete
