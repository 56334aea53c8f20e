# Everything runs in .venv, which is made from the lock file on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
FUZZ_READY := $(VENV)/.fuzz-ready

.PHONY: demo test check bench bench-deps fuzz soak replicas openapi browser wheel sbom schema chart lock clean

demo: $(READY)
	$(BIN)/chat-gateway demo $(ARGS)

# Many tests wait for sockets more than they work: five at once, each file in one process, the longest first.
# Those that drive a browser have a process of their own.
test: $(READY)
	$(BIN)/python -W error -m pytest --numprocesses 5 --dist loadfile --no-loadscope-reorder --ignore tests/browser $(ARGS)

check: $(READY)
	$(BIN)/ruff check gateway tests
	$(BIN)/ruff format --check gateway tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# Beside the best that this machine has: see docs/benchmarks.md. Most of an hour; ARGS=--quick takes minutes.
bench: $(BENCH_READY)
	$(BIN)/python -m tests.benchmarks --json build/bench/results.json --plots build/bench $(ARGS)

# Debian starts what it installs as services: they are in nobody's way, but on a benchmark's core.
bench-deps:
	apt-get install --yes --no-install-recommends nginx libnginx-mod-http-js haproxy varnish wrk

# What `make test` does for seconds, for hours: hostile bytes on the wire, then parsers by coverage.
FUZZED := paths tokens links policies
fuzz: $(FUZZ_READY)
	$(BIN)/python -m tests.hostile --cases 1000000 $(ARGS)
	set -e; for target in $(FUZZED); do $(BIN)/python -m tests.fuzz $$target --runs 1000000; done

# Ten minutes of everything at once, and what is left of it.
soak: $(READY)
	$(BIN)/python -m tests.shows.soak $(ARGS)

# Four replicas and a Redis as processes of their own: polls, writes, limits, and outages. Ten minutes.
replicas: $(READY)
	$(BIN)/python -m tests.shows.together
	$(BIN)/python -m tests.shows.writes
	$(BIN)/python -m tests.shows.exact
	$(BIN)/python -m tests.shows.outages

# Built twice, in two places; there is one only if both are equal byte for byte.
wheel: $(READY)
	$(BIN)/python -m tests.supply.wheel dist

# What an installation consists of. Its date is that of the last commit, where there are commits.
sbom: $(READY)
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null)} $(BIN)/python -m tests.supply.sbom build/sbom.json

# What the description says against what the gateway does, thousands of times.
openapi: $(READY)
	OPENAPI_CASES=25 $(BIN)/python -W error -m pytest tests/openapi $(ARGS)

# The live page, driven in Chromium.
browser: $(READY)
	$(BIN)/python -W error -m pytest tests/browser $(ARGS)

schema: $(READY)
	$(BIN)/python -m gateway.config.schema policies/schema

# What follows from the chart's values, from settings and policies: its schema, its table, its golden files.
chart: $(READY)
	$(BIN)/python -m tests.chart.derive

# The locks name versions and hashes only: where a package comes from is the machine's affair.
LOCK := $(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options --no-annotate
lock: $(READY)
	$(LOCK) --output-file requirements.txt pyproject.toml
	$(LOCK) --extra redis --constraint requirements.txt --output-file requirements-redis.txt pyproject.toml
	$(LOCK) --extra redis --extra otel --constraint requirements-redis.txt --output-file requirements-otel.txt pyproject.toml
	$(LOCK) --extra dev --constraint requirements-otel.txt --output-file requirements-dev.txt pyproject.toml
	$(LOCK) --extra bench --constraint requirements-dev.txt --output-file requirements-bench.txt pyproject.toml
	$(LOCK) --extra fuzz --constraint requirements-dev.txt --output-file requirements-fuzz.txt pyproject.toml

# Asked first, or pip would refuse in words of its own. Even Python 2 must be able to read it.
IS_NEW_ENOUGH := import sys; sys.version_info >= (3, 11) or sys.exit( \
	"expected Python 3.11 or newer, got $(PYTHON) %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c '$(IS_NEW_ENOUGH)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(BENCH_READY): $(READY) requirements-bench.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-bench.txt
	touch $@

$(FUZZ_READY): $(READY) requirements-fuzz.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-fuzz.txt
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
