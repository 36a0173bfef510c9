# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo web test check format docs

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,all]" -c constraints.txt
	touch $@

demo: setup
	$(BIN)/neonym demo

web: setup
	$(BIN)/neonym web

# two files at a time, each on one core
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pyright -p tests/api/consumer_project
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.settings_page --check
	$(BIN)/python -m tools.sdscripts_page --check
	$(BIN)/python -m tools.trainers_page --check
	$(BIN)/python -m tools.events_page --check
	$(BIN)/python -m tools.layers_page --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python -m tools.settings_page
	$(BIN)/python -m tools.sdscripts_page
	$(BIN)/python -m tools.trainers_page
	$(BIN)/python -m tools.events_page
	$(BIN)/python -m tools.layers_page
