# make book   environment, the published runs and one training here, rendered book in _build/html/index.html
#             (PROFILE=quick trains everything here, small)
# make pdf    the same book as one file to print, _build/book.pdf                    (needs Chromium or Chrome)
# make student after make book: the edition without answers in _build/student/_build/html, notebooks without solutions
# make slides after make book: the slides of the 90-minute lesson in _build/slides/lesson.html
# make grade-pack after make book: the build exercises as notebooks that grade themselves, and all solutions as one PDF,
#             in _build/grade
# make wheelhouse all packages as files in wheelhouse/, for machines without a network: make book WHEELHOUSE=wheelhouse
#             (WHEELS_FOR="--platform win_amd64 --python-version 3.12 --only-binary=:all:" for machines of another kind)
# make links  after make book: every link to another site is tried
# make pins   requirements.lock anew, with the newest versions that pyproject.toml allows
# make test   the tests, among them a strict book build from notebooks executed with tiny parameters: about five minutes
# make test-all   those marked long as well: every page in a browser, the students' edition, the whole book on paper
# make env    only the environment in .venv                                          (TORCH=2.11.0 for another torch;
#             TORCH_INDEX=https://download.pytorch.org/whl/cpu for the small build, without CUDA; uv is used where there is one)
# make soak   a training is killed at every change of a file, and must end bit for bit   (KILLS=100)
# make fuzz   a hundred thousand damaged raw files are used or refused in one line   (INPUTS=12000 of each of nine kinds)
# make bench  speed and memory beside the peers, which get an environment of their own   (BENCH="--only train,floor")
PYTHON  ?= python3
PROFILE ?= published
TORCH   ?= 2.13.0
READY   := .venv/.ready-torch-$(TORCH)

.PHONY: book pdf student slides grade-pack wheelhouse links pins test test-all soak fuzz env study bench clean

book: env
	.venv/bin/ctrlib study --profile $(PROFILE)
	.venv/bin/ctrlib book --profile $(PROFILE)

pdf: book
	.venv/bin/ctrlib pdf

student: env
	.venv/bin/ctrlib book --profile $(PROFILE) --student

slides: env
	.venv/bin/ctrlib slides --profile $(PROFILE)

grade-pack: env
	$(INSTALL) -e ".[grade]"
	.venv/bin/ctrlib grade-pack

links: env
	.venv/bin/jupyter-book build _build/book_src --path-output _build/links --builder linkcheck

study: env
	.venv/bin/ctrlib study --profile $(PROFILE)

# processes for the tests; what shares one built book runs in one of them (tests/conftest.py)
SPREAD ?= -n 2
test: env
	.venv/bin/python -m pytest $(SPREAD) -m "not long"

test-all: env
	.venv/bin/python -m pytest $(SPREAD)

KILLS ?= 100
soak: env
	CTRLIB_KILLS=$(KILLS) .venv/bin/python -m pytest tests/test_resume.py

INPUTS ?= 12000
fuzz: env
	CTRLIB_FUZZ=$(INPUTS) .venv/bin/python -m pytest -s tests/test_fuzz.py

env: $(READY)

# Where a wheelhouse is named, pip asks nobody else, not even for what it builds packages with.
ifdef WHEELHOUSE
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELHOUSE))
export UV_NO_INDEX := 1
export UV_FIND_LINKS := $(abspath $(WHEELHOUSE))
endif
# uv, where there is one, installs in half the time; it does not read pip's settings: make UV= env takes pip.
UV      ?= $(shell command -v uv)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python .venv/bin/python,.venv/bin/python -m pip install --quiet --disable-pip-version-check)

WHEELS_FOR ?=
wheelhouse:
	mkdir -p wheelhouse
	sed 's/^torch==.*/torch==$(TORCH)/' requirements.lock > wheelhouse/requirements.txt
	$(PYTHON) -m pip download --disable-pip-version-check $(WHEELS_FOR) -d wheelhouse -r wheelhouse/requirements.txt
	$(PYTHON) -m pip download --disable-pip-version-check $(WHEELS_FOR) -d wheelhouse "setuptools>=77"
	@echo "wheelhouse/ holds the packages; copy it beside the project and say: make book WHEELHOUSE=wheelhouse"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: Python 3.11, 3.12 or 3.13 is needed, $$($(PYTHON) --version) found; try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "Installing into .venv (about two minutes)"
	$(PYTHON) -m venv .venv
	sed 's/^torch==.*/torch==$(TORCH)/' requirements.lock > .venv/requirements.txt
	$(if $(TORCH_INDEX),$(INSTALL) --no-deps --index-url $(TORCH_INDEX) torch==$(TORCH))
	$(INSTALL) -r .venv/requirements.txt
	$(INSTALL) --no-deps -e .
	@rm -f .venv/.ready-torch-*
	@touch $@

pins:
	$(PYTHON) -m venv --clear _build/pins
	_build/pins/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) -e ".[book,dask,test]"
	{ grep '^#' requirements.lock; _build/pins/bin/python -m pip freeze --exclude-editable | sed 's/+c[pu][u0-9]*$$//'; } > _build/requirements.lock
	mv _build/requirements.lock requirements.lock
	git --no-pager diff --stat requirements.lock

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
