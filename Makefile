# Everything that reaches the kernel (test, demo) needs root; build and lint do not.
SHELL       := /bin/bash -o pipefail
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO_PROGRAMS := tproxy-cni=./plugin tproxy-proxy=./proxy echo-server=./echo-server tproxy-install=./install
UPSTREAM    := cni/cnitool plugins/plugins/main/ptp plugins/plugins/main/bridge plugins/plugins/ipam/host-local
LDFLAGS     := -s -w -X github.com/tproxy-cni/tproxy-cni/internal/version.Version=$(VERSION)
TOOL        := go tool -modfile=tools.mod

export CGO_ENABLED = 0

.PHONY: build upstream demo test race lint fmt packages clean

build: ## the programs, statically linked, in bin/
	@mkdir -p bin
	@set -e; for p in $(GO_PROGRAMS); do go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$${p%%=*} $${p#*=}; done

upstream: ## the CNI project's own programs, which the demo and the tests use, in bin/upstream/
	@go build -modfile=tools.mod -o bin/upstream/ $(UPSTREAM:%=github.com/containernetworking/%)

demo: build upstream ## a client's address and port arrive at an application: both modes, both families
	@go run ./internal/demo --bin bin

test: race ## every test, on the real kernel
	go test -count=1 -timeout 15m ./...

race: ## the sidecar's tests once more, with the race detector
	CGO_ENABLED=1 go test -race -count=1 -timeout 10m ./proxy/...

lint: ## what a change must pass
	go vet ./... && go mod tidy -diff
	$(TOOL) staticcheck ./...
	@unformatted="$$($(TOOL) gofumpt -l .)"; [ -z "$$unformatted" ] || { echo "gofumpt would change: $$unformatted"; exit 1; }

fmt:
	$(TOOL) gofumpt -w .

packages: ## the Debian packages that the tests need
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$(cat .ci/packages)

clean:
	rm -rf bin dist
