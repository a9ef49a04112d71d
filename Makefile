# make run    build, and show the demo until Ctrl-C (no account needed); make run ARGS='serve --config my.yaml' runs anything else
# make test   every check and every test, installing what they need
ARGS ?= demo

.PHONY: run test lint tools

run:
	KEYTALLY_REVISION=$$(git rev-parse --short=12 HEAD 2>/dev/null) cargo run --release --locked --quiet -- $(ARGS)

test: tools lint
	KEYTALLY_REQUIRE_TOOLS=1 cargo nextest run --locked --no-fail-fast
	cargo test --locked --doc

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet
	cargo fetch --locked --quiet
	target/test-tools/bin/cargo-deny --locked --offline check bans licenses sources

tools:
	tests/tools/install.sh
