package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/results"
	"github.com/tproxy-cni/tproxy-cni/integration/samples"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// example is a report of a run in which all is as it should be.
func example() *report {
	l := &ledger{}
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		l.add(place{kinds[0].name, mode, "IPv4"}, cell{Conns: 1000, Peers: 900, Bytes: 5e9})
		l.add(place{ghostsGone, mode, "IPv6"}, cell{Conns: 7})
	}
	var before, after []reading
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		before = append(before, reading{mode, samples.Samples{"process_open_fds": 14, "process_resident_memory_bytes": 10e6, "go_goroutines": 11}, samples.Samples{}, 11})
		after = append(after, reading{mode, samples.Samples{
			"connections_accepted_total": 1007, closed("closed"): 900, closed("client timeout"): 7, closed("client silent"): 100,
			"relayed_bytes_total{up}": 3, "process_open_fds": 14, "process_resident_memory_bytes": 11e6, "go_goroutines": 11,
		}, samples.Samples{"connections_accepted_total": 907, closed("closed"): 900, closed("client timeout"): 7, "relayed_bytes_total{up}": 3}, 11})
	}
	return &report{time.Unix(0, 0).UTC(), results.Machine{Kernel: "6.18", CPU: "EPYC", CPUs: 2}, time.Minute, l, before, after}
}

// TestPage: RELIABILITY.md has a report as the soak writes it: rows, columns and sentences
// are the same, figures aside.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../RELIABILITY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, got, _, err := results.Split(string(page), pageBegin, pageEnd)
	if err != nil {
		t.Fatal(err)
	}
	shape := func(text string) string {
		text = regexp.MustCompile(`(?m)^.* UTC, Linux .*? × .*?: `).ReplaceAllString(text, "MACHINE: ")
		return regexp.MustCompile(`[0-9][0-9.,]*`).ReplaceAllString(text, "0")
	}
	if diff := cmp.Diff(shape(example().markdown()), shape(got)); diff != "" {
		t.Errorf("RELIABILITY.md is not as the soak writes it: make soak, make soak-page (-soak +page):\n%s", diff)
	}
}

func TestInsert(t *testing.T) {
	dir := t.TempDir()
	page, file := filepath.Join(dir, "page.md"), filepath.Join(dir, reportName)
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(page, "before\n"+pageBegin+"old\n"+pageEnd+"after\n")
	write(file, "new\n")
	for range 2 {
		if err := insert(page, file); err != nil {
			t.Fatal(err)
		}
		got, _ := os.ReadFile(page)
		if diff := cmp.Diff("before\n"+pageBegin+"new\n"+pageEnd+"after\n", string(got)); diff != "" {
			t.Error(diff)
		}
	}
	write(page, "no markers\n")
	if err := insert(page, file); err == nil {
		t.Error("put into a page without markers")
	}
}

// TestWrite: only of a run in which all is as it should be there is a report for the page.
func TestWrite(t *testing.T) {
	good, bad := example(), example()
	bad.after[0].metrics["spoof_total{none}"]++
	for _, r := range []*report{good, bad} {
		dir := t.TempDir()
		var out strings.Builder
		err := r.write(&out, dir)
		text, rerr := os.ReadFile(filepath.Join(dir, reportName))
		if (err == nil) != (r == good) || (rerr == nil) != (r == good) || out.Len() == 0 {
			t.Errorf("printed %d bytes, left %d: %v, %v", out.Len(), len(text), err, rerr)
		}
		if r == good && (string(text) != r.markdown() || strings.Count(string(text), "\n\n| ") != 2) {
			t.Errorf("tables without a blank line before them:\n%s", text)
		}
	}
}

// TestFaults: each figure that is not as it should be is named, and nothing else.
func TestFaults(t *testing.T) {
	if faults := example().faults(); len(faults) > 0 {
		t.Errorf("in a run without any: %q", faults)
	}
	for name, c := range map[string]struct {
		change func(*report)
		want   string
	}{
		"one more accepted": {func(r *report) {
			r.after[0].metrics["connections_accepted_total"]++
			r.after[0].metrics[closed("client silent")]++
		}, "the clients opened 1007 connections, the sidecar accepted 1008"},
		"one is not over":   {func(r *report) { r.after[0].metrics[closed("client silent")]-- }, "1007 connections were accepted, 1006 are over"},
		"a line is missing": {func(r *report) { r.after[1].log["connections_accepted_total"]-- }, "907 connections should have a line in the log, 906 have"},
		"bytes":             {func(r *report) { r.after[1].log["relayed_bytes_total{up}"]-- }, "relayed_bytes_total{up} is 3, the log has 2"},
		"lines lost": {func(r *report) {
			r.after[1].metrics["log_lines_lost_total"]++
			r.after[1].log["connections_accepted_total"]--
			r.after[1].log[closed("closed")]--
		}, ""},
		"a client who vanished and is not missed": {func(r *report) {
			for _, s := range []samples.Samples{r.after[0].metrics, r.after[0].log} {
				s[closed("client timeout")]--
				s[closed("closed")]++
			}
		}, "7 connections of clients vanished for good, the sidecar says so of 6"},
		"nobody's end": {func(r *report) {
			for _, s := range []samples.Samples{r.after[0].metrics, r.after[0].log} {
				s[closed("exhausted")]++
				s[closed("closed")]--
			}
		}, "1 connections ended as exhausted"},
		"another address": {func(r *report) { r.after[0].metrics["spoof_total{none}"]++ }, "1 connections had neither"},
		"another port":    {func(r *report) { r.ledger.add(place{kinds[0].name, contract.ModeNAT, "IPv4"}, cell{Others: 1}) }, "1 clients were seen with another port, the sidecar says 0"},
		"a file stays":    {func(r *report) { r.after[1].metrics["process_open_fds"] += mostFiles + 1 }, "open files: 14 before, 31 after"},
		"memory stays":    {func(r *report) { r.after[1].metrics["process_resident_memory_bytes"] += mostMemory }, "resident memory: 10000000 before, 15000000 after"},
		"sockets stay":    {func(r *report) { r.after[0].sockets += mostSockets + 1 }, "sockets of the pod: 11 before, 16 after"},
	} {
		r := example()
		c.change(r)
		faults := strings.Join(r.faults(), "\n")
		if !strings.Contains(faults, c.want) || c.want == "" && faults != "" || strings.Contains(faults, "\n") {
			t.Errorf("%s: %q, want %q", name, faults, c.want)
		}
	}
}
