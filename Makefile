# The one door: `make` says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# What is installed and built is kept here and used again, by every checkout.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/efs-autoscale
# Dependencies are compiled once for all checkouts; our own crates once for each, by the path of the wrapper, which is part of
# the names of their artifacts. The programs land in target/ of this one.
export CARGO_BUILD_BUILD_DIR ?= $(CACHE)/build
export RUSTC_WORKSPACE_WRAPPER := $(CURDIR)/tests/rustc
TARGET := $(or $(CARGO_TARGET_DIR),target)

# One directory for each version of what is asked for, so that a change never meets an old install.
PYTHON := $(CACHE)/python-$(shell sha256sum tests/requirements.txt | cut -c1-12)
NODE := $(CACHE)/node-$(shell sha256sum cdk/package-lock.json | cut -c1-12)
PAGE_NODE := $(CACHE)/page-$(shell sha256sum tests/page/package-lock.json | cut -c1-12)
CARGO_TOOLS := $(CACHE)/cargo-tools
FUNCTIONS := $(notdir $(wildcard functions/*))
CARGO_DENY_VERSION := 0.20.2
NEXTEST_VERSION := 0.9.143
MDBOOK_VERSION := 0.5.4
FD_VERSION := 10.5.0
RIPGREP_VERSION := 15.2.0
DUA_VERSION := 3.0.0
export MINISTACK := $(PYTHON)/bin/ministack
export CARGO_LAMBDA := $(PYTHON)/bin/cargo-lambda
export SCHEMATHESIS := $(PYTHON)/bin/schemathesis
export PATH := $(PATH):$(CARGO_TOOLS)/bin

# Clippy as the compiler of our own crates: lints, tests and programs come out of one compilation, in which
# aws-sdk-ec2 takes gigabytes. Always the whole workspace with all targets: another selection
# has other features, and compiles it again.
CHECKED := RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/clippy CLIPPY_ARGS=-Dwarnings
ALL := --workspace --all-targets

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

## Running

.PHONY: run
run: $(PYTHON)/.done $(if $(STACK),cdk/node_modules) nfs-server build-local ## Count a directory, scale, publish, redeploy, all on this machine: [DIR= | FILES=] [THRESHOLD=] [ZONES=] [DELAY=] [STACK=1]
	@exec $(TARGET)/local/efs-autoscale local run $(if $(STACK),--stack) $(call given,DIR,--dir) $(call given,FILES,--files) \
	  $(call given,THRESHOLD,--threshold) $(call given,ZONES,--zones) $(call given,DELAY,--delay)

# The flag $2 with the value of $1, if $1 stands on make's command line; what else is in the environment is
# not meant. By way of the shell's variable, so that a path may have any name.
given = $(if $(findstring command,$(origin $1)),$2 "$$$1")

.PHONY: build-local
build-local:
	cargo build --locked --profile local --workspace --bins

## Testing

.PHONY: test
test: tools check test-rust test-page test-asl test-cdk test-docs deny ## Everything that CI asks for

.PHONY: t
t: ## One test, warnings allowed: T=part of its name [P=its crate, which builds less]
	@[ -n "$(call said,T)" ] || { echo 'T: give a part of the name of a test, such as make t T=below_threshold P=domain' >&2; exit 2; }
	@cargo nextest run --locked $(if $(call said,P),-p "$$P",--workspace) -E "test($$T)"

.PHONY: explore
explore: tools ## All property tests, with new seeds: [MINUTES=10]
	@exec env $(CHECKED) python3 tests/explore.py $(or $(call said,MINUTES),10)

.PHONY: check
check: format build-tests ## The format, and the lints of all crates

.PHONY: format
format:
	cargo fmt --all --check

.PHONY: build-tests
build-tests: ## Lint and build all of it, warnings denied
	$(CHECKED) cargo build --locked $(ALL)

.PHONY: test-rust
test-rust: tools build-tests ## Units, laws, contracts, and whole cycles on the emulator
	$(CHECKED) cargo nextest run --locked --workspace --no-fail-fast
	$(CHECKED) cargo test --locked --workspace --doc --quiet

.PHONY: test-page
test-page: packages tests/page/node_modules build-tests ## The page of the file service in Chromium: numbers, failures, keyboard, axe; UPDATE_IMAGES=1 draws docs/images/page-*.png
	FILE_SERVICE=$(abspath $(TARGET))/debug/file-service tests/page/node_modules/.bin/playwright test -c tests/page

.PHONY: test-nfs-guest
test-nfs-guest: tools build-tests ## Of `make test`, what needs a kernel's NFS: the service on its mounts and beside them, in a guest
	$(CHECKED) cargo nextest run --locked --workspace -E 'binary(separate)'

# A target of its own: six functions take six minutes to build for arm64.
.PHONY: test-arm64
test-arm64: tools build-tests ## The binaries for arm64 on QEMU: a cycle of the functions, and the file service (10 minutes to build)
	@type qemu-aarch64-static >/dev/null 2>&1 && [ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] || { \
	  [ "$$(id -u)" = 0 ] && type apt-get >/dev/null 2>&1 || { echo 'it needs qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross'; exit 1; }; \
	  $(ONCE) 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
	    qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross >/dev/null'; }
	$(MAKE) --no-print-directory build-lambda build-image ARM=1
	ARM64_BINARIES=$(abspath $(TARGET))/lambda $(CHECKED) cargo nextest run --locked --workspace --run-ignored only -E 'binary(arm64)'

.PHONY: load
load: $(PYTHON)/.done build-local ## Many executions at once on the emulator: how long they take, and what they make together: [EXECUTIONS=10]
	@exec $(TARGET)/local/efs-autoscale local load --executions $(or $(EXECUTIONS),10)

.PHONY: history
history: nfs-server ## A long history of several tasks with faults, checked for one order: [SEED=1] [OPERATIONS=10000] [TASKS=3] [LAX=1]
	OPERATIONS=$(or $(OPERATIONS),10000) cargo test --locked -p file-service --no-default-features \
	  --test history what_several_tasks -- --nocapture

.PHONY: test-asl
test-asl: cdk/node_modules ## The state machine, by AWS's rules, and each of its expressions by AWS's JSONata
	cdk/node_modules/.bin/asl-validator --json-path statemachine/autoscale.asl.json
	cd cdk && node_modules/.bin/tsx --test asl/*.test.ts

.PHONY: test-account
test-account: cdk/node_modules ## The state machine on AWS's own engine, state by state: needs the AWS CLI and credentials: [ARGS=--help]
	@cd cdk && node_modules/.bin/tsx asl/account.ts $(ARGS)

.PHONY: test-cdk
test-cdk: $(PYTHON)/.done cdk/node_modules ## The infrastructure: its types, what its templates say, permissions against the sources, and cfn-lint
	@rm -rf $(TARGET)/templates && mkdir -p $(TARGET)/templates
	cd cdk && node_modules/.bin/prettier --check --log-level warn asl bin lib test && node_modules/.bin/tsc
	cd cdk && TEMPLATES=$(abspath $(TARGET))/templates node_modules/.bin/tsx --test --test-concurrency=2 test/*.test.ts
	cd cdk && $(PYTHON)/bin/cfn-lint -t $(abspath $(TARGET))/templates/*.json

.PHONY: test-docs
test-docs: cdk/node_modules ## The documents: links, commands, names of tests, diagrams, the picture
	node --test tests/docs/documents.test.mjs

.PHONY: deny
deny: $(CARGO_TOOLS)/.deny-$(CARGO_DENY_VERSION) ## Licences, sources and bans of all dependencies
	@# Of other platforms too, which no build here has asked for.
	cargo fetch --locked --quiet
	cargo deny --offline --log-level error check licenses bans sources

.PHONY: diagram
diagram: tools build-tests ## Draw statemachine/README.md anew
	UPDATE_DIAGRAM=1 $(CHECKED) cargo nextest run --locked --workspace -E 'test(the_readme_shows_the_machine)'

## Documents

.PHONY: docs
docs: cdk/node_modules $(CARGO_TOOLS)/.mdbook-$(MDBOOK_VERSION) ## The documents as a book, in target/book
	mdbook build docs --dest-dir $(abspath $(TARGET))/book
	@cp cdk/node_modules/mermaid/dist/mermaid.min.js $(TARGET)/book/
	@echo $(TARGET)/book/index.html

# Into a file first: the picture changes only after a run that ended as expected.
.PHONY: picture
picture: $(PYTHON)/.done nfs-server build-local ## Draw the README's picture of a run from a new run
	@$(TARGET)/local/efs-autoscale local run >$(TARGET)/run.txt
	python3 tests/docs/picture.py record <$(TARGET)/run.txt

## Infrastructure

# Settings: cdk/config.json, or SET="scaling.threshold=50000 pipeline.schedule=rate(10 minutes)". docs/reference/settings.md lists
# them. SET goes by way of the shell's variable, whole: the app takes it apart.
# Processors are arm64, as the settings have it by default; X86=1 for x86-64.
export SET
CDK = cd cdk && NODE_NO_WARNINGS=1 node_modules/.bin/cdk
SETTINGS = $(if $(X86),-c pipeline.architecture=x86_64) $(if $(SET),-c "set=$$SET")
# Of the stack: as it is given, or as the settings have it.
STACK_NAME = $(strip $(foreach name,NAME REGION DATA YES,$(call unused,$(name))))stack=$(if $(call said,NAME),"$$NAME",$$(cd cdk && node_modules/.bin/tsx bin/name.ts))
# What $1 is on make's command line. What the shell's environment has is somebody else's: a WSL has a NAME.
said = $(if $(findstring command,$(origin $1)),$($1))
unused = $(if $(findstring environment,$(origin $1)),echo '$1 of the environment is not used; give it on the command line of make' >&2;)
# For CDK too. The region of the environment and of the profile is what it is.
export_region = $(if $(call said,REGION),export AWS_REGION="$$REGION" AWS_DEFAULT_REGION="$$REGION" &&)
# What is there, for the template: whether a service runs, the zones, the quotas. It ends here where nothing can be deployed.
PREFLIGHT = $(export_region) $(STACK_NAME) && account=$$($(TARGET)/local/efs-autoscale preflight --stack "$$stack" --json)
ACCOUNT = -c "account=$$account" -c "stack.name=$$stack"
# Nobody is asked where nobody can answer.
APPROVAL = $(if $(call said,YES),--require-approval never,$$([ -t 0 ] || echo --require-approval never))

.PHONY: synth
synth: cdk/node_modules build-deployed ## The templates of the first deployment, into cdk/cdk.out: [SET=…] [X86=1]
	$(CDK) synth --quiet $(SETTINGS)
	@ls -1 cdk/cdk.out/*.template.json

.PHONY: diff
diff: cdk/node_modules build-deployed build-local ## What a deployment would change: [SET=…] [NAME=the stack's] [REGION=] [X86=1]
	@$(PREFLIGHT) && $(CDK) diff $(ACCOUNT) $(SETTINGS)

.PHONY: deploy
deploy: cdk/node_modules build-deployed build-local ## Deploy the whole system into the account of the environment: [SET=…] [NAME=the stack's] [REGION=] [X86=1] [YES=1]
	@$(PREFLIGHT) && $(CDK) deploy --all $(APPROVAL) $(ACCOUNT) $(SETTINGS)

.PHONY: probe
probe: cdk/node_modules ## What the mount targets of a deployed system do, asked by a task of its image: [NAME=the stack's] [REGION=] [ARGS=--iam]
	@$(export_region) $(STACK_NAME) && cd cdk && node_modules/.bin/tsx bin/probe.ts "$$stack" $(ARGS)

.PHONY: build-deployed
build-deployed:
	@$(MAKE) --no-print-directory build-lambda $(if $(findstring service.image,$(SET)),,build-image) $(if $(X86),,ARM=1)

.PHONY: destroy
destroy: cdk/node_modules build-local ## Take a deployed system away, after asking; its files too with DATA=1: [NAME=the stack's] [REGION=] [YES=1]
	@$(export_region) $(STACK_NAME) && exec $(TARGET)/local/efs-autoscale teardown --stack "$$stack" $(if $(call said,YES),--yes) $(if $(call said,DATA),--data)

## Shipping

.PHONY: build-lambda
build-lambda: $(PYTHON)/.done ## The binaries that are deployed: ARM=1 for arm64
	for function in $(FUNCTIONS); do \
	  PATH="$(PYTHON)/bin:$$PATH" $(CARGO_LAMBDA) lambda build --locked --release $(if $(ARM),--arm64) -p $$function; done

# By the same zig as the functions, for a glibc that every base has: no emulation, and no compiler in an image.
.PHONY: build-image
build-image: $(PYTHON)/.done ## The folder that the image of the file service is built of: ARM=1 for arm64
	PATH="$(PYTHON)/bin:$$PATH" $(CARGO_LAMBDA) lambda build --locked --profile service $(if $(ARM),--arm64) -p file-service
	cp crates/file-service/Dockerfile $(TARGET)/lambda/file-service/

.PHONY: size
size: build-lambda ## How large the shipped binaries are, against their limits
	@for function in $(FUNCTIONS); do \
	  bytes=$$(stat -c %s $(TARGET)/lambda/$$function/bootstrap); \
	  limit=$$([ $$function = evaluate ] && echo 10000000 || echo 7000000); \
	  printf '%-16s %5.2f MB of at most %d\n' $$function $$(echo "$$bytes / 1000000" | bc -l) $$((limit / 1000000)); \
	  [ $$bytes -le $$limit ] || { echo "$$function is too large"; exit 1; }; done

.PHONY: bench
bench: bench-start bench-count bench-router bench-nfs ## Every benchmark but those in a guest

.PHONY: bench-start
bench-start: build-lambda build-tests ## From start to the first request, and what the first TLS call adds
	@# The harness only starts and times the shipped binaries: it needs no profile of its own.
	$(CHECKED) cargo bench --locked --profile dev --workspace --bench start

# One package, so that the dependencies of the others are not compiled once more.
BENCH_COUNT = CARGO_PROFILE_BENCH_OPT_LEVEL=3 cargo bench --locked -p walk $1 --bench count --

.PHONY: bench-count
bench-count: $(CARGO_TOOLS)/.counters ## Counting against other tools, on disk and under latency (12 minutes): [QUICK=1]
	@type strace find python3 >/dev/null || { echo 'it needs strace, findutils and python3'; exit 1; }
	$(call BENCH_COUNT) $(if $(QUICK),--quick)

.PHONY: bench-count-nfs
bench-count-nfs: $(if $(OURS),,$(CARGO_TOOLS)/.counters) ## Counting over NFS, mounted and not, in an emulated guest: [KERNEL=6.1.0-56] [OURS=1]
	@type qemu-system-x86_64 busybox cpio depmod rpc.nfsd mkfs.ext4 >/dev/null || { \
	  echo 'it needs qemu-system-x86 busybox-static cpio kmod nfs-kernel-server nfs-common iproute2 e2fsprogs'; exit 1; }
	OURS=$(OURS) $(call BENCH_COUNT,--features nfs) nfs $(KERNEL)

# As the service is shipped, but without AWS: what is measured never calls it.
.PHONY: bench-count-inside
bench-count-inside: ## Counting without a mount, 0 and 2 ms away (2 minutes)
	CARGO_PROFILE_BENCH_OPT_LEVEL=3 cargo bench --locked -p walk --features nfs --bench nfs

.PHONY: bench-router
bench-router: ## Routing and the file service against nginx and others, over NFS too (30 minutes): [ONLY="get put nfs"] [DISK=] [QUICK=1]
	@type nginx wrk python3 taskset ganesha.nfsd >/dev/null || { echo 'it needs nginx (with its dav module), wrk, python3, util-linux and nfs-ganesha'; exit 1; }
	CARGO_PROFILE_BENCH_OPT_LEVEL=3 cargo bench --locked -p file-service --no-default-features --bench file-service -- \
	  $(if $(QUICK),--quick) $(if $(DISK),--disk $(DISK)) $(ONLY)

.PHONY: bench-router-guest
bench-router-guest: ## The service over NFS beside nginx on a kernel's mount, in an emulated guest (25 minutes): [QUICK=1]
	PATIENCE=7200 CARGO_PROFILE_BENCH_OPT_LEVEL=3 cargo bench --locked -p file-service --no-default-features --bench file-service \
	  --config 'target."cfg(unix)".runner = ["tests/nfs-guest.sh", "benches/router/guest.sh"]' -- $(if $(QUICK),--quick --rounds 1,--rounds 3) --seconds 10 nfs

NFS_PEERS := crates/nfs41/benches/nfs/peers
NFS_RS_PEER := $(CARGO_TOOLS)/.nfs-rs-peer-$(shell cat $(NFS_PEERS)/nfs-rs/Cargo.lock $(NFS_PEERS)/nfs-rs/src/main.rs $(NFS_PEERS)/../drive.rs | sha256sum | cut -c1-12)

# Without TLS: in plain text it is measured against others that have none.
BENCH_NFS = CARGO_PROFILE_BENCH_OPT_LEVEL=3 cargo bench --locked -p nfs41 --no-default-features --bench nfs

.PHONY: bench-nfs
bench-nfs: nfs-peers ## The NFS client against nfs-rs and libnfs (12 minutes): [ONLY="trips memory"] [QUICK=1]
	$(BENCH_NFS) -- $(if $(QUICK),--quick) $(ONLY)

.PHONY: bench-nfs-guest
bench-nfs-guest: nfs-peers ## The same with the kernel's client among the peers, in an emulated guest (25 minutes): [ONLY=speed] [QUICK=1]
	PATIENCE=3600 $(BENCH_NFS) --config 'target."cfg(unix)".runner = ["tests/nfs-guest.sh", "benches/nfs/guest.sh"]' \
	  -- $(if $(QUICK),--quick) $(ONLY)

.PHONY: nfs-peers
nfs-peers: packages $(NFS_RS_PEER)
	@cc -O2 -Wall -Wextra -o $(CARGO_TOOLS)/bin/libnfs-peer $(NFS_PEERS)/libnfs.c -lnfs || { \
	  rm -f $(CARGO_TOOLS)/bin/libnfs-peer; echo 'libnfs is left out; for it: apt-get install gcc libnfs-dev'; }

## Tools

.PHONY: tools
tools: $(PYTHON)/.done cdk/node_modules tests/page/node_modules $(CARGO_TOOLS)/.deny-$(CARGO_DENY_VERSION) $(CARGO_TOOLS)/.nextest-$(NEXTEST_VERSION) packages ## Install what the rest needs, into the user's cache

# Two runs at once install once: whoever comes second waits, and finds it done.
ONCE = mkdir -p $(CACHE) && flock $(CACHE)/install.lock $(SHELL) -euo pipefail -c

$(PYTHON)/.done:
	@echo 'installing the emulator and the deployer (1 minute)'
	@$(ONCE) 'test -e $@ || { \
	  python3 -m venv $(PYTHON); \
	  $(PYTHON)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt; \
	  touch $@; }'

$(NODE)/.done:
	@echo 'installing CDK and the checkers of what it makes'
	@$(ONCE) 'test -e $@ || { \
	  mkdir -p $(NODE); \
	  cp cdk/package.json cdk/package-lock.json $(NODE); \
	  npm ci --prefix $(NODE) --silent --no-audit --no-fund; \
	  touch $@; }'

# Where the sources of cdk/ look for it; whoever ran `npm ci` there has it already.
cdk/node_modules: $(NODE)/.done
	@test -d $@ -a ! -L $@ || ln -sfn $(NODE)/node_modules $@

$(PAGE_NODE)/.done:
	@echo 'installing Playwright, which uses the chromium of the machine'
	@$(ONCE) 'test -e $@ || { \
	  mkdir -p $(PAGE_NODE); \
	  cp tests/page/package.json tests/page/package-lock.json $(PAGE_NODE); \
	  npm ci --prefix $(PAGE_NODE) --silent --no-audit --no-fund; \
	  touch $@; }'

tests/page/node_modules: $(PAGE_NODE)/.done
	@test -d $@ -a ! -L $@ || ln -sfn $(PAGE_NODE)/node_modules $@

$(CARGO_TOOLS)/.deny-$(CARGO_DENY_VERSION):
	@echo 'building cargo-deny (3 minutes)'
	@$(ONCE) 'test -e $@ || { \
	  cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --quiet --root $(CARGO_TOOLS) --target-dir $(CACHE)/build-tools; \
	  touch $@; }'

$(CARGO_TOOLS)/.mdbook-$(MDBOOK_VERSION):
	@echo 'building mdBook (5 minutes)'
	@$(ONCE) 'test -e $@ || { \
	  cargo install mdbook --version $(MDBOOK_VERSION) --locked --quiet --root $(CARGO_TOOLS) --target-dir $(CACHE)/build-tools; \
	  touch $@; }'

# A machine that has one keeps it.
$(CARGO_TOOLS)/.nextest-$(NEXTEST_VERSION):
	@$(ONCE) 'mkdir -p $(CARGO_TOOLS); cargo nextest --version >/dev/null 2>&1 || \
	  cargo install cargo-nextest --version $(NEXTEST_VERSION) --locked --quiet --root $(CARGO_TOOLS) --target-dir $(CACHE)/build-tools; \
	  touch $@'

# For a target that hangs, for a kernel with NFS (in a guest), for an NFS server outside of it, for an image, for
# a file system in a file system, and for the page.
# Without them, and without root, those tests say so and are left out; in CI that is a failure.
PACKAGES := bindfs qemu-system-x86 busybox-static cpio kmod nfs-kernel-server nfs-common iproute2 \
  nfs-ganesha nfs-ganesha-vfs buildah btrfs-progs chromium
PROGRAMS := bindfs qemu-system-x86_64 busybox cpio depmod rpc.nfsd mount.nfs4 ip ganesha.nfsd buildah mkfs.btrfs chromium

# What is installed with it is for the tests to start: Debian asks this file before it starts a service.
NO_SERVICES = policy=/usr/sbin/policy-rc.d; test -e $$policy || { \
  trap "rm -f $$policy" EXIT; printf "\#!/bin/sh\nexit 101\n" >$$policy; chmod +x $$policy; }

.PHONY: packages
packages:
	@PATH="$$PATH:/usr/sbin:/sbin"; type $(PROGRAMS) >/dev/null 2>&1 && exit; \
	[ "$$(id -u)" = 0 ] && type apt-get >/dev/null 2>&1 || { \
	  echo 'some tests are left out; for them: apt-get install $(PACKAGES)'; exit 0; }; \
	echo "installing what runs a kernel's NFS, a file system that hangs, and the page (1 minute)"; \
	$(ONCE) '$(NO_SERVICES); apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $(PACKAGES) >/dev/null'

# An NFS server for the file service of `make run`, which goes on without one and says so.
.PHONY: nfs-server
nfs-server:
	@type ganesha.nfsd >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || ! type apt-get >/dev/null 2>&1 || { \
	  echo 'installing an NFS server (20 seconds)'; \
	  $(ONCE) '$(NO_SERVICES); apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends nfs-ganesha nfs-ganesha-vfs >/dev/null' || true; }

# What the count is compared with.
$(CARGO_TOOLS)/.counters: Makefile
	@echo 'building fd, ripgrep and dua (5 minutes, the first time)'
	@$(ONCE) 'for tool in fd-find@$(FD_VERSION) ripgrep@$(RIPGREP_VERSION) dua-cli@$(DUA_VERSION); do \
	  cargo install $$tool --locked --quiet --root $(CARGO_TOOLS) --target-dir $(CACHE)/build-tools; done; \
	  touch $@'

# What the NFS client is compared with: not of the workspace, so that its dependencies are in nothing else.
$(NFS_RS_PEER):
	@echo 'building nfs-rs (2 minutes, the first time)'
	@$(ONCE) 'test -e $@ || { \
	  cargo install --path $(NFS_PEERS)/nfs-rs --force --locked --quiet --root $(CARGO_TOOLS) --target-dir $(CACHE)/build-tools; \
	  touch $@; }'
