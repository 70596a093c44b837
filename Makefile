# make book   environment, quick study, rendered book in _build/html/index.html     (PROFILE=quick)
# make test   all tests, among them a strict book build from notebooks executed with tiny parameters
# make env    only the environment in .venv                                          (TORCH=2.11.0 for another torch)
PYTHON  ?= python3
PROFILE ?= quick
TORCH   ?= 2.13.0
READY   := .venv/.ready-torch-$(TORCH)

.PHONY: book test env study clean

book: env
	.venv/bin/ctrlib study --profile $(PROFILE)
	.venv/bin/ctrlib book --profile $(PROFILE)

study: env
	.venv/bin/ctrlib study --profile $(PROFILE)

test: env
	.venv/bin/python -m pytest

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

clean:
	rm -rf _build
