package node

import (
	"encoding/base64"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// FuzzCached: whatever is in a file of the CNI cache, what is said of it is one line.
func FuzzCached(f *testing.F) {
	const list = `{"name":"n","plugins":[{"type":"tproxy-cni"}]}`
	inner := base64.StdEncoding.EncodeToString([]byte(list))
	f.Add("abc", []byte(`{"kind":"cniCacheV1","containerId":"abc","config":"`+inner+`","cniArgs":[["K8S_POD_NAMESPACE","a"],["K8S_POD_NAME","b"]]}`))
	f.Add("\x1b[2J", []byte(`[`+list+`]`))
	f.Add("x", []byte(`{"config":"`+base64.StdEncoding.EncodeToString([]byte(`"`+inner+`"`))+`","cniArgs":[["K8S_POD_NAME","\u001b\n"],[]]}`))
	f.Add("y", []byte(`{"containerId":"\u202e","Type":"tproxy-cni","type":7}`))
	f.Fuzz(func(t *testing.T, file string, data []byte) {
		pods := cached{}
		pods.add("/var/lib/cni/results/"+file, data)
		if text := pods.String() + " " + pods.oneFile(); len(pods) > 1 || printable.Line(text+".") != text+"." {
			t.Errorf("%d pods: %q", len(pods), text)
		}
	})
}
