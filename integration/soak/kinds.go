package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
)

// kind is a kind of our own clients: a row of the report.
type kind struct {
	name string
	traffic.Spec

	// share is for which part of a round it runs: the bulk streams would take the
	// machine from all others. 0: the whole.
	share float64
}

// kinds run at the same time. Where ports come again at once, in nat mode the kernel may
// refuse the client's port: then the application sees another one, which is counted.
var kinds = []kind{
	{name: "short", Spec: traffic.Spec{Kind: traffic.Connect, Conns: 12, ExactPort: true}},
	{name: "short, the application closes first", Spec: traffic.Spec{Kind: traffic.Served, Conns: 8, ExactPort: true}},
	{name: "the same 400 ports again and again", Spec: traffic.Spec{Kind: traffic.Served, Conns: 8, Ports: 400}},
	{name: "half-closed, by each side in turn", Spec: traffic.Spec{Kind: traffic.HalfClosed, Conns: 6, ExactPort: true}},
	{name: "reset by the client, at five stages", Spec: traffic.Spec{Kind: traffic.ClientResets, Conns: 6, ExactPort: true}},
	{name: "reset by the application, at four stages", Spec: traffic.Spec{Kind: traffic.ServerResets, Conns: 6, ExactPort: true}},
	{name: "slow writers and slow readers", Spec: traffic.Spec{Kind: traffic.Slow, Conns: 16, ExactPort: true}},
	{name: "long, with requests", Spec: traffic.Spec{Kind: traffic.Exchange, Conns: 32, Rate: 50, ExactPort: true}},
	{name: "long, idle", Spec: traffic.Spec{Kind: traffic.Idle, Conns: 500, ExactPort: true}},
	{name: "echo, every byte compared", Spec: traffic.Spec{Kind: traffic.Echo, Conns: 16, ExactPort: true}},
	{name: "bulk, up", Spec: traffic.Spec{Kind: traffic.Up, Conns: 2, ExactPort: true}, share: .1},
	{name: "bulk, down", Spec: traffic.Spec{Kind: traffic.Down, Conns: 2, ExactPort: true}, share: .1},
}

// hangs is how long no connection may take for anything: a busy machine is no fault.
const hangs = 2 * time.Minute

// load runs the clients of a kind for a part of the time; first is how many pairs of
// address and port earlier ones have used.
func (s *site) load(k int, f family, took time.Duration, first uint64) (r traffic.Result, err error) {
	spec := kinds[k].Spec
	spec.Target = netip.AddrPortFrom(f.pod, ourPort)
	spec.Sources, spec.First = f.sourcesOf(k), first
	spec.Duration = took
	if kinds[k].share > 0 {
		spec.Duration = time.Duration(float64(took) * kinds[k].share)
	}
	if s.mode == modeTProxy {
		spec.ExactPort = false
	}
	spec.Grace = hangs
	ctx, cancel := context.WithTimeout(context.Background(), took+2*hangs)
	defer cancel()
	cmd, err := traffic.Load(ctx, s.self, spec)
	if err != nil {
		return r, err
	}
	if spec.Kind == traffic.Idle {
		end, err := cmd.StdinPipe()
		if err != nil {
			return r, err
		}
		defer time.AfterFunc(took, func() { end.Close() }).Stop()
	}
	out, err := output(s.net.Client, cmd)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(strings.TrimPrefix(out, traffic.Holding)), &r)
}

// output runs a program and returns what it wrote; its last line is a part of the error.
func output(ns *lab.NS, cmd *exec.Cmd) (string, error) {
	out, err := ns.TryCmd(cmd)
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, strings.TrimSpace(last(out)))
	}
	return out, nil
}

// last is the end of a text.
func last(text string) string {
	const most = 1000
	return text[max(0, len(text)-most):]
}

// command is exec.Command with the search of the lab.
func command(args ...string) *exec.Cmd {
	path, err := lab.Look(args[0])
	if err != nil {
		path = args[0]
	}
	return exec.Command(path, args[1:]...)
}

// spoken is a command with standard input.
func spoken(in io.Reader, args ...string) *exec.Cmd {
	cmd := command(args...)
	cmd.Stdin = in
	return cmd
}
