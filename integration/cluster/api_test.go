package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
)

var errNotFound = errors.New("not found")

// api sends a request to the API server. The tests do so hundreds of times, and
// kubectl takes half a second to start. The body is YAML; the response is decoded
// into into.
func api(method, path, body string, into any) error {
	config, err := os.ReadFile(kubeconfig)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(pkiDir + "/ca.crt")
	if err != nil {
		return err
	}
	m := regexp.MustCompile(`(?s)server: "([^"]+)".*token: (\w+)`).FindSubmatch(config)
	if m == nil {
		return fmt.Errorf("no server and token in %s", kubeconfig)
	}
	req, err := http.NewRequest(method, string(m[1])+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+string(m[2]))
	if body != "" {
		req.Header.Set("Content-Type", "application/yaml")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", method, path, errNotFound)
	case resp.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	case into == nil:
		return nil
	default:
		return json.Unmarshal(answer, into)
	}
}
