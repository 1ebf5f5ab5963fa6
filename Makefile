# The only entry for people and for CI. `make` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
TO ?= lan@example.vn
BIN := .venv/bin
export PYTHONPATH := protos:.
unexport PYTHONDONTWRITEBYTECODE  # without bytecode each start of a process costs a second more
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTEST = $(BIN)/pytest --junitxml=.kip/reports/$@.xml

.PHONY: help
help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Try it
.PHONY: demo demo-late demo-surge up down logs status
demo: setup  ## ask for a code, read it in a mailbox, type it, type it again (TO=lan@example.vn)
	@$(BIN)/python -m deploy.dev.demo --to "$(TO)"
demo-late: setup  ## a mail that comes ten minutes late, and heals itself (needs root and postfix)
	@$(BIN)/python -m deploy.dev.demo_late --to "$(TO)"
up: setup  ## start everything and leave it running (KIP_PORT_BASE=18400 moves the ports)
	@$(BIN)/python -m deploy.dev.stack up
down:  ## stop what `make up` started
	@test ! -x $(BIN)/python || $(BIN)/python -m deploy.dev.stack down
demo-surge: RUNS ?= 1
demo-surge: setup  ## three times what the relay can take, for a moment, for long, and unguarded: who gets in, what is told when (9 min)
	@$(BIN)/python -m tests.surge.run --runs $(RUNS) $(if $(PROOF),--proof $(PROOF))
logs:  ## follow all logs of `make up`
	@$(BIN)/python -m deploy.dev.stack logs
status:  ## what runs
	@$(BIN)/python -m deploy.dev.stack status

##@ Test
.PHONY: test unit contract integration e2e alerts-live chaos fuzz hammer fresh
test: setup unit contract integration e2e  ## all four levels on real servers
unit: setup  ## rules and verbs, no sockets
	@$(PYTEST) tests/unit
contract: setup  ## fakes against their real twins; places that must agree
	@$(PYTEST) tests/contract
integration: setup  ## one adapter against real Kafka, Redis, SMTP, PostgreSQL; two files at a time, for most of it is waiting
	@$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder tests/integration
e2e: setup  ## separate processes; codes are read from the mailbox
	@$(PYTEST) tests/e2e
alerts-live: setup  ## what e2e leaves out of the alerts: overloads of 1.5, 2 and 3 times the relay's capacity, the surges, and the rest (17 min)
	@$(PYTEST) -s tests/alerts
chaos: RUNS ?= 20
chaos: setup  ## the ordered inbox and the mailer under kills, 20 runs in a row (RUNS=2; PROOF=docs/proof writes a summary)
	@$(BIN)/python -m tests.chaos.run --runs $(RUNS) $(if $(PROOF),--proof $(PROOF))
fuzz: setup  ## 20 000 strange messages and 2000 lives of a challenge, with a summary (minutes)
	@set -o pipefail; $(PYTEST) --hypothesis-profile=fuzz --hypothesis-show-statistics --timeout=0 \
		tests/unit/otp/test_fuzz_messages.py tests/unit/otp/test_life_of_a_challenge.py | cut -c1-140
hammer: setup  ## 200 clients make two otp mail one stranger for a minute
	@HAMMER_SECONDS=60 HAMMER_CLIENTS=200 $(PYTEST) -s tests/e2e/test_hammer.py
fresh:  ## clone into an empty folder with empty caches and run the README's two commands
	@tests/fresh/run.sh

##@ Measure
.PHONY: bench bench-lagwatch bench-quotas
bench: setup  ## what a code costs, beside django-otp (BENCH=--quick to see that it runs); needs PostgreSQL
	@$(BIN)/python -m bench.codes $(BENCH)
bench-lagwatch: setup  ## what the measurer costs at 100 partitions and 10 groups (BENCH=--quick: shorter)
	@$(BIN)/python -m bench.lagwatch $(BENCH)
bench-quotas: setup  ## what all limits of a letter cost, at 100 000 buckets: CPU, round trips, memory (BENCH=--quick)
	@$(BIN)/python -m bench.quotas $(BENCH)

##@ Quality
.PHONY: check check-fast quality lint format types imports protos protos-check agree k8s-check settings-doc
check: quality test  ## everything CI runs
check-fast: quality unit  ## what every commit passes, within a minute
quality: lint types imports protos-check k8s-check
lint: setup  ## ruff, formatting, spelling
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/codespell README.md docs services deploy tests bench protos/kip
format: setup  ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .
types: setup  ## mypy --strict
	@$(BIN)/mypy --no-error-summary
imports: setup  ## who may import whom
	@mkdir -p .kip; $(BIN)/lint-imports --no-logo > .kip/imports.log 2>&1 || { cat .kip/imports.log; exit 1; }
protos: setup  ## generate Python from the contracts
	@$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --grpc_python_out=protos \
		--mypy_out=quiet:protos --mypy_grpc_out=quiet:protos $$(find protos/kip -name '*.proto' | sort)
protos-check: setup  ## buf lint, no breaking change since the last release, generated code is fresh
	@$(BIN)/buf lint protos && $(BIN)/buf breaking protos --against protos/released.binpb
	@$(BIN)/python -m tests.quality.generated_code
agree: setup  ## places that must say the same do (a part of contract)
	@$(PYTEST) tests/contract/test_places_agree_*.py tests/contract/test_hot_path.py
k8s-check: setup  ## render the manifests and validate them strictly, an operator's kinds too
	@mkdir -p .kip && $(BIN)/kubectl kustomize deploy/k8s/base > .kip/k8s.yaml && $(BIN)/kubernetes-validate --quiet --strict .kip/k8s.yaml
	@$(BIN)/kubectl kustomize deploy/k8s/overlays/receiving > .kip/k8s-receiving.yaml && $(BIN)/kubernetes-validate --quiet --strict .kip/k8s-receiving.yaml
	@$(BIN)/kubectl kustomize deploy/k8s/overlays/monitored > .kip/k8s-monitored.yaml && $(BIN)/python -m tests.quality.crd_schemas .kip/k8s-monitored.yaml
settings-doc: setup  ## rewrite the settings tables of the services' READMEs
	@$(BIN)/python -m tests.quality.settings_tables --write

##@ Environment
.PHONY: setup clean
setup:  ## make .venv from the lock (does nothing when it is fresh)
	@$(PYTHON) deploy/dev/environment.py
clean:  ## forget .venv, caches and what ran (not the downloads in the cache folder)
	@rm -rf .venv .kip .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
