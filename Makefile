# make book   environment, quick study, rendered book in _build/html/index.html     (PROFILE=quick)
# make pdf    the same book as one file to print, _build/book.pdf                    (needs Chromium or Chrome)
# make test   all tests, among them a strict book build from notebooks executed with tiny parameters
# make env    only the environment in .venv                                          (TORCH=2.11.0 for another torch)
# make soak   a training is killed at a hundred random moments, and at every change of a file, and must end bit for bit
#             (KILLS=100)
# make fuzz   a hundred thousand damaged files and strange settings are used or refused in one line   (INPUTS=100000)
# make bench  speed and memory beside the peers, which get an environment of their own   (BENCH="--only train,floor")
PYTHON  ?= python3
PROFILE ?= quick
TORCH   ?= 2.13.0
READY   := .venv/.ready-torch-$(TORCH)

.PHONY: book pdf test soak fuzz env study bench clean

book: env
	.venv/bin/ctrlib study --profile $(PROFILE)
	.venv/bin/ctrlib book --profile $(PROFILE)

pdf: book
	.venv/bin/ctrlib pdf

study: env
	.venv/bin/ctrlib study --profile $(PROFILE)

test: env
	.venv/bin/python -m pytest

KILLS ?= 100
soak: env
	CTRLIB_KILLS=$(KILLS) .venv/bin/python -m pytest tests/test_resume.py

INPUTS ?= 100000
fuzz: env
	CTRLIB_FUZZ=$(INPUTS) .venv/bin/python -m pytest -s tests/test_fuzz.py

env: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: Python 3.11, 3.12 or 3.13 is needed, $$($(PYTHON) --version) found; try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Installing into .venv (about two minutes)"
	$(PYTHON) -m venv .venv
	sed 's/^torch==.*/torch==$(TORCH)/' requirements.lock > .venv/requirements.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r .venv/requirements.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@rm -f .venv/.ready-torch-*
	@touch $@

BENCH       ?=
BENCH_READY := benchmarks/.venv/.ready

bench: $(BENCH_READY)
	benchmarks/.venv/bin/python -m benchmarks.run $(BENCH)

$(BENCH_READY): benchmarks/requirements.txt benchmarks/peers.txt requirements.lock pyproject.toml
	@echo "Installing the peers into benchmarks/.venv (about three minutes)"
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -r benchmarks/requirements.txt
	benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[dask]"
	@for peer in $$(grep -v '^#' benchmarks/peers.txt); do \
	  benchmarks/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $$peer || \
	    echo "$$peer cannot be installed: the table will say so"; \
	done
	@touch $@

clean:
	rm -rf _build
