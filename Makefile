# Everything runs in an environment of its own, .venv, made from specs/dev.lock.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
ARCH ?=
SOURCE ?=
TAG ?=
VECTOR_STORE ?=
PLUGINS ?=
MARKETPLACE ?=
PLUGIN_KEY ?=
COMPRESS ?=
DB ?=
PROFILE ?=
ENGINE ?=
SPLIT ?=
BASE ?=
IMAGES ?=
# A folder shaped like a Dify checkout, for the tests with upstream's real files.
DIFY ?= $(DIFY_CHECKOUT)
# Where tests and demo keep what is slow to make.
WORK ?= .cache/tests
# A file with all programs of Kubernetes that was compiled before (tests/target/cluster/programs.py).
KUBERNETES ?=
# How many tests run at the same time; the end-to-end ones take 4 GB of memory and 15 GB of disk each. Three keep two
# processors busy: 8 % of a whole run they were idle.
LANES ?= 3
# Tells what takes long, while it runs: what, about how many seconds, and the log.
STEP := $(PYTHON) -m tests.target.steps

# How long the fault trials go on, and the seed that they are drawn from (else one at random, which is told).
MINUTES ?= 30
SEED ?=

.PHONY: help bundle test test-cluster test-stores check demo bench life growth scale faults docs selinux format lock release clean \
    system-packages demo-packages bench-packages cluster-packages

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | \
	    while IFS="$$(printf '\t')" read -r target text; do printf 'make %-16s %s\n' "$$target" "$$text"; done

$(VENV)/complete: specs/dev.lock
	@$(PYTHON) -m venv $(VENV)
	@$(STEP) "installing the tools into $(VENV)" 15 .cache/venv.log \
	    $(VENV)/bin/pip install --disable-pip-version-check --require-hashes --requirement specs/dev.lock
	@touch $@

bundle: $(VENV)/complete ## dist/dify-installer, dist/dify-images.squashfs or .tar, dist/SHA256SUMS; its variables stand in docs/building.md
	$(RUN) -m build bundle $(if $(SOURCE),--source $(SOURCE)) $(if $(TAG),--tag $(TAG)) $(if $(ARCH),--arch $(ARCH)) \
	    $(if $(VECTOR_STORE),--vector-store $(VECTOR_STORE)) $(if $(DB),--db $(DB)) $(if $(PROFILE),--profile $(PROFILE)) $(if $(ENGINE),--engine $(ENGINE)) $(if $(SPLIT),--split $(SPLIT)) $(if $(BASE),--base $(BASE)) $(if $(IMAGES),--images $(IMAGES)) $(if $(COMPRESS),--compress) \
	    $(foreach plugin,$(PLUGINS),--plugin $(plugin)) $(if $(MARKETPLACE),--marketplace $(MARKETPLACE)) $(if $(PLUGIN_KEY),--plugin-key $(PLUGIN_KEY))

check: $(VENV)/complete ## style, types and unit tests with their coverage, which has a floor
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest tests/unit --cov --cov-report=term $(if $(DIFY),--dify=$(DIFY))

test: system-packages $(VENV)/complete ## style, types, unit and end-to-end tests (root); DIFY=PATH adds upstream's real files
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest tests/unit tests/e2e --numprocesses $(LANES) --dist loadfile --no-loadscope-reorder --durations=20 --work=$(WORK) $(if $(DIFY),--dify=$(DIFY)) $(PYTEST)

test-cluster: cluster-packages $(VENV)/complete ## run the sample on a real Kubernetes of one node, compiled once (root, Go 1.24); KUBERNETES=FILE names a compiled one
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement specs/cluster.lock
	KUBERNETES=$(KUBERNETES) $(RUN) -m pytest tests/cluster --durations=20 --work=$(WORK) $(if $(DIFY),--dify=$(DIFY)) $(PYTEST)

test-stores: system-packages $(VENV)/complete ## install the sample beside a real Qdrant (root): QDRANT=FILE names its program
	$(if $(QDRANT),,$(error QDRANT=FILE names the program))
	QDRANT=$(QDRANT) $(RUN) -m pytest tests/stores --work=$(WORK) $(PYTEST)

demo: demo-packages $(VENV)/complete ## build the sample's bundle and install it on an air-gapped target machine (root), in 3 minutes
	@$(RUN) -m tests.target.demo $(WORK)

docs: $(VENV)/complete ## write the tables in docs/ that are made from the code: commands, options, exit codes, checks, host features
	$(RUN) -m tests.docs

bench: system-packages bench-packages $(VENV)/complete ## measure our way against the manual one: tests/bench/RESULTS.md (root, 60 GB, two hours); DIST=FOLDER takes a bundle of Dify's own images: REAL.md
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement specs/bench.lock
	$(RUN) -m tests.bench.bench --work $(WORK) $(if $(DIST),--bundle $(DIST)) $(BENCH)

