package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// users are the users of the API server: name, then groups. Each has a token and a
// kubeconfig.
var users = []struct{ file, name, group string }{
	{"admin", "admin", "system:masters"},
	{"controller-manager", "system:kube-controller-manager", ""},
	{"scheduler", "system:kube-scheduler", ""},
	{"kube-proxy", "system:kube-proxy", ""},
	{"node1", "system:node:node1", "system:nodes"},
	{"node2", "system:node:node2", "system:nodes"},
}

// credentials writes tokens and kubeconfigs of all users, unless they exist. api is
// the address of the API server for this machine.
func credentials(api string) error {
	if err := os.MkdirAll(pkiDir, 0o700); err != nil {
		return err
	}
	var tokens strings.Builder
	files := map[string][]byte{}
	for _, u := range users {
		token := rand.Text()
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", token, u.name, u.file, u.group)
		server := net.JoinHostPort(nodeIP(1), apiPort)
		if u.file == "admin" {
			server = api
		}
		files[u.file+".conf"] = fmt.Appendf(nil, kubeconfigText, server, pkiDir, token)
	}
	files["tokens.csv"] = []byte(tokens.String())
	if _, err := os.Stat(filepath.Join(pkiDir, "api.crt")); err != nil {
		if err := certificates(files); err != nil {
			return err
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(pkiDir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

const kubeconfigText = `apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "https://%s", certificate-authority: %s/ca.crt}}]
users: [{name: user, user: {token: %s}}]
contexts: [{name: context, context: {cluster: cluster, user: user}}]
current-context: context
`

// certificates adds the CA's certificate and the API server's, which it presents to
// its clients and to kubelets, and whose key signs the tokens of service accounts.
func certificates(files map[string][]byte) error {
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"},
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	api := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver", Organization: []string{"system:masters"}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"kubernetes.default.svc"},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(nodeIP(1)), net.ParseIP("10.96.0.1")},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	apiKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	for name, c := range map[string]struct {
		cert *x509.Certificate
		key  *ecdsa.PrivateKey
	}{"ca": {ca, caKey}, "api": {api, apiKey}} {
		c.cert.NotBefore, c.cert.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
		der, err := x509.CreateCertificate(rand.Reader, c.cert, ca, c.key.Public(), caKey)
		if err != nil {
			return err
		}
		key, err := x509.MarshalECPrivateKey(c.key)
		if err != nil {
			return err
		}
		files[name+".crt"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		files[name+".key"] = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})
	}
	return nil
}
