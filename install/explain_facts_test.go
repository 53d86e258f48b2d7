package main

import (
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestSidecarOf: the sidecar is known by its name, and another proxy by its user.
func TestSidecarOf(t *testing.T) {
	app := pods.Container{Name: "app", UID: 1000, Running: true}
	check := pods.Container{Name: "prepared", UID: contract.ProxyUID}
	proxy := pods.Container{Name: "proxy", UID: contract.ProxyUID, Running: true, Attempt: 2}
	named := pods.Container{Name: inject.Container, UID: -1, Running: true}
	for _, c := range []struct {
		all  []pods.Container
		want explain.Container
	}{
		{[]pods.Container{app}, explain.Container{}},
		{[]pods.Container{app, check, proxy}, explain.Container{Found: true, Name: "proxy", Running: true, Restarts: 2}},
		{[]pods.Container{proxy, named}, explain.Container{Found: true, Name: inject.Container, Running: true}},
	} {
		if got := *sidecarOf(c.all, contract.ProxyUID); got != c.want {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
}
