# make demo    a true result from a bare clone: environment, base set, the main job on samples/
# make test    everything the tests need, and the tests
# make check   lint, types and tests, as .ci/run does
# make pocket  trains the pocket model from the speech pack in PACK and puts it into the package; resumable
# Overridable: VENV (where the environment lives), PYTHON (which interpreter makes it), PYTEST_ARGS, PACK.

VENV ?= .venv
PYTHON ?= python3
PYTEST_ARGS ?=
PACK ?= ../shared/data
BIN = $(VENV)/bin

.PHONY: help demo test lint format types check pocket samples pins clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/.base
	@$(BIN)/zhiyin understand samples --task asr,sgc
	@echo "What was really said stands in samples/truth.jsonl."

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.test
	$(BIN)/mypy

check: lint types test

# Needs espeak-ng and flite for the synthetic part; some hours on two cores. Every line can be given again after a stop.
RUN = runs/pocket
SPOKEN = --data $(RUN)/synth/train.jsonl --data $(RUN)/orders/train.jsonl
STAGE = $(BIN)/zhiyin train --pack $(PACK) --dev $(RUN)/synth/dev.jsonl --processes 2 --threads 1
pocket: $(VENV)/.test
	$(BIN)/zhiyin data synth pocket $(RUN)/synth --hours 8 --seed 11 --jobs 2 --resume
	$(BIN)/zhiyin data synth orders $(RUN)/orders --hours 1.2 --seed 5 --jobs 2 --resume
	$(STAGE) $(SPOKEN) configs/pocket.toml --run $(RUN)/perception
	$(STAGE) $(SPOKEN) configs/pocket-intent.toml --run $(RUN)/intent --from $(RUN)/perception/checkpoint
	$(BIN)/python scripts/coffee_orders.py $(PACK) $(RUN)/coffee $(RUN)/perception/checkpoint
	$(STAGE) $(SPOKEN) --data $(RUN)/coffee/train.jsonl configs/pocket-joint.toml --run $(RUN)/joint --from $(RUN)/intent/checkpoint
	mkdir -p zhiyin/pocket/checkpoint
	cp $(RUN)/joint/checkpoint/* zhiyin/pocket/checkpoint/
	$(BIN)/zhiyin export zhiyin/pocket/checkpoint zhiyin/pocket/bundle --precision int8

# Synthesised anew by espeak-ng and flite, which must be installed; the same bytes from the same versions.
samples: $(VENV)/.base
	$(BIN)/python scripts/make_samples.py samples

# Run after a deliberate upgrade in $(VENV).
pins: $(VENV)/.test
	$(BIN)/python scripts/make_pins.py > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps: an environment is completed once, and again when what it is made from changes.
SOURCES = pyproject.toml constraints.txt scripts/make_env.py

$(VENV)/.base: $(SOURCES)
	$(PYTHON) scripts/make_env.py $(VENV) base
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(PYTHON) scripts/make_env.py $(VENV) test
	@touch $@
