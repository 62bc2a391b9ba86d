# The course in two commands: `make course` (read, solve, grade) and `make test`.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
TOPICS := second_order
STAGES := _build/stages.txt
# The environment's programs come first: nbgrader starts `alembic` from PATH.
# One thread per process keeps parallel processes from fighting over the cores.
export PATH := $(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

BUILD_BOOK := jupyter-book build -W --keep-going .
# $(call each,command): run an autograder command for every topic, and stop at the first that fails.
each = for topic in $(TOPICS); do autograder $(1) $$topic || exit 1; done

.DEFAULT_GOAL := course
.PHONY: course setup frontend book release sample grade test mutants lint lab measure bench clean

# $(call stage,name,command): run a stage, say so, and note how long it took.
define stage
@printf '\n== %s\n' '$(1)'; start=$$(date +%s); $(2) && \
	printf '  %-34s %5d s\n' '$(1)' $$(( $$(date +%s) - start )) >> $(STAGES)
endef

course:
	@mkdir -p _build && rm -f $(STAGES)
	$(call stage,environment,$(MAKE) --no-print-directory setup)
	$(call stage,front end,python -m steepest.explore.build)
	$(call stage,book,$(BUILD_BOOK))
	$(call stage,release,$(call each,release))
	$(call stage,sample class,$(call each,sample))
	$(call stage,grading,$(call each,grade))
	@printf '\nThe book:  %s\n' '$(CURDIR)/_build/html/index.html'
	@printf 'Assignments and kits:  %s and %s\n\n' '$(CURDIR)/autograder/release' '$(CURDIR)/autograder/kits'
	@$(call each,table)
	@printf '\nTime by stage:\n'; cat $(STAGES)

setup: .venv/installed

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Steepest needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

frontend: setup
	@python -m steepest.explore.build

book: setup frontend
	$(BUILD_BOOK)

release: setup
	@$(call each,release)

sample: release
	@$(call each,sample)

grade: sample
	@$(call each,grade)

lint: setup
	ruff check .

test: setup lint frontend book
	python -m pytest -n 2 --dist loadscope --cov=steepest --cov-fail-under=95 --cov-report=term:skip-covered

# A working copy: releasing again must not touch what a learner has written.
lab: release
	@for topic in $(TOPICS); do \
		mkdir -p workspace/$$topic && cp -R autograder/release/$$topic/grader* workspace/$$topic/ && \
		{ test -e workspace/$$topic/$$topic.ipynb || cp autograder/release/$$topic/$$topic.ipynb workspace/$$topic/; } \
		|| exit 1; \
	done
	jupyter lab --notebook-dir workspace $(if $(filter 0,$(shell id -u)),--allow-root)

# Wrong implementations of the reference: the tests must notice every one.
mutants: setup
	python -m tests.mutants

measure: setup .venv/peers
	python -m book.claims.measure --stale

# The peers that only benchmarks compare with; see the file for why without dependencies.
.venv/peers: benchmarks/requirements.txt .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	@touch $@

bench: setup frontend .venv/peers
	@for script in $(filter-out benchmarks/side_by_side.py,$(wildcard benchmarks/*.py)); do python $$script || exit 1; done

clean:
	rm -rf _build build *.egg-info src/*.egg-info .pytest_cache .hypothesis .ruff_cache
	rm -rf src/steepest/explore/static src/steepest/explore/frontend/node_modules
	rm -rf $(addprefix autograder/,source release submitted autograded feedback kits records gradebook.db)
