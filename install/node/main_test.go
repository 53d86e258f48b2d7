package node_test

import (
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ends fails the test if f does not return.
func ends(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(lab.Patience):
		t.Fatalf("%s does not end", what)
	}
}
