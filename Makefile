# Everything that reaches the kernel (demo, test, bench, e2e) needs root; build, check, images and release do not.
# What `make help` prints are the comments after ## in the lines of the targets.
.DEFAULT_GOAL := help
SHELL       := /bin/bash -o pipefail
# What sudo and cron leave out of PATH: Go as its own archive installs it, and the administrator's programs.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
# git refuses to let root read another user's checkout, and go build would stop at that; VERSION is stamped instead.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
ifneq ($(filter-out help,$(MAKECMDGOALS)),)
ifneq ($(shell PATH='$(PATH)' go list -m >/dev/null 2>&1 || echo no),)
$(error this needs the Go of go.mod: unpack https://go.dev/dl to /usr/local, or have its go in PATH (sudo takes your PATH away: sudo env "PATH=$$PATH" make ...))
endif
endif
# Of a checkout with changes the version names them, so that each build has another.
VERSION     ?= $(shell v=$$(git describe --tags --always --dirty 2>/dev/null || echo dev); case $$v in (*-dirty) v=$$v-$$({ git diff HEAD; git ls-files -zo --exclude-standard | xargs -0r cat; } | sha256sum | cut -c1-8);; esac; echo $$v)
PROGRAMS    := $(shell awk '$$2 ~ /^\.\// { print $$1 "=" $$2 }' internal/programs/list.txt)
UPSTREAM    := $(shell awk '$$2 ~ /^github/ { print $$2 }' internal/programs/list.txt)
LINTERS     := honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt
LDFLAGS     := -s -w -X github.com/tproxy-cni/tproxy-cni/internal/version.Version=$(VERSION)
# Modules of their own, so that their dependencies never get into the programs. The cluster's is linted
# without the packages below it: that would compile Kubernetes.
MODULES     := k8s/images k8s/test k8s/release integration/bench
ALL_MODULES := . $(MODULES) integration/cluster
PKGS         = $$([ $$m = integration/cluster ] && echo . || echo ./...)

export CGO_ENABLED = 0

# Installs what a target needs and the machine lacks: internal/setup/list.txt.
setup = go build -o bin/setup ./internal/setup && bin/setup

.PHONY: help build upstream demo check test race fuzz kernels fresh lint fmt soak soak-page faults bench bench-cni e2e e2e-down clean
.PHONY: demo-needs test-needs race-needs kernels-needs fresh-needs soak-needs faults-needs bench-needs bench-cni-needs e2e-needs
.PHONY: all images tproxy tproxy-poc server load-image kind-load release

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## the programs, statically linked, in bin/
	@mkdir -p bin && for p in $(PROGRAMS); do go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$${p%%=*} $${p#*=} || exit; done

upstream: ## the CNI project's own programs, which the demo uses, in bin/upstream/
	@go build -modfile=tools.mod -o bin/upstream/ $(UPSTREAM)

demo: demo-needs build upstream ## an application sees its client's address and port: both modes, IPv4 and IPv6
	@go run ./integration/demo --bin bin

check: lint ## lint, and the tests that need no root: before each commit
	NO_ROOT=1 go test ./...
	go test -C k8s/test ./...

test: test-needs race ## every test, on the real kernel; a test that lacks root is skipped
	@for m in $(MODULES); do (cd $$m && go test -count=1 ./...) || exit; done
	go test -count=1 -p 4 -timeout 20m $$(go list ./... | grep -v '/proxy\(/\|$$\)')

race: race-needs ## the sidecar's tests, with the race detector
	CGO_ENABLED=1 go test -race -count=1 -timeout 15m ./proxy/...

FUZZTIME ?= 10m

# Go before 1.27 may end a target, when its time is up, with a bare "context deadline
# exceeded" that says nothing of the target (go.dev/issue/75804).
fuzz: ## every fuzz target, FUZZTIME each: for a night, and in CI for seconds
	@grep -rn --include='*_test.go' '^func Fuzz' . | sed -E 's|^(.*)/[^/]*:[0-9]+:func (Fuzz[A-Za-z0-9]*)\(.*|\1 \2|' | sort | while read -r dir name; do \
		echo "$$dir $$name"; out=$$(go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$dir" | grep -v '^fuzz: elapsed'); failed=$$?; echo "$$out"; \
		[ $$failed = 0 ] || [[ $$out == *$$'s)\n    context deadline exceeded\nFAIL\n'* ]] || exit 1; done

# Two million connections on a quiet machine with two CPUs.
MINUTES ?= 20

soak: soak-needs build upstream ## connections of every kind for MINUTES, millions, each compared with what it should be; the report is in dist/soak/
	@go run ./integration/soak --bin bin --minutes $(MINUTES)

soak-page: ## put the report of the last soak into RELIABILITY.md
	@go run ./integration/soak --page RELIABILITY.md

# The tests that report a fault; all of them are among those of make test, too.
FAULTS       ?= 1
FAULTY_TESTS := ^(TestFault.*|TestKilled|TestEveryOperationFails|TestRealDisk|TestOldInvalidFile|TestDescriptors|TestDescriptorsGone)$$

faults: faults-needs ## inject faults, each FAULTS times as often as make test does; a line for each says what it cost, and RELIABILITY.md gets the table
	@FAULTS=$(FAULTS) CI=true go test -count=1 -v -timeout 3h -run '$(FAULTY_TESTS)' ./integration ./install ./install/node ./internal/intercept ./proxy | \
		go run ./integration/faults --page RELIABILITY.md

# Debian's; newest is the newest that its suites have.
KERNELS ?= 5.10 6.1 6.12 newest

kernels: kernels-needs ## the tests that touch the kernel, on Debian's other kernels, in QEMU
	@go run ./integration/kernels $(KERNELS)

fresh: fresh-needs ## demo and test on a Debian that has only make, git and Go: they install the rest
	@go build -o bin/fresh ./integration/fresh && bin/fresh

lint: ## go vet, staticcheck, gofumpt and go mod tidy, in every module
	@go build -modfile=tools.mod -o bin/lint/ $(LINTERS)
	@for m in $(ALL_MODULES); do echo "lint $$m"; (cd $$m && go mod tidy -diff && go vet $(PKGS) && $(CURDIR)/bin/lint/staticcheck $(PKGS)) || exit; done
	@f="$$(bin/lint/gofumpt -l .)"; [ -z "$$f" ] || { echo "gofumpt would change: $$f"; exit 1; }

fmt: ## format the code
	@go build -modfile=tools.mod -o bin/lint/ $(LINTERS) && bin/lint/gofumpt -w .

demo-needs race-needs fresh-needs soak-needs bench-needs bench-cni-needs:
	@$(setup) $(@:-needs=)

kernels-needs e2e-needs faults-needs:
	@$(setup) $(@:-needs=) test

test-needs:
	@$(setup) -skip test

bench: bench-needs build ## compare the sidecar with no sidecar, HAProxy and nginx; plots in dist/bench/; QUICK=1 takes minutes
	@go build -C integration/bench -trimpath -o ../../bin/bench .
	bin/bench --proxy bin/tproxy-proxy --out dist/bench $(if $(QUICK),--quick) $(BENCH)

bench-cni: bench-cni-needs build ## compare the plugin's ADD with a minimal Go program and with linkerd-cni's iptables
	@mkdir -p bin/bench-cni && go build -C integration/bench -trimpath -ldflags '-s -w' -o ../../bin/bench-cni/ ./cni/...
	bin/bench-cni/cni --plugin bin/tproxy-cni --floor bin/bench-cni --out dist/bench/cni.txt $(BENCH)

# The first distribution's CNI layout gets all tests, the others those that a layout can break: LAYOUT= runs all in each.
# DISTROS=k3s uses one only; KEEP=1 leaves the cluster up and prints its KUBECONFIG.
DISTROS ?= kubeadm k3s
LAYOUT  ?= ^Test(ClientAddress|ListRewritten|UpdateUnderPods|Reboot|AdmissionPolicy|SeeItWork|SameSecond|Uninstall)$$

e2e: e2e-needs build images ## the tests in a Kubernetes of two nodes; the first run builds Kubernetes
	@cd integration/cluster && tests= && time for d in $(if $(KEEP),$(firstword $(DISTROS)),$(DISTROS)); do \
		echo "e2e with the CNI layout of $$d$${tests:+: $$tests}" && \
		DISTRO=$$d KEEP=$(KEEP) go test -count=1 -parallel 4 -timeout 40m -run "$$tests" || exit; tests='$(LAYOUT)'; done

e2e-down: ## remove the cluster that KEEP=1 left
	cd integration/cluster && go run . down

# Tags (TPROXY_IMAGE=v1) or whole names (TPROXY_IMAGE=example.org/tproxy-cni:v1). A tag that changes with the
# sources changes the pod templates in dist/manifests, which makes them roll out. The manifests in k8s name latest,
# which the archives are, too. A node that has an image loaded does not pull it.
CLUSTER_NAME ?= dev
TAG          := $(subst +,-,$(subst /,-,$(VERSION)))
TPROXY_IMAGE ?= $(TAG)
ECHO_IMAGE   ?= $(TAG)
ARCH         := $(shell PATH='$(PATH)' go env GOARCH)
IMAGES       := go run -C k8s/images . -version '$(VERSION)' -tproxy-cni '$(TPROXY_IMAGE)' -echo-server '$(ECHO_IMAGE)'
TPROXY_TAR   := dist/images/tproxy-cni-$(ARCH).tar
ECHO_TAR     := dist/images/echo-server-$(ARCH).tar
need          = for p in $(1) docker; do command -v $$p >/dev/null || { echo "make $@: no $$p here; the images are in dist/images, for \`ctr images import\` and others" >&2; exit 1; }; done

all: images load-image ## build the images and load them into the k3d cluster CLUSTER_NAME

images: ## the container images for amd64 and arm64, in dist/images/, and manifests that name them; needs no container engine
	@$(IMAGES)
	@go run -C k8s/release . -manifests -version '$(VERSION)' -tproxy-cni '$(TPROXY_IMAGE)' -echo-server '$(ECHO_IMAGE)' -out ../../dist/manifests >/dev/null

tproxy-poc: ## the image of plugin, installer and sidecar
	@$(IMAGES) tproxy-cni

server: ## the image of the echo-server
	@$(IMAGES) echo-server

tproxy: tproxy-poc ## build tproxy-poc and load it into the k3d cluster CLUSTER_NAME
	@$(call need,k3d) && k3d image import --cluster $(CLUSTER_NAME) $(TPROXY_TAR)

load-image: ## load the images into the k3d cluster CLUSTER_NAME
	@$(call need,k3d) && k3d image import --cluster $(CLUSTER_NAME) $(TPROXY_TAR) $(ECHO_TAR)

kind-load: ## load the images into the kind cluster CLUSTER_NAME
	@$(call need,kind) && for t in $(TPROXY_TAR) $(ECHO_TAR); do kind load image-archive --name $(CLUSTER_NAME) $$t || exit; done

REGISTRY ?= ghcr.io/tproxy-cni

release: ## all files of a release, in dist/release/: make release VERSION=v0.1.0 REGISTRY=example.org/me
	@go run -C k8s/release . -version '$(VERSION)' -registry '$(REGISTRY)'

clean: ## remove bin/ and dist/
	rm -rf bin dist
