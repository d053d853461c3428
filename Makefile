# Every target does its own set-up in a virtual environment of this folder; `make` alone lists them.
# make PYTHON=/path/to/python3 ... chooses the interpreter of .venv.

PYTHON ?= python3
BIN := .venv/bin
# How many processes share the tests; 1 for one after another.
JOBS ?= 2
WORKERS = -n $(JOBS) --dist worksteal

# A sourced ROS puts its own packages before ours.
unexport PYTHONPATH
unexport PYTHONHOME

.PHONY: help demo test lint format check oracle test-rtx test-ros2 test-numpy1 test-py313 test-drives test-cameras test-upload test-systemd test-metrics chaos soak fuzz lock wheel clean venv
.DEFAULT_GOAL := help

help:
	@echo "make demo [SOURCE=path]   select frames from a drawn drive, or from your folder or video; name the report"
	@echo "make test [JOBS=n]        the tests, two at a time"
	@echo "make check                what to run before a commit: format, lint, types, tests"
	@echo "make lint                 format, lint and types, changing nothing"
	@echo "make format               put the code into form and sort the imports"
	@echo "make oracle               compare with torch (Python 3.11; downloads torch)"
	@echo "make test-rtx             build an engine of every precision with TensorRT-RTX, which needs no GPU; OpenVINO, C++ example (Python 3.11)"
	@echo "make test-ros2            the ROS 2 source against a real rclpy (Python 3.11)"
	@echo "make test-numpy1          the tests on Python 3.10 with numpy 1.26"
	@echo "make test-py313           the tests on Python 3.13"
	@echo "make test-drives          minutes on recorded drives, where sample data lies beside the checkout: kills, budgets"
	@echo "make test-cameras         network cameras through GStreamer's RTSP server, where it is installed; six cameras of a vehicle"
	@echo "make test-upload          a thousand uploads over a bad link to an S3 server, to nginx and to Azurite where they are installed"
	@echo "make test-metrics         a real Prometheus, where it is installed, beside a service at work: the dashboard's queries, an alert"
	@echo "make test-systemd         install, run, hang, upgrade and stop the units under a real systemd in a container (root, systemd-nspawn)"
	@echo "make chaos [EVERY=n]      what a spool may meet: power cuts, syncs taken out, kills under load, full disks, damaged files (half an hour)"
	@echo "make soak [SOAK_FRAMES=n] 100,000 frames of cameras with every fault, and 25,000 through the whole service: memory, descriptors, counts"
	@echo "make fuzz [MINUTES=n]     ten minutes of changed inputs for whatever reads from outside"
	@echo "make lock                 write requirements/*.txt anew from pyproject.toml, keeping the pins that still fit"
	@echo "make wheel                build the wheel into dist/"
	@echo "make clean                remove environments, caches and build results"

venv:
	@PYTHON="$(PYTHON)" sh scripts/setup-venv.sh .venv requirements/test.txt

demo: venv
	@$(BIN)/geal-edge demo $(if $(SOURCE),"$(SOURCE)")

test: venv
	@$(BIN)/python -m pytest $(WORKERS)

lint: venv
	@failed=0; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/mypy || failed=1; \
	exit $$failed

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test

# A Python that is not there is said, not an error: .ci/run and a person both read what was skipped.
oracle:
	@python=$$(sh scripts/find-python.sh 3.11) || { echo "geal-edge: skipped the comparison with torch"; exit 0; }; \
	PYTHON="$$python" sh scripts/setup-venv.sh .venv-oracle requirements/test.txt oracle && \
	.venv-oracle/bin/python -m pytest tests/oracle

test-rtx:
	@python=$$(sh scripts/find-python.sh 3.11) || { echo "geal-edge: skipped the engines of TensorRT-RTX"; exit 0; }; \
	PYTHON="$$python" sh scripts/setup-venv.sh .venv-rtx requirements/test.txt rtx,openvino && \
	.venv-rtx/bin/python -m pytest tests/test_rtx.py tests/test_engine.py tests/test_tensorrt.py tests/test_backends.py \
		tests/test_verify.py tests/test_watched.py tests/slow/test_cpp_example.py

# Wheels of ROS's own packages, which are not ROS's own: for this test alone. A vehicle has an installation of ROS.
test-ros2:
	@python=$$(sh scripts/find-python.sh 3.11) || { echo "geal-edge: skipped the tests with ROS 2"; exit 0; }; \
	PYTHON="$$python" sh scripts/setup-venv.sh .venv-ros2 requirements/test.txt && \
	if .venv-ros2/bin/python -m pip install -qq --disable-pip-version-check --only-binary :all: --requirement requirements/ros2.txt; \
	then .venv-ros2/bin/python -m pytest tests/slow/test_ros2.py; \
	else echo "geal-edge: skipped the tests with ROS 2: its packages could not be installed"; fi

test-numpy1:
	@python=$$(sh scripts/find-python.sh 3.10) || { echo "geal-edge: skipped the tests with numpy 1.26"; exit 0; }; \
	PYTHON="$$python" sh scripts/setup-venv.sh .venv-numpy1 requirements/numpy1.txt && \
	.venv-numpy1/bin/python -m pytest $(WORKERS)

test-py313:
	@python=$$(sh scripts/find-python.sh 3.13) || { echo "geal-edge: skipped the tests on Python 3.13"; exit 0; }; \
	PYTHON="$$python" sh scripts/setup-venv.sh .venv-py313 requirements/test.txt && \
	.venv-py313/bin/python -m pytest $(WORKERS)

test-drives: venv
	@$(BIN)/python -m pytest tests/slow --ignore=tests/slow/test_upload_servers.py

# An S3 server of Python, in an environment of its own: what it needs is no business of the locked tests.
test-upload: venv
	@test -x .venv-servers/bin/python || $(BIN)/python -m venv .venv-servers
	@.venv-servers/bin/python -m pip install -qq --disable-pip-version-check --only-binary :all: --requirement requirements/servers.txt \
		|| echo "geal-edge: no S3 server here: moto could not be installed"
	@GEAL_EDGE_TEST_MOTO=.venv-servers/bin/python UPLOADS=$(or $(UPLOADS),1000) \
		$(BIN)/python -m pytest tests/slow/test_upload_servers.py -s -o faulthandler_timeout=1800

test-metrics: venv
	@$(BIN)/python -m pytest tests/slow/test_prometheus.py tests/test_dashboard.py

test-cameras: venv
	@$(BIN)/python -m pytest tests/slow/test_cameras.py tests/slow/test_six_cameras.py

soak: venv
	@SOAK_FRAMES=$(or $(SOAK_FRAMES),100000) $(BIN)/python -m pytest tests/soak -o faulthandler_timeout=0

fuzz: venv
	@$(BIN)/python -m tests.fuzzing --minutes $(or $(MINUTES),10)

test-systemd: venv
	@$(BIN)/python -m pytest tests/systemd -s -o faulthandler_timeout=1800

chaos: venv
	@EVERY=$(or $(EVERY),1) $(BIN)/python -m pytest tests/chaos -s -o faulthandler_timeout=1800

# The files name no index and no address. To raise a pin, delete its lines (or the file) first.
LOCK = UV_PYTHON_DOWNLOADS=never UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --quiet \
	--universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--extra export --extra cpu --extra bags --extra upload --extra test
lock: venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check "uv>=0.9"
	$(LOCK) --extra dev --output-file requirements/test.txt
	$(LOCK) --constraint requirements/numpy1.in --output-file requirements/numpy1.txt

wheel: venv
	@$(BIN)/python -m hatchling build --target wheel --directory dist

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
