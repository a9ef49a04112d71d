# make run    build, and show the demo until Ctrl-C (no account needed); make run ARGS='serve --config my.yaml' runs anything else
# make image  the container image, without a daemon; prints its size and start time; make image ARCH='amd64 arm64' builds both
# make prices the price book from the newest package genai-prices; see CONTRIBUTING.md
# make sbom   what is in the binary, as CycloneDX: target/sbom/keytally-<target>.cdx.json
# make bench  what a call costs, beside nginx, HAProxy, mitmproxy, LiteLLM and Portkey; some half an hour of a quiet machine
# make soak   an hour of mixed traffic against the release build, which must not grow; make soak SECONDS=600 RATE=100 for less
# make fuzz   every reader of foreign bytes under a fuzzer, an hour in all; make fuzz SECONDS=600 TARGETS='answer json' says otherwise
# make test   every check and every test, installing what they need
ARGS ?= demo
ARCH ?=
BENCH ?=
TARGETS ?=
TARGET ?= x86_64-unknown-linux-musl
SECONDS ?= 3600
RATE ?= 300
REVISION = $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

.PHONY: run image prices sbom bench soak fuzz test lint tools

run:
	KEYTALLY_REVISION=$(REVISION) cargo run --release --locked --quiet -- $(ARGS)

image:
	deploy/image/build.sh $(ARCH)

prices: tools
	target/test-tools/venv/bin/pip install -q --disable-pip-version-check --upgrade genai-prices
	target/test-tools/venv/bin/python src/meter/price/renew.py

sbom:
	deploy/image/sbom.sh $(TARGET)

bench:
	benches/tools/install.sh
	cargo bench --locked --bench proxies -- $(BENCH)
	cargo bench --locked --bench reading --bench scrape --bench ledger --bench price

soak:
	KEYTALLY_REVISION=$(REVISION) cargo build --release --locked --quiet
	KEYTALLY_BINARY=$(CURDIR)/target/release/keytally KEYTALLY_SOAK_SECONDS=$(SECONDS) KEYTALLY_SOAK_RATE=$(RATE) \
		cargo test --locked --quiet --test tests -- --ignored --exact --nocapture soak::for_as_long_as_asked

test: tools lint
	KEYTALLY_REVISION=$(REVISION) cargo build --locked --quiet --bin keytally --target x86_64-unknown-linux-musl
	KEYTALLY_REQUIRE_TOOLS=1 cargo nextest run --locked --no-fail-fast
	cargo test --locked --doc

fuzz:
	fuzz/run.sh $(SECONDS) $(TARGETS)

lint:
	cargo fmt --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet
	cargo fetch --locked --quiet
	target/test-tools/bin/cargo-deny --locked --offline check bans licenses sources
	tests/tools/advisories.sh

tools:
	tests/tools/install.sh
