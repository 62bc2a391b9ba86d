# The course in two commands: `make course` (read, solve, grade) and `make test`.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
TOPICS := second_order
STAGES := _build/stages.txt
# nbgrader starts `alembic` from PATH; one thread per process keeps two processes from fighting over two cores.
export PATH := $(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.DEFAULT_GOAL := course
.PHONY: course setup frontend book release sample grade test lint lab measure bench clean

# $(call stage,name,command): run a stage, say so, and note how long it took.
define stage
@printf '\n== %s\n' '$(1)'; start=$$(date +%s); $(2) && \
	printf '  %-34s %5d s\n' '$(1)' $$(( $$(date +%s) - start )) >> $(STAGES)
endef

course:
	@mkdir -p _build && rm -f $(STAGES)
	$(call stage,environment,$(MAKE) --no-print-directory setup)
	$(call stage,front end,$(MAKE) --no-print-directory frontend)
	$(call stage,book,$(MAKE) --no-print-directory book)
	$(call stage,release,$(MAKE) --no-print-directory release)
	$(call stage,sample class,$(MAKE) --no-print-directory sample)
	$(call stage,grading,$(MAKE) --no-print-directory grade)
	@printf '\nThe book:  %s\n' '$(CURDIR)/_build/html/index.html'
	@printf 'Assignments and kits:  %s and %s\n\n' '$(CURDIR)/autograder/release' '$(CURDIR)/autograder/kits'
	@for topic in $(TOPICS); do $(BIN)/autograder table $$topic; done
	@printf '\nTime by stage:\n'; cat $(STAGES)

setup: .venv/installed

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Steepest needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

frontend: setup
	@$(BIN)/python -m steepest.explore.build

book: setup frontend
	@$(BIN)/jupyter-book build -W --keep-going .

release: setup
	@for topic in $(TOPICS); do $(BIN)/autograder release $$topic || exit 1; done

sample: release
	@for topic in $(TOPICS); do $(BIN)/autograder sample $$topic || exit 1; done

grade: sample
	@for topic in $(TOPICS); do $(BIN)/autograder grade $$topic || exit 1; done

lint: setup
	$(BIN)/ruff check .

test: setup lint frontend book
	$(BIN)/python -m pytest -n 2 --dist loadscope

lab: release
	$(BIN)/jupyter lab --notebook-dir autograder/release

measure: setup
	$(BIN)/python -m book.claims.measure --stale

bench: setup frontend
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf _build build *.egg-info src/*.egg-info .pytest_cache .hypothesis .ruff_cache
	rm -rf src/steepest/explore/static src/steepest/explore/frontend/node_modules
	rm -rf $(addprefix autograder/,source release submitted autograded feedback kits records gradebook.db)
