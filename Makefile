# `make test` is the whole test run; it installs what it needs in this folder, and Debian packages when it is root.
.PHONY: test rust interop demo lint fmt setup fuzz soak strain dist profile bench instructions

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
bench: dist
	python3 benches/bench.py $(if $(filter quick,$(BENCH)),--quick) $(DIST)

# More than it can take, in the sizes of docs/rules.md 3.2; prints its figures. Wants slowhttptest, and
# root for control groups.
strain:
	cargo test --release --locked --test it --test cli -- --ignored --nocapture --test-threads=1 strain

# The binary of a release and of the image: static, laid out by the profile (a fifth less work for each request), and byte
# for byte the same wherever this source is built with this compiler. Paths of the machine are written as /src and /cargo; C
# code (aws-lc) is told the same. The linker packs relocations and, where it is LLVM's, folds functions that are equal (-1 MiB).
CARGO ?= cargo
DIST_TARGET := $(shell rustc --print host-tuple)
DIST := target/$(DIST_TARGET)/dist/countersign
DIST_HOME := $(or $(CARGO_HOME),$(HOME)/.cargo)
DIST_FLAGS := -C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/src --remap-path-prefix=$(DIST_HOME)=/cargo
DIST_LINK := -C link-arg=-Wl,-z,pack-relative-relocs
ifneq ($(filter x86_64-%,$(DIST_TARGET)),)
DIST_LINK += -C link-arg=-Wl,--icf=all
endif
# One heap, as its threads are few; what is free goes back within half a second. Pages are 64 KiB on some machines of arm64.
DIST_HEAP := JEMALLOC_SYS_WITH_MALLOC_CONF=narenas:1,tcache_max:8192,dirty_decay_ms:500,muzzy_decay_ms:0,background_thread:true
ifneq ($(filter aarch64-%,$(DIST_TARGET)),)
DIST_HEAP += JEMALLOC_SYS_WITH_LG_PAGE=16
endif
PROFILE_KEPT := benches/countersign.profdata.xz
PROFILE := target/countersign.profdata
dist: $(PROFILE)
	$(DIST_HEAP) CARGO_INCREMENTAL=0 RUSTFLAGS="$(DIST_FLAGS) -C profile-use=$(CURDIR)/$(PROFILE)" \
		CFLAGS="-ffile-prefix-map=$(CURDIR)=/src -ffile-prefix-map=$(DIST_HOME)=/cargo" \
		$(CARGO) rustc --profile dist --locked --features jemalloc --bin countersign --target $(DIST_TARGET) -- $(DIST_LINK)
	sha256sum $(DIST)

# The profile anew, before a release: from a binary that counts, under the load of benches/train.py. It must be built as the
# other is, but for flags: cargo makes the names of functions from the rest. Wants nginx, wrk, and an llvm-profdata no older than
# the compiler's LLVM (`rustc -vV`; llvm-22 on Debian).
LLVM_PROFDATA ?= llvm-profdata-22
profile:
	rm -rf target/profile/counts
	$(DIST_HEAP) RUSTFLAGS="-C profile-generate=$(CURDIR)/target/profile/counts" \
		$(CARGO) build --profile dist --locked --features jemalloc --bin countersign --target $(DIST_TARGET) --target-dir target/profile
	python3 benches/train.py target/profile/$(DIST_TARGET)/dist/countersign
	$(LLVM_PROFDATA) merge --output $(PROFILE) target/profile/counts
	xz -9e --stdout $(PROFILE) > $(PROFILE_KEPT)
	rm -rf target/$(DIST_TARGET)/dist # cargo would not see that the profile is another

$(PROFILE): $(PROFILE_KEPT)
	mkdir -p target
	xz --decompress --stdout $(PROFILE_KEPT) > $@

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
FUZZ_TARGETS := gate answer target config token location diagnosis
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
