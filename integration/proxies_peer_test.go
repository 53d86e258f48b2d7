package integration

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// peerThrough makes a connection and returns the client's end and the one that the
// application saw.
func (p *pod) peerThrough(r recipe, f family, from string) (mine, saw netip.AddrPort, err error) {
	conn, err := p.dialThrough(r, f, from)
	if err != nil {
		return mine, saw, err
	}
	defer conn.Close()
	if mine, err = netip.ParseAddrPort(conn.LocalAddr().String()); err != nil {
		return mine, saw, err
	}
	text, err := ask(conn)
	if err != nil {
		return mine, saw, err
	}
	saw, err = netip.ParseAddrPort(text)
	return mine, saw, err
}

// selfSigned makes tls.crt and tls.key, as in a Secret of type kubernetes.io/tls, and
// returns their directory.
func selfSigned(t *testing.T) string {
	t.Helper()
	d := dir(t, 0)
	lab.New(t, "openssl").Run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-subj", "/CN=pod", "-days", "2", "-keyout", filepath.Join(d, "tls.key"), "-out", filepath.Join(d, "tls.crt"))
	return d
}
