# `make` alone lists the commands. Whatever needs the environment makes it first, once.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test test-long test-peers check format lock papers kernels loss-compare llama-cpp \
	clean
# Settings of pip that would install somewhere else than into the environment.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV

# Empty: the first of python3.11, python3, python that is Python 3.11 or later.
PYTHON ?=
ARGS ?=
ENV := .venv/bin/python
READY := .venv/.ready
PYTEST := OMP_NUM_THREADS=1 $(ENV) -m pytest
OLD := import sys; sys.exit(sys.version_info < (3, 11))

# Other frameworks, in a folder of their own: what is installed for them never reaches .venv.
PEERS_ENV := .venv-peers/bin/python
PEERS_READY := .venv-peers/.ready
# With what they import that .venv lacks; --no-deps, since their bounds would replace torch.
PEERS := megatron-core==0.16.1 datatrove==0.10.1 litdata==0.2.76 \
	loguru humanize boto3 botocore jmespath s3transfer tifffile obstore \
	liger-kernel==0.8.5 litgpt==0.5.13 trl==1.16.0 \
	lm-eval==0.4.13 sacrebleu==2.6.0 portalocker==4.4.2 colorama==0.4.6 lxml==6.1.3 \
	openai==3.57.0 jiter==0.19.0
PEERS_IMPORT := import datatrove, litdata, litgpt, megatron.core.datasets.indexed_dataset, \
	liger_kernel.ops.rms_norm, trl, lm_eval.models.huggingface, lm_eval.evaluator, openai
SITE := import sysconfig; print(sysconfig.get_path("purelib"))

# The oldest transformers that pyproject.toml allows and the newest when this was written, each with
# what it needs in other versions than .venv has; exported folders are tried with both.
ENDS_READY := .transformers/.ready
OLDEST := transformers==5.0.0 huggingface-hub==1.33.0 tokenizers==0.22.2
NEWEST := transformers==5.24.0

# llama.cpp's shared libraries, for checks of GGUF files; they are run from Python, without node.
LLAMA_READY := .llama-cpp/.ready
LLAMA_LOCK := $(addprefix scripts/llama_cpp/,package.json package-lock.json .npmrc)
# Ready-made for one system; elsewhere, and where PLM_LLAMA_CPP names a build, nothing is fetched.
LLAMA_SYSTEM := $(shell uname -s)-$(shell uname -m)
LLAMA_TESTED := $(if $(PLM_LLAMA_CPP),,$(if $(filter Linux-x86_64,$(LLAMA_SYSTEM)),$(LLAMA_READY)))

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## Train the default small model; settings as ARGS="key=value …"
	@$(ENV) train.py +experiment=plm_pretrain $(ARGS)

test: $(READY) ## Run the tests that need neither GPU nor network
	@$(PYTEST) -n 2 -m "not slow and not gpu and not peers" $(ARGS)

# pytest's exit code 5 (nothing was run) stays a failure wherever a slow test is written down.
test-long: $(READY) $(LLAMA_TESTED) $(ENDS_READY) ## Run the slow tests
	@if grep -rqsE 'mark\.slow' --include='*.py' tests; then \
		$(PYTEST) -n 2 --dist worksteal -m "slow and not gpu and not peers" $(ARGS); \
	else echo "No test is marked slow: nothing was run."; fi

# pytest's exit code 5 (nothing was run) stays a failure.
test-peers: $(PEERS_READY) ## Run the tests that need other frameworks (installs them)
	@OMP_NUM_THREADS=1 $(PEERS_ENV) -m pytest -m peers $(ARGS)

check: $(READY) ## Check style, formatting and layout
	@$(ENV) -m ruff check .
	@$(ENV) -m ruff format --check .
	@$(PYTEST) -q tests/test_layout.py

format: $(READY) ## Format the code and mend what ruff can mend
	@$(ENV) -m ruff check --fix-only --quiet .
	@$(ENV) -m ruff format .

lock: $(READY) ## Write requirements.lock from the packages that are installed
	@$(ENV) scripts/lock.py

papers: $(READY) ## Write docs/papers.md from the opening lines of the method files
	@$(ENV) scripts/papers.py

kernels: $(READY) ## Compile the GPU kernels ahead of time and write docs/kernels.md
	@$(ENV) scripts/kernels.py $(ARGS)

loss-compare: $(READY) ## Compare 50 steps' losses of two commits: A=<commit> B=<commit>
	@test -n "$(A)" -a -n "$(B)" || \
		{ echo "loss-compare needs two commits: make loss-compare A=HEAD~1 B=HEAD" >&2; exit 2; }
	@$(ENV) scripts/loss_compare.py a=$(A) b=$(B) $(ARGS)