life: system-packages $(VENV)/complete ## measure a backup and its way back against the manual one: tests/bench/LIFE.md (root, ten minutes)
	$(RUN) -m tests.bench.life --work $(WORK) $(LIFE)

growth: system-packages $(VENV)/complete ## measure how the cost grows, and which way wins where: tests/bench/GROWTH.md, WAYS.md (root, 80 GB, two hours)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement specs/bench.lock
	$(RUN) -m tests.bench.growth --work $(WORK) $(GROWTH)
	$(RUN) -m tests.bench.ways --work $(WORK)

scale: system-packages cluster-packages $(VENV)/complete ## measure what clusters of 3, 30 and 300 nodes pull from one registry: tests/bench/SCALE.md (root, 10 GB)
	KUBERNETES=$(KUBERNETES) $(RUN) -m tests.bench.scale --work $(WORK) $(SCALE)

faults: system-packages $(VENV)/complete ## break installations on purpose, MINUTES=30 long, drawn from SEED: tests/faults/RESULTS.md (root)
	$(RUN) -m tests.faults --work $(WORK) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

selinux: $(VENV)/complete ## install on a virtual machine with SELinux enforcing, made by a rig: RIG=PATH DIST=PATH (a quarter of an hour)
	@test -n "$(RIG)" || { echo "name the rig: make selinux RIG=PATH" >&2; exit 2; }
	$(RUN) -m tests.target.selinux $(RIG) $(WORK)/selinux $(DIST)

system-packages: ## install the Debian packages that the tests need (root)
	@PYTHON=$(PYTHON) bash tests/target/packages.sh

bench-packages: ## install the Debian packages that the benchmark needs (root)
	@PYTHON=$(PYTHON) bash tests/target/packages.sh bench

cluster-packages: ## install the Debian packages that the test cluster needs (root)
	@PYTHON=$(PYTHON) bash tests/target/packages.sh cluster

demo-packages: ## install the Debian packages that the demo needs (root)
	@PYTHON=$(PYTHON) bash tests/target/packages.sh demo

format: $(VENV)/complete ## lay the code out and mend what ruff can mend
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# uv wrote the locks and is pinned in specs/lock.lock. It keeps every version that a lock has, as long as the .in file
# allows it: run twice, it changes nothing. UPGRADE=1 takes the newest versions, UPGRADE=NAME those of one package.
# The executable is frozen with CPython 3.13 on Linux alone; the tools run on any Python from 3.11 on; a server has any
# Python from 3.9 on.
UPGRADE ?=
UV = .cache/lock-venv/bin/uv pip compile --quiet --no-config --generate-hashes --no-header --no-annotate \
    $(if $(filter 1,$(UPGRADE)),--upgrade,$(if $(UPGRADE),--upgrade-package $(UPGRADE)))
lock: ## refresh specs/*.lock from specs/*.in; UPGRADE=1 or UPGRADE=NAME takes newer versions
	$(PYTHON) -m venv --clear .cache/lock-venv
	.cache/lock-venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement specs/lock.lock
	$(UV) --python-platform linux --python-version 3.13 --output-file specs/freeze.lock specs/freeze.in
	$(UV) --universal --python-version 3.9 --output-file specs/podman-compose.lock specs/podman-compose.in
	$(UV) --universal --python-version 3.11 --output-file specs/dev.lock specs/dev.in
	$(UV) --universal --python-version 3.11 --output-file specs/bench.lock specs/bench.in
	$(UV) --universal --python-version 3.11 --output-file specs/ansible.lock specs/ansible.in
	$(UV) --universal --python-version 3.11 --output-file specs/cluster.lock specs/cluster.in
	$(UV) --only-binary :all: --python-platform x86_64-manylinux_2_28 --python-version 3.13 \
	    --output-file specs/bench-api.lock specs/bench-api.in
	$(UV) --universal --python-version 3.11 --output-file specs/lock.lock specs/lock.in
	$(UV) --no-deps --python-platform linux --python-version 3.13 --output-file specs/embedder.lock specs/embedder.in
	$(UV) --python-platform linux --python-version 3.12 --output-file tests/target/plugins/requirements.lock tests/target/plugins/requirements.in

release: $(VENV)/complete ## check that this commit can be released, and tag it with the version in installer/__init__.py
	$(RUN) -m build.release

clean: ## remove what builds and tests have made
	rm -rf dist .cache .venv .mypy_cache .pytest_cache .ruff_cache .coverage
	find payload -mindepth 1 ! -name README.md -delete
