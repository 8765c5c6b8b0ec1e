# `make` lists what there is to do. Works from the repository's root, with GNU make 3.81 or newer.
.DEFAULT_GOAL := help
.PHONY: help setup demo controls plan test slurm lint docs format bench lock clean

# Any of these can be set on the command line, e.g. `make demo CORES=4`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; done; echo "$$p")
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

GPUS ?= 8
STUDY ?= config/config.yaml

UV_VERSION := 0.13.9
LOCK := envs/requirements.lock
STAMP := .venv/.locked
# Programs of the environment, found before any other of the same name.
IN_VENV := PATH="$(CURDIR)/.venv/bin:$$PATH"

help: ## List the targets
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  %-8s %s\n' "$$name" "$$text"; done

demo: setup ## Run the whole study in a small rendered world: minutes on 2 cores, no GPU, no network
	$(IN_VENV) snakemake --configfile config/demo.yaml --cores $(CORES)
	@echo 'Open results/demo/report.html; beside it, tables are *.csv, figures *.png and *.pdf'

# Worlds with fainter objects and with other classes, and training on permuted labels. Each world is
# a small study of its own, whose outcome the demo's claims take in.
FAINT := 0.00 0.12 0.25 0.50
IN_WORLD = $(IN_VENV) snakemake --cores $(CORES) --configfile config/controls/$(1).yaml
AT_CONTRAST = $(call IN_WORLD,contrast) --config results=$(1) world=config/controls/worlds/$(notdir $(1)).yaml \
	data=$(1:results/%=data/%) state=$(1:results/%=state/%) mirror=$(1:results/%=data/%)/mirror \
	checksums=$(1:results/%=data/%)/mirror/SHA256SUMS --
SHUFFLED := $(foreach seed,0 1 2 3 4,results/demo/controls/shuffled_finetuning/caltech256/imagenet_cls/seed$(seed)/metrics.json)
FROZEN_PAIR := $(foreach name,imagenet_cls coco,results/demo/pretraining/$(name)/backbone.safetensors)
FAINT_WORLDS := $(FAINT:%=results/demo/controls/contrast_%)

controls: setup ## Run the controls that the demo leaves out: about half an hour on 2 cores
	$(IN_VENV) snakemake --configfile config/demo.yaml --cores $(CORES) -- $(FROZEN_PAIR)
	$(foreach world,$(FAINT_WORLDS),$(call AT_CONTRAST,$(world)) $(world)/table6.csv &&) true
	$(call AT_CONTRAST,$(firstword $(FAINT_WORLDS))) $(foreach n,2 4 5,$(firstword $(FAINT_WORLDS))/table$(n).csv)
	$(call IN_WORLD,part_only) -- results/demo/controls/part_only/claims.csv
	$(call IN_WORLD,extent_only) -- results/demo/controls/extent_only/claims.csv
	$(IN_VENV) snakemake --configfile config/demo.yaml --cores $(CORES) -- $(SHUFFLED)
	$(IN_VENV) snakemake --configfile config/demo.yaml --cores $(CORES)

plan: setup ## Jobs, GPU-hours, disk and logins of a study: make plan GPUS=8 STUDY=config/demo.yaml
	$(IN_VENV) python scripts/plan.py --gpus $(GPUS) --cores $(CORES) -- --configfile $(STUDY)

test: lint ## Check the style and the types, then run all tests
	$(IN_VENV) OMP_NUM_THREADS=1 python -m pytest -n $(CORES) --maxprocesses 8

# Installs Debian's slurm-wlm and munge where they are not installed, as root.
slurm: setup ## Run the tests on a real Slurm that is started on this machine (root)
	$(IN_VENV) OMP_NUM_THREADS=1 DETRANSFER_SLURM=1 python -m pytest tests/slurm

lint: setup ## Check style, types and workflow
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) snakefmt --check Snakefile workflow
	$(IN_VENV) snakemake --lint
	$(IN_VENV) mypy

docs: setup ## Build the documentation into site/, strictly: a warning is an error
	$(IN_VENV) NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo 'Open site/index.html'

format: setup ## Put the code into the common style
	$(IN_VENV) ruff check --fix-only .
	$(IN_VENV) ruff format .
	$(IN_VENV) snakefmt Snakefile workflow

bench: setup ## Run every benchmark in tests/benchmarks
	@for program in tests/benchmarks/*.py; do \
		echo "== $$program"; $(IN_VENV) PYTHONPATH=src python "$$program" || exit 1; done

clean: ## Remove results/demo, state/demo, site and the caches; data, other studies and .venv stay
	rm -rf results/demo state/demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src scripts tests workflow -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamp is a copy of the lock that was installed, and names the place: a virtual environment
# cannot be moved. Equal stamp: nothing to do. Another place: start anew.
PLACE := \# installed in $(CURDIR)
WANTED := { cat $(LOCK); echo "$(PLACE)"; }

setup: ## Make .venv with exactly the locked packages (does nothing if they are there)
	@[ -x .venv/bin/python ] && $(WANTED) | cmp -s - $(STAMP) || $(MAKE) --no-print-directory .install

# uv does not read pip's settings, so the index and the certificates are handed over.
PIP_SETTING = .venv/bin/python -m pip config get
UV = { index=$$($(PIP_SETTING) :env:.index-url 2>/dev/null || $(PIP_SETTING) global.index-url 2>/dev/null); \
	cert=$$($(PIP_SETTING) :env:.cert 2>/dev/null || $(PIP_SETTING) global.cert 2>/dev/null); \
	[ -z "$$index$$UV_INDEX_URL" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${UV_INDEX_URL:-$$index}}"; \
	[ -z "$$cert" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$cert}"; \
	export UV_HTTP_TIMEOUT="$${UV_HTTP_TIMEOUT:-300}"; } && .venv/bin/uv

.PHONY: .install .uv
.install: .uv
	@rm -f $(STAMP)
	@echo 'Installing $(LOCK) into .venv (several gigabytes on Linux, where torch brings CUDA)'
	@$(UV) pip sync --python .venv/bin/python --require-hashes --compile-bytecode $(LOCK)
	@$(UV) pip install --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@$(WANTED) > $(STAMP)

.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "detransfer needs Python 3.11 or \
	newer, and $(PYTHON) is %d.%d: name another one, as in make PYTHON=python3.12" % sys.version_info[:2])'
	@[ ! -f $(STAMP) ] || tail -n 1 $(STAMP) | grep -qxF "$(PLACE)" || rm -rf .venv
	@[ -x .venv/bin/python ] || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'

lock: .uv ## Work out the locked versions anew from pyproject.toml
	@$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command 'make lock' \
		--quiet --output-file $(LOCK)
