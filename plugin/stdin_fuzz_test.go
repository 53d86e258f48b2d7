package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// FuzzStdin: whatever a runtime writes to stdin, the outcome is an error of the CNI
// specification, about annotations in printable text (run makes the others so), or a request whose result goes on as JSON.
func FuzzStdin(f *testing.F) {
	const prev = `"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"10.0.0.2/24","interface":0}]}`
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"net","type":"tproxy-cni","mode":"nat",`+prev+`}`), "eth0")
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"net","type":"tproxy-cni",`+prev+`,"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"tproxy-cni.io/mode":"tproxy","tproxy-cni.io/x":"y"}}}`), "net1")
	f.Add([]byte(`{"cniVersion":"0.3.1","prevResult":{"ip4":{"ip":"10.0.0.2/24"}}}`), "eth0")
	f.Add([]byte(`{"cniVersion":"0.4.0","prevResult":{"ips":[{"version":"4","address":"::ffff:10.0.0.2/120","interface":-9}]}}`), "\x1b[31m")
	f.Add([]byte(`{"cniVersion":"9.9.9","prevResult":{"cniVersion":"\u001b"}}`), "lo")
	f.Fuzz(func(t *testing.T, stdin []byte, ifname string) {
		r, err := parse(&skel.CmdArgs{StdinData: stdin, IfName: ifname})
		if err == nil {
			if !json.Valid(r.result) {
				t.Errorf("result %q", r.result)
			}
			return
		}
		var e *types.Error
		if !errors.As(err, &e) {
			t.Fatalf("%T: %v", err, err)
		}
		if e.Code == 0 || e.Msg == "" {
			t.Errorf("code %d, message %q", e.Code, e.Msg)
		}
		if e.Code == errAnnotation && strings.ContainsFunc(e.Msg, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
			t.Errorf("not printable: %q", e.Msg)
		}
	})
}
