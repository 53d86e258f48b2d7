package samples

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	got, err := Read(`# TYPE tproxy_proxy_connections_active gauge
tproxy_proxy_connections_active 3
# TYPE tproxy_proxy_relayed_bytes_total counter
tproxy_proxy_relayed_bytes_total{direction="up"} 4e9
# TYPE tproxy_proxy_dial_duration_seconds histogram
tproxy_proxy_dial_duration_seconds_bucket{le="+Inf"} 7
tproxy_proxy_dial_duration_seconds_sum 0.1
tproxy_proxy_dial_duration_seconds_count 7
# TYPE process_open_fds gauge
process_open_fds 12
`)
	want := Samples{"connections_active": 3, "relayed_bytes_total{up}": 4e9, "dial_duration_seconds": 7, "process_open_fds": 12}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v: -want +got:\n%s", err, diff)
	}
	if _, err := Read("no metrics at all"); err == nil {
		t.Error("what is no metric was read")
	}
}

func TestLog(t *testing.T) {
	var l Log
	const text = `{"msg":"listening"}
{"msg":"connection","end":"closed","bytes_up":3,"bytes_down":5}
{"msg":"connection","end":"client reset","bytes_up":1,"bytes_down":0}
`
	for i := range text { // lines come in pieces
		if _, err := l.Write([]byte(text[i : i+1])); err != nil {
			t.Fatal(err)
		}
	}
	want := Samples{
		"connections_accepted_total": 2, "connections_closed_total{closed}": 1, "connections_closed_total{client reset}": 1,
		"relayed_bytes_total{up}": 4, "relayed_bytes_total{down}": 5,
	}
	if diff := cmp.Diff(want, l.Seen()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if l.Other() != "{\"msg\":\"listening\"}\n" {
		t.Errorf("other lines: %q", l.Other())
	}
}
