# `make test` is the whole test run; it installs what it needs in this folder, and Debian packages when it is root.
.PHONY: test rust interop demo lint fmt setup fuzz soak strain dist bench instructions

VENV := tests/interop/.venv
BINARY := target/release/countersign
# nextest where it is installed, cargo's own runner elsewhere.
RUNNER := $(shell cargo nextest --version >/dev/null 2>&1 && echo "nextest run" || echo "test")

test: rust demo instructions interop

rust:
	cargo $(RUNNER) --workspace --locked

# The main job as the README shows it, once.
demo:
	cargo run --release --locked --example demo -- --once

interop: setup
	cargo build --release --locked --bin countersign
	COUNTERSIGN=$(CURDIR)/$(BINARY) $(VENV)/bin/pytest tests/interop

setup: $(VENV)/.done tests/interop/node_modules/.done
	tests/interop/packages

$(VENV)/.done: tests/interop/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
	touch $@

# Requests for an hour through a network that fails every 20 s; prints what became of them, memory and descriptors.
SOAK_SECONDS ?= 3600
SOAK_RPS ?= 300
soak:
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_RPS=$(SOAK_RPS) cargo test --release --locked --test it -- --ignored --nocapture soak::

# Instructions and allocations of one request, which must not grow unnoticed; see benches/instructions.py.
instructions: setup
	cargo build --release --locked --bin countersign
	python3 benches/instructions.py $(BINARY)

# What requests cost, beside nginx and other proxies; see benches/bench.py. BENCH=quick takes a few minutes.
bench:
	cargo build --profile dist --locked --bin countersign
	python3 benches/bench.py $(if $(filter quick,$(BENCH)),--quick) target/dist/countersign

# More than it can take, in the sizes of docs/rules.md 3.2; prints its figures. Wants slowhttptest, and
# root for control groups.
strain:
	cargo test --release --locked --test it --test cli -- --ignored --nocapture --test-threads=1 strain

# The binary of a release and of the image: static, and byte for byte the same wherever this source is built with this
# compiler. Paths of the machine are written as /src and /cargo; C code (aws-lc) is told the same.
CARGO ?= cargo
DIST_TARGET := $(shell rustc --print host-tuple)
DIST_HOME := $(or $(CARGO_HOME),$(HOME)/.cargo)
DIST_FLAGS := -C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/src --remap-path-prefix=$(DIST_HOME)=/cargo
dist:
	CARGO_INCREMENTAL=0 RUSTFLAGS="$(DIST_FLAGS)" CFLAGS="-ffile-prefix-map=$(CURDIR)=/src -ffile-prefix-map=$(DIST_HOME)=/cargo" \
		$(CARGO) build --profile dist --locked --bin countersign --target $(DIST_TARGET)
	sha256sum target/$(DIST_TARGET)/dist/countersign

tests/interop/node_modules/.done: tests/interop/package-lock.json
	tests/interop/packages
	npm ci --prefix tests/interop --silent --no-audit --no-fund
	touch $@

lint:
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fmt:
	cargo fmt --all

# libFuzzer with coverage, as cargo-fuzz builds it but for the sanitizers: nothing here is unsafe, and so the stable
# compiler will do. Minutes to build; FUZZ_SECONDS each. What fails is left in fuzz/artifacts.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := gate target config token location diagnosis
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
FUZZ_PLATFORM := $(shell rustc -vV | sed -n 's/^host: //p')
fuzz:
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --release --locked --manifest-path fuzz/Cargo.toml --target $(FUZZ_PLATFORM)
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/corpus/$$target fuzz/artifacts/$$target; \
		cp config.example.toml fuzz/corpus/config/ 2>/dev/null || true; \
		fuzz/target/$(FUZZ_PLATFORM)/release/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 \
			-dict=fuzz/http.dict -artifact_prefix=fuzz/artifacts/$$target/ fuzz/corpus/$$target || exit 1; \
	done
