# The lines that .ci/run and .github/workflows/ci.yml run. Everything is installed into .venv, nothing outside the repository.
PYTHON ?= python3
PYTHON310 ?= python3.10
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Files are compared with the hashes in requirements/. Where one of them has no wheel for a system: make ... UNLOCKED=1
LOCKED := --no-deps --require-hashes -r requirements

.PHONY: demo test test-rest test-engines test-train test-hostile test-fast test-all test-runtime-3.10 hostile lint format bench gpu-check lock audit release clean

demo: .venv/demo.done           ## upscale a real clip with the network that comes with the package; needs no torch
	$(BIN)/python demo.py

test: lint test-rest test-engines test-train test-hostile  ## everything that CI runs

# Each apart from the others: among the native threads of every library the interpreter crashed, once in a training and
# once when a build of TensorRT-RTX was stopped.
ENGINES := tests/runtime/engines tests/tensorrt_api tests/export/test_engine_networks.py
test-rest: .venv/dev.done
	$(BIN)/python -m pytest --ignore=tests/train --ignore=tests/hostile $(addprefix --ignore=,$(ENGINES))

test-engines: .venv/dev.done
	$(BIN)/python -m pytest $(ENGINES)

test-train: .venv/dev.done
	$(BIN)/python -m pytest tests/train

test-hostile: .venv/dev.done    ## 300 hostile cases, and the oracles that judge them
	$(BIN)/python -m pytest tests/hostile

test-fast: .venv/dev.done       ## without the tests that take more than ten seconds
	$(BIN)/python -m pytest -m "not slow"

test-all: test test-runtime-3.10

test-runtime-3.10: .venv-3.10/done  ## the runtime on the Python of Ubuntu 22.04 and JetPack 6
	.venv-3.10/bin/python -m pytest tests/runtime --ignore=tests/runtime/engines -m "not slow"
	.venv-3.10/bin/python -m pytest tests/runtime/engines -m "not slow"

# N cases of each SEED; failing inputs are kept in hostile-failures/. See tests/hostile/README.md.
N ?= 300
SEED ?= 1
hostile: .venv/dev.done         ## thousands of hostile inputs, each in a forked process, and what became of them
	$(BIN)/python -m tests.hostile --n $(N) --seed $(SEED) --jobs 2

lint: .venv/dev.done
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy --platform win32 --cache-dir .mypy_cache/win32 esrgan_deploy
	$(BIN)/python -m mypy --platform darwin --cache-dir .mypy_cache/darwin esrgan_deploy
	$(BIN)/lint-imports --no-cache

format: .venv/dev.done
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/dev.done           ## the figures of the README, side by side; see benchmarks/README.md
	$(BIN)/python benchmarks/studies/startup.py
	$(BIN)/python benchmarks/studies/cpu_backends.py
	$(BIN)/python benchmarks/studies/video_pipeline.py
	$(BIN)/python benchmarks/studies/crash.py
	$(BIN)/python benchmarks/studies/soak.py
	$(BIN)/python benchmarks/studies/reuse.py
	$(BIN)/python benchmarks/studies/cluster.py
	$(BIN)/python benchmarks/studies/training.py
	$(BIN)/python benchmarks/studies/engine_build.py
	$(BIN)/python benchmarks/studies/tuning.py
	$(BIN)/python benchmarks/studies/openvino_forms.py
	$(BIN)/python benchmarks/studies/peak_share.py
	$(BIN)/python benchmarks/studies/scaling.py
	$(BIN)/python benchmarks/studies/pipeline_costs.py

# TENSORRT_PYTHON: the interpreter that has TensorRT, where it is not this one; its packages are its own affair.
gpu-check: .venv/dev.done       ## every test and figure that needs a GPU, in eight minutes, where there is one
	$(BIN)/python benchmarks/studies/gpu_check.py $(if $(TENSORRT_PYTHON),--tensorrt-python $(TENSORRT_PYTHON))

lock: .venv-release/done        ## pin the newest releases that pyproject.toml allows, with their hashes
	.venv-release/bin/python requirements/lock.py

audit: .venv-release/done       ## known vulnerabilities of what is pinned; asks PyPI, and fails where that cannot be reached
	.venv-release/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/ci.lock
	.venv-release/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/torch.lock

# The wheel is installed by its name, so that no path of this machine is described.
INSTALL_SBOM := .venv-release/bin/python -m pip --python .venv-sbom --disable-pip-version-check -q install --no-deps

release: .venv-release/done     ## dist/: sdist, wheel, what the wheel runs with (CycloneDX), and the hashes of all three
	rm -rf dist .venv-sbom
	.venv-release/bin/python -m build --no-isolation
	$(PYTHON) -m venv --without-pip .venv-sbom
	$(INSTALL_SBOM) --require-hashes -r requirements/cpu.lock
	$(INSTALL_SBOM) --no-index --find-links dist esrgan-deploy
	.venv-release/bin/cyclonedx-py environment --output-reproducible -o dist/sbom.cdx.json .venv-sbom
	cd dist && (sha256sum * || shasum -a 256 *) > ../.venv-sbom/sums && mv ../.venv-sbom/sums SHA256SUMS

clean:
	rm -rf .venv .venv-3.10 .venv-release .venv-sbom demo dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.done: .venv/bin/python pyproject.toml
	$(PIP) install -e ".[cpu]"
	@touch $@

.venv/dev.done: .venv/bin/python pyproject.toml $(wildcard requirements/*.lock)
ifdef UNLOCKED
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install --group dev -e ".[cpu,train,ray,bench]"
else
	$(PIP) install $(LOCKED)/ci.lock
	$(PIP) install $(LOCKED)/torch-cpu.lock 2>/dev/null || $(PIP) install $(LOCKED)/torch.lock
	$(PIP) install --no-deps --no-build-isolation -e .
endif
	@touch $@

.venv-3.10/done: pyproject.toml requirements/runtime.lock
	$(PYTHON310) -m venv .venv-3.10
	.venv-3.10/bin/python -m pip --disable-pip-version-check -q install $(LOCKED)/runtime.lock
	.venv-3.10/bin/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
	@touch $@

.venv-release/done: requirements/release.lock
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip --disable-pip-version-check -q install $(LOCKED)/release.lock
	@touch $@
