# `make` alone lists the targets. Each makes the virtual environment that it needs, once.

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
SOURCES := $(shell find django_webhooks -type f -not -name '*.py[co]')
AUDIT = --strict --progress-spinner off --timeout 15
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test bench benches screenshots chaos lint audit advisories migrations tox dist clean

help: ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: .venv-demo/ready ## Run the example: shop, cluster, receiver. ONCE=1 stops after the arrival; RECEIVER_URL=… sends elsewhere.
	@.venv-demo/bin/python example_project/demo.py $(if $(filter-out 0,$(ONCE)),--once) \
		$(if $(RECEIVER_URL),--receiver-url '$(RECEIVER_URL)')

test: .venv-test/ready ## Run the tests, on SQLite or DATABASE_URL=…; ARGS=… goes to pytest.
	.venv-test/bin/python -m pytest $(ARGS)

bench: .venv-test/ready ## Measure what is promised of speed, on PostgreSQL DATABASE_URL=…, and write its page of the docs; BENCH=… names some.
	.venv-test/bin/python -m tests.benchmarks $(BENCH)

benches: .venv-test/ready ## Run the other benchmarks, on SQLite or DATABASE_URL=…; each prints ratios of one run.
	.venv-test/bin/python -m tests.benchmarks.fan_out
	.venv-test/bin/python -m tests.benchmarks.fairness
	.venv-test/bin/python -m tests.benchmarks.hostile
	.venv-test/bin/python -m tests.benchmarks.admin

screenshots: .venv-test/ready ## Take pictures of the admin's pages, into build/screenshots/ and docs/images/.
	cd example_project && ../.venv-test/bin/python screenshots.py

chaos: .venv-test/ready ## Kill workers while orders are saved, then judge: SECONDS=60 SEED=7 ENGINE=loop EXAMPLES=50 DATABASE_URL=…, ARGS=….
	.venv-test/bin/python -m tests.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(ENGINE),--engine $(ENGINE)) $(ARGS)
	CHAOS_EXAMPLES=$(or $(EXAMPLES),50) .venv-test/bin/python -m pytest -m slow tests/test_faults.py tests/test_state_machine.py

lint: .venv-lint/ready ## Check style, formatting and types.
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/mypy

audit: advisories ## Look for known vulnerabilities in what we depend on; needs pypi.org.
	@.venv-audit/bin/pip-audit $(AUDIT) .

# Where pypi.org can't be reached, pip-audit may find nothing and call that good. So it has to find
# first what it must know: that requests 2.31.0 is vulnerable (CVE-2024-35195).
advisories: .venv-audit/ready
	@echo 'requests==2.31.0' >.venv-audit/canary.txt
	@.venv-audit/bin/pip-audit $(AUDIT) --no-deps --disable-pip -r .venv-audit/canary.txt 2>&1 \
		| grep -q '^Found [0-9]* known vulnerabilit' \
		|| { echo 'NOT RUN: the database of advisories (pypi.org) does not answer.' >&2; exit 1; }

migrations: .venv-test/ready ## Check that no migration is missing.
	.venv-test/bin/python -m django makemigrations --check --dry-run --settings tests.settings

tox: .venv-tox/ready ## Run the tests on the built wheel, for each Python and Django; ARGS=… goes to tox.
	.venv-tox/bin/tox run $(ARGS)

dist: .venv-dist/ready ## Build the sdist, and from it the wheel, into dist/.
	rm -rf dist
	.venv-dist/bin/python -m build --outdir dist .

clean: ## Remove all that the targets have made.
	rm -rf .venv-demo .venv-test .venv-lint .venv-audit .venv-dist .venv-tox .tox .demo build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# What is installed is a copy, as at a user's: made again when the package has changed.
.venv-demo/ready: pyproject.toml $(SOURCES)
	@echo "Installing into .venv-demo …"
	@$(call make-venv,$(@D))
	@$(@D)/bin/python $(PIP_INSTALL) '.[openapi]' drf-spectacular-sidecar
	@touch $@

.venv-test/ready: pyproject.toml
	$(call make-venv,$(@D))
	$(@D)/bin/python $(PIP_INSTALL) --upgrade 'pip>=25.1'
	$(@D)/bin/python $(PIP_INSTALL) --editable . --group test
	@touch $@

# The type checker loads the settings of the tests, so it needs what they import.
.venv-lint/ready: pyproject.toml
	$(call make-venv,$(@D))
	$(@D)/bin/python $(PIP_INSTALL) --upgrade 'pip>=25.1'
	$(@D)/bin/python $(PIP_INSTALL) --editable . --group test --group lint
	@touch $@

# The tool only: what it audits it resolves anew, each time, in an environment that it makes.
.venv-audit/ready:
	$(call make-venv,$(@D))
	$(@D)/bin/python $(PIP_INSTALL) 'pip-audit>=2.9'
	@touch $@

.venv-dist/ready:
	$(call make-venv,$(@D))
	$(@D)/bin/python $(PIP_INSTALL) 'build>=1.2'
	@touch $@

.venv-tox/ready: tox.ini
	$(call make-venv,$(@D))
	$(@D)/bin/python $(PIP_INSTALL) 'tox>=4.22'
	@touch $@

define make-venv
test -x $(1)/bin/python || "$(or $(PYTHON),$(error Python 3.11 or newer is needed; set PYTHON=…))" -m venv $(1)
endef
