# Everything that reaches the kernel (demo, test, bench, e2e) needs root; build, lint and images do not.
SHELL       := /bin/bash -o pipefail
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PROGRAMS    := tproxy-cni=./plugin tproxy-proxy=./proxy echo-server=./echo-server tproxy-install=./install
UPSTREAM    := cni/cnitool plugins/plugins/main/ptp plugins/plugins/main/bridge plugins/plugins/ipam/host-local
LINTERS     := honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt
LDFLAGS     := -s -w -X github.com/tproxy-cni/tproxy-cni/internal/version.Version=$(VERSION)
# Modules of their own, so that what they need never gets into the programs. The cluster's is linted
# without ./... below it: that would compile Kubernetes.
MODULES     := internal/images k8s/test integration/bench
ALL_MODULES := . $(MODULES) integration/cluster
PKGS         = $$([ $$m = integration/cluster ] && echo . || echo ./...)

export CGO_ENABLED = 0

.PHONY: build upstream demo test race kernels lint fmt packages bench bench-cni e2e e2e-down clean
.PHONY: all images tproxy tproxy-poc server load-image kind-load

build: ## the programs, statically linked, in bin/
	@mkdir -p bin && for p in $(PROGRAMS); do go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$${p%%=*} $${p#*=} || exit; done

upstream: ## the CNI project's own programs, which the demo uses, in bin/upstream/
	@go build -modfile=tools.mod -o bin/upstream/ $(UPSTREAM:%=github.com/containernetworking/%)

demo: build upstream ## a client's address and port arrive at an application: both modes, both families
	@go run ./internal/demo --bin bin

test: race ## every test, on the real kernel
	@for m in $(MODULES); do (cd $$m && go test -count=1 ./...) || exit; done
	go test -count=1 -p 4 -timeout 20m $$(go list ./... | grep -v /proxy$$)

race: ## the sidecar's tests, with the race detector
	CGO_ENABLED=1 go test -race -count=1 -timeout 15m ./proxy

KERNELS ?= 6.1 6.12

kernels: ## the tests that touch the kernel, on Debian's other kernels, in QEMU
	@go run ./integration/kernels $(KERNELS)

lint: ## what a change must pass
	@go build -modfile=tools.mod -o bin/lint/ $(LINTERS)
	@for m in $(ALL_MODULES); do echo "lint $$m"; (cd $$m && go mod tidy -diff && go vet $(PKGS) && $(CURDIR)/bin/lint/staticcheck $(PKGS)) || exit; done
	@f="$$(bin/lint/gofumpt -l .)"; [ -z "$$f" ] || { echo "gofumpt would change: $$f"; exit 1; }

fmt:
	@go build -modfile=tools.mod -o bin/lint/ $(LINTERS) && bin/lint/gofumpt -w .

packages: ## the Debian packages that the tests need
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$(cat .ci/packages)

bench: build ## the sidecar beside no sidecar, HAProxy and nginx; plots in dist/bench/; QUICK=1 takes minutes
	@go build -C integration/bench -trimpath -o ../../bin/bench .
	bin/bench --proxy bin/tproxy-proxy --out dist/bench $(if $(QUICK),--quick) $(BENCH)

bench-cni: build ## an ADD of the plugin as a whole process, beside the least in Go and linkerd-cni's iptables
	@mkdir -p bin/bench-cni && go build -C integration/bench -trimpath -ldflags '-s -w' -o ../../bin/bench-cni/ ./cni/...
	bin/bench-cni/cni --plugin bin/tproxy-cni --floor bin/bench-cni --out dist/bench/cni.txt $(BENCH)

# DISTROS=k3s runs it in one distribution's clothes only; KEEP=1 leaves the cluster up and prints its KUBECONFIG.
DISTROS ?= kubeadm k3s

e2e: build images ## the tests on a real Kubernetes of two nodes; the first time builds it, a quarter of an hour
	@cd integration/cluster && time for d in $(if $(KEEP),$(firstword $(DISTROS)),$(DISTROS)); do \
		echo "e2e in the clothes of $$d" && DISTRO=$$d KEEP=$(KEEP) go test -count=1 -parallel 4 -timeout 40m || exit; done

e2e-down: ## end a cluster that KEEP=1 left
	cd integration/cluster && go run . down

# Tags (TPROXY_IMAGE=v1) or whole names (TPROXY_IMAGE=example.org/tproxy-cni:v1). The manifests name
# tproxy-cni:latest and echo-server:latest, which the nodes never pull once they are loaded.
CLUSTER_NAME ?= dev
TPROXY_IMAGE ?= latest
ECHO_IMAGE   ?= latest
ARCH         := $(shell go env GOARCH)
IMAGES       := go run -C internal/images . -version '$(VERSION)' -tproxy-cni '$(TPROXY_IMAGE)' -echo-server '$(ECHO_IMAGE)'
TPROXY_TAR   := dist/images/tproxy-cni-$(ARCH).tar
ECHO_TAR     := dist/images/echo-server-$(ARCH).tar
need          = for p in $(1) docker; do command -v $$p >/dev/null || { echo "make $@: no $$p here; the images are in dist/images, for \`ctr images import\` and others" >&2; exit 1; }; done

all: images load-image ## the images, loaded into the k3d cluster CLUSTER_NAME

images: ## container images for amd64 and arm64, without a container engine, in dist/images/
	@$(IMAGES)

tproxy-poc: ## the image of plugin, installer and sidecar
	@$(IMAGES) tproxy-cni

server: ## the image of the echo-server
	@$(IMAGES) echo-server

tproxy: tproxy-poc ## tproxy-poc, loaded into the k3d cluster
	@$(call need,k3d) && k3d image import --cluster $(CLUSTER_NAME) $(TPROXY_TAR)

load-image: ## what is built, into the k3d cluster CLUSTER_NAME
	@$(call need,k3d) && k3d image import --cluster $(CLUSTER_NAME) $(TPROXY_TAR) $(ECHO_TAR)

kind-load: ## what is built, into the kind cluster CLUSTER_NAME
	@$(call need,kind) && for t in $(TPROXY_TAR) $(ECHO_TAR); do kind load image-archive --name $(CLUSTER_NAME) $$t || exit; done

clean:
	rm -rf bin dist
