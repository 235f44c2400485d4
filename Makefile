# Two commands do everything on a fresh machine with Python >= 3.10 and make:
#   make demo    environment, toy world, training, official evaluation, pictures
#   make test    environment, test suite
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   ?= outputs/demo

.PHONY: env demo test test-all hostile fuzz check format clean
env: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt overrides-py313.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); try: make env PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || \
		{ $(PYTHON) -m pip install --user uv && $(PYTHON) -m uv venv --seed --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt \
		$$($(BIN)/python -c 'import sys; print("--overrides overrides-py313.txt" if sys.version_info >= (3, 13) else "")') \
		--editable '.[test,dev]'
	@touch $@

# Toy worlds, training, official evaluation and pictures, all under $(DEMO). The worlds are kept.
demo: env
	$(BIN)/python tools/make_toy_nuscenes.py $(DEMO)/training_world --version v1.0-trainval \
		--scenes-per-split 150 0 --frames-per-scene 10 --no-coco
	$(BIN)/python tools/make_toy_nuscenes.py $(DEMO)/world --scenes-per-split 0 2 --no-coco
	rm -rf $(DEMO)/checkpoints $(DEMO)/model.safetensors $(DEMO)/log.jsonl
	$(BIN)/torchrun --nproc-per-node 2 tools/train.py configs/toy/detr3d.py \
		--data.root $(DEMO)/world --data.training-root $(DEMO)/training_world \
		--work-dir $(DEMO) --train.threads 1
	$(BIN)/python tools/evaluate.py configs/toy/detr3d.py $(DEMO)/model.safetensors \
		--data.root $(DEMO)/world --work-dir $(DEMO)
	$(BIN)/python tools/visualize.py --config configs/toy/detr3d.py \
		--checkpoint $(DEMO)/model.safetensors --root $(DEMO)/world --count 3 --lidar \
		-o $(DEMO)/pictures
	@echo "pictures: $(DEMO)/pictures    official metrics: $(DEMO)/evaluation/metrics_summary.json"

test: env
	$(BIN)/python -m pytest -n 2

test-all: env
	$(BIN)/python -m pytest -n 2 -m "not gpu"

# Bad batches against every system, train and eval, alone and on two processes.
hostile: env
	$(BIN)/python -m pytest -m hostile tests/test_hostile.py

# Damaged annotation, picture, weight and result files through everything that reads them.
fuzz: env
	$(BIN)/python -m tests.fuzz.runner --inputs 2100

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) outputs
