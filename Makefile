# Gantry. `make help` lists the targets; each sets up what it needs.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
OUT := $(TARGET_DIR)/release
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
PREFIX ?= /usr/local
export CARGO_TARGET_DIR := $(TARGET_DIR)
# RocksDB is compiled once, by setup-build, and linked from there.
export ROCKSDB_LIB_DIR := $(TARGET_DIR)/rocksdb
export ROCKSDB_STATIC := 1
SHIM := containerd-shim-gantry-v2
# The shim is linked statically: it runs wherever a bundle is.
STATIC = RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" LIBSECCOMP_LINK_TYPE=static \
	LIBSECCOMP_LIB_PATH="$$(pkg-config --variable=libdir libseccomp)"

# Debian packages: to build; to run the tests; to run the emulated guest.
BUILD_PACKAGES := gcc g++ make pkg-config libclang-dev libseccomp-dev
DEMO_PACKAGES := ca-certificates debootstrap docker-registry iproute2 skopeo umoci
TEST_PACKAGES := $(DEMO_PACKAGES) busybox containerd runc docker.io tini procps nftables iperf3
GUEST_PACKAGES := qemu-system-x86 cpio e2fsprogs kmod

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: setup-build setup-demo setup-test setup-guest
setup-build:
	@tests/setup/packages $(BUILD_PACKAGES)
	@tests/setup/toolchain
	@tests/setup/rocksdb $(ROCKSDB_LIB_DIR)
setup-demo: setup-build
	@tests/setup/packages $(DEMO_PACKAGES)
setup-test: setup-build
	@tests/setup/packages $(TEST_PACKAGES)
	@tests/setup/clients $(TARGET_DIR)/clients
setup-guest: setup-test
	@tests/setup/packages $(GUEST_PACKAGES)

.PHONY: build
build: setup-build ## the three binaries, in target/release
	$(CARGO) build --release --locked --workspace --exclude $(SHIM) --bins
	$(STATIC) $(CARGO) build --profile shim --locked --target $(HOST) -p $(SHIM)
	install -m 0755 $(TARGET_DIR)/$(HOST)/shim/$(SHIM) $(OUT)/

.PHONY: demo
demo: setup-demo build ## from a registry to a running container, step by step
	@GANTRY_BIN=$(OUT) tests/demo

.PHONY: check
check: setup-build ## formatting, lints and documentation, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps

# A daemon that can be ended at each of its fail points, for tests. It is built first: what
# both are called is the other one's in the end.
.PHONY: failpoints
failpoints: setup-build
	$(CARGO) build --release --locked --workspace --exclude $(SHIM) --bins --features gantryd/failpoints
	install -m 0755 $(OUT)/gantryd $(OUT)/gantryd-failpoints

.PHONY: test
test: setup-test failpoints build check ## every test
	$(CARGO) test --release --locked --workspace --exclude $(SHIM)
	$(STATIC) $(CARGO) test --profile shim-test --locked --target $(HOST) -p $(SHIM)

.PHONY: test-long
test-long: setup-guest failpoints build ## the long sweeps: a thousand runs, power loss, fail points, races
	GANTRY_TEST_LONG=1 $(CARGO) test --release --locked -p gantry-tests --test tests -- --nocapture long:: power:: copy:: faults:: logs:: networks::rounds
	GANTRY_TEST_LONG=1 $(CARGO) test --release --locked -p gantry-images --test pull -- --nocapture collect::

.PHONY: test-v2
test-v2: setup-guest build ## containers on cgroup v2, in an emulated guest
	GANTRY_TEST_GUEST=1 $(CARGO) test --release --locked -p gantry-tests --test tests -- --nocapture guest::

.PHONY: bench
bench: setup-test build ## speed and memory, side by side with what is installed
	$(OUT)/gantry-bench $(BENCH)

.PHONY: contract
contract: setup-build ## publish what was added to gantry.engine.v1
	GANTRY_CONTRACT_WRITE=1 $(CARGO) test --release --locked -p gantry-tests --test tests contract::

.PHONY: install
install: build ## binaries, systemd unit, man pages and completions below PREFIX
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(OUT)/gantry $(OUT)/gantryd $(OUT)/$(SHIM)
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/gantry proto/gantry/engine/v1/engine.v1.binpb
	install -d $(DESTDIR)/etc/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' services/daemon/gantryd.service.in > $(DESTDIR)/etc/systemd/system/gantryd.service
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(OUT)/gantry man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(OUT)/gantry completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gantry
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(OUT)/gantry completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_gantry
	$(OUT)/gantry completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gantry.fish

.PHONY: clean
clean: ## what was built
	$(CARGO) clean
