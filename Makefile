# Two commands: `make demo` and `make test`. Both install what is missing first (Debian), or say what is.
# `make demo ARGS="scenarios/flap.toml --seed 7"` picks the scenario, `make demo ARGS="scenarios/gray-link.toml --keep"`
# leaves the fabric and its pages up, `HTTP=127.0.0.1:9090` puts them elsewhere; see `selvedge lab run --help`.

ARGS ?= scenarios/gray-link.toml
HTTP ?= 127.0.0.1:8080
CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: demo test pages build setup setup-test lint fuzz soak bench clean

setup:
	@./.ci/setup build

setup-test:
	@./.ci/setup test

pages: setup
	@./.ci/pages

build: pages
	$(CARGO) build --package selvedge

demo: build
	@$(SUDO) "$$($(CARGO) metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/debug/selvedge" lab run --http $(HTTP) $(ARGS)

test: setup-test
	@./.ci/pages check
	$(CARGO) xtask ci

lint: setup-test
	$(CARGO) xtask ci --lint-only

fuzz: setup-test
	$(CARGO) xtask fuzz

soak: build
	$(CARGO) xtask soak

bench: build
	$(CARGO) xtask bench --help

clean:
	$(CARGO) clean