llama-cpp: $(LLAMA_READY) ## Fetch llama.cpp's libraries, to check and quantise GGUF files

clean: ## Delete caches and build leftovers; runs, data and the environment stay
	@rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# pycosat comes first because it alone is compiled: without a compiler this stops within seconds.
$(READY): requirements.lock pyproject.toml
	@set -e; python=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3 python); do \
		if "$$candidate" -c '$(OLD)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or later is needed, and $(or $(PYTHON),python3.11 or python3) is not;" \
			"install it, or name one: make PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	if [ -x $(ENV) ] && ! $(ENV) -c '$(OLD)' >/dev/null 2>&1; then \
		echo ".venv holds a Python older than 3.11; delete the folder and try again" >&2; exit 2; \
	fi; \
	echo "Setting up .venv, once: $$(grep -c == requirements.lock) packages, some minutes."; \
	if [ ! -x $(ENV) ] || ! $(ENV) -m pip --version >/dev/null 2>&1; then \
		"$$python" -m venv .venv || { \
			echo "$$python cannot make .venv (see above); on Debian and Ubuntu its package" \
				"is called python3.11-venv" >&2; exit 2; }; \
	fi; \
	if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	pip="$(ENV) -m pip --disable-pip-version-check --no-input install"; \
	$$pip --quiet "$$(grep -o '^pycosat==[0-9.]*' requirements.lock)" || { \
		echo "pycosat could not be installed (see above). It is built from source, which needs" \
			"the network, a C compiler and Python's headers; on Debian and Ubuntu the packages" \
			"build-essential and python3.11-dev" >&2; exit 2; }; \
	{ $$pip $$quiet -r requirements.lock && \
	  $$pip --quiet --no-deps --no-build-isolation --editable .; } || { \
		echo "Set-up failed (see above); the same command goes on from here" >&2; exit 2; }; \
	touch $(READY)

# It sees the packages of .venv behind its own; a changed list of peers builds it anew.
$(PEERS_READY): $(READY) Makefile
	@set -e; echo "Setting up .venv-peers, once."; \
	$(ENV) -m venv --clear .venv-peers; \
	echo "import site; site.addsitedir('$$($(ENV) -c '$(SITE)')')" \
		> "$$($(PEERS_ENV) -c '$(SITE)')/environment.pth"; \
	$(PEERS_ENV) -m pip --disable-pip-version-check --no-input install --quiet --no-deps \
		$(PEERS) || { echo "Set-up failed (see above); the network is needed" >&2; exit 2; }; \
	$(PEERS_ENV) -c '$(PEERS_IMPORT)' 2>/dev/null || { \
		echo "A peer cannot be imported: $(PEERS_ENV) -c '$(PEERS_IMPORT)'" >&2; exit 2; }; \
	touch $(PEERS_READY)

$(ENDS_READY): $(READY) Makefile
	@set -e; echo "Setting up .transformers, once: two other versions."; rm -rf .transformers; \
	pip="$(ENV) -m pip --disable-pip-version-check --no-input install --quiet --no-deps"; \
	$$pip --target .transformers/oldest $(OLDEST) && $$pip --target .transformers/newest $(NEWEST) \
		|| { echo "Set-up failed (see above); the network is needed" >&2; exit 2; }; \
	touch $@

# Into a folder beside it first, so that a broken download is not taken for the library.
$(LLAMA_READY): $(LLAMA_LOCK)
	@set -e; \
	if [ "$(LLAMA_SYSTEM)" != Linux-x86_64 ]; then \
		echo "llama.cpp is fetched ready-made for Linux on x86-64, not for $(LLAMA_SYSTEM): build" \
			"llama.cpp v0.5.0 with shared libraries and set PLM_LLAMA_CPP to its libllama" >&2; \
		exit 2; \
	fi; \
	command -v npm >/dev/null || { \
		echo "npm is needed to fetch llama.cpp and was not found; install Node.js 20 or later, or" \
			"set PLM_LLAMA_CPP to a libllama of llama.cpp v0.5.0" >&2; exit 2; }; \
	echo "Fetching llama.cpp's libraries into .llama-cpp, once: 30 MB."; \
	rm -rf .llama-cpp.partial; mkdir .llama-cpp.partial; cp $(LLAMA_LOCK) .llama-cpp.partial; \
	(cd .llama-cpp.partial && npm ci --ignore-scripts --omit=optional --no-audit --no-fund \
		--loglevel=error --no-progress >/dev/null) || { rm -rf .llama-cpp.partial; \
		echo "llama.cpp could not be fetched (see above); the network is needed" >&2; exit 2; }; \
	rm -rf .llama-cpp; mv .llama-cpp.partial .llama-cpp; touch $@
