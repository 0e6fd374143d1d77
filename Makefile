# `make test` is the whole test run; it installs what it needs in this folder, and Debian packages when it is root.
.PHONY: test rust interop demo lint fmt setup fuzz

VENV := tests/interop/.venv
BINARY := target/release/countersign
# nextest where it is installed, cargo's own runner elsewhere.
RUNNER := $(shell cargo nextest --version >/dev/null 2>&1 && echo "nextest run" || echo "test")

test: rust demo interop

rust:
	cargo $(RUNNER) --workspace --locked

# The main job as the README shows it, once.
demo:
	cargo run --release --locked --example demo -- --once

interop: setup
	cargo build --release --locked --bin countersign
	COUNTERSIGN=$(CURDIR)/$(BINARY) $(VENV)/bin/pytest tests/interop

setup: $(VENV)/.done
	tests/interop/packages

$(VENV)/.done: tests/interop/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
	touch $@

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fmt:
	cargo fmt --all

# Apart from the tests: it needs a nightly compiler and cargo-fuzz, and minutes to build. No sanitizer: nothing is unsafe.
FUZZ_SECONDS ?= 60
fuzz:
	mkdir -p fuzz/corpus/config
	cp config.example.toml fuzz/corpus/config/
	for target in gate target config; do \
		cargo +nightly fuzz run $$target -s none -- -max_total_time=$(FUZZ_SECONDS) -dict=$(CURDIR)/fuzz/http.dict || exit 1; \
	done
