# The one list of commands. `make run` and `make test` do everything on a fresh machine that has the Rust
# toolchain, Node and Python; nothing else needs to be installed by hand.

TARGET  ?= $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
DIST    := $(TARGET)/dist
TOOLS   := $(TARGET)/tools
HOST    := $(shell rustc -vV | sed -n 's/^host: //p')
DENY    := $(TOOLS)/bin/cargo-deny
DENY_VERSION := 0.20.2

.PHONY: help build run test readme test-k8s images real-deps check fmt clippy deny doc layering fuzz bench clean

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## Release binaries in target/dist
	@mkdir -p $(DIST)
	# +crt-static breaks proc-macros unless a target is named, even if it is the host's own.
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile bridge -p docker-mcp-bridge --target $(HOST)
	cargo build --release -p mcp-edge -p testkit --bins
	@install -m 755 $(TARGET)/$(HOST)/bridge/docker-mcp-bridge $(DIST)/
	@install -m 755 $(addprefix $(TARGET)/release/,mcp-edge demo-server scripted-server) $(DIST)/

run: build ## The main job on an embedded demo server; Ctrl-C ends it
	@DIST=$(DIST) testkit/run-demo

test: build real-deps ## Every test, on the release binaries, with official clients and servers
	MCP_DIST=$(DIST) cargo test --workspace

test-k8s: build ## Images, manifests, chart, compose and scripts of k8s/; needs root on Debian
	k8s/tests/install
	cd k8s/tests && MCP_DIST=$(DIST) .tools/bin/pytest -n 2 --dist loadfile

images: ## The container images, by docker or $$CONTAINER_TOOL
	$(or $(CONTAINER_TOOL),docker) build -f Dockerfile.edge -t mcp-edge:0.1.0 .
	$(or $(CONTAINER_TOOL),docker) build -f Dockerfile.bridge -t docker-mcp-bridge:0.1.0 .

readme: build real-deps ## The table of the README, from the test that fills it
	MCP_WRITE_README=1 MCP_DIST=$(DIST) cargo test -p mcp-edge --test pairs

real-deps: ## The pinned npm and PyPI packages that the tests use
	testkit/real/install

check: fmt clippy deny doc layering fuzz ## Everything that a reviewer should not have to look for

fmt:
	cargo fmt --all -- --check

clippy:
	cargo clippy --workspace --all-targets -- -D warnings

deny: $(DENY)
	@cargo fetch --locked --quiet # of all targets; a build fetches what its own needs
	$(DENY) --offline check bans licenses sources

$(DENY):
	cargo install cargo-deny --version $(DENY_VERSION) --locked --root $(TOOLS)

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

layering:
	cargo test -p mcp-edge --test layering

fuzz: # that the targets build; shared/fuzz/README.md says how to let them run
	RUSTFLAGS="--cfg fuzzing" cargo build --manifest-path shared/fuzz/Cargo.toml --target-dir $(TARGET)/fuzz

bench: build ## Load runs beside the limit and the peers, one table; ARGS="--quick" or as bench/README.md says
	MCP_DIST=$(DIST) cargo run --release -p bench -- $(ARGS)

clean: ## Everything that was built
	cargo clean
	rm -rf testkit/real/node_modules testkit/real/.venv bench/out
	rm -rf k8s/tests/.tools k8s/tests/.servers k8s/tests/.checkov k8s/tests/crds/node_modules
