// Command cni measures an ADD of the plugin as a whole process, beside the smallest
// plugin that Go can make and beside iptables. The README of the benchmark explains
// its output.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench-cni:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	plugin  string // tproxy-cni
	floor   string // directory of empty and table
	out     string // file of the samples, for benchstat
	rounds  int
	warmups int // rounds before the measured ones
}

func run(args []string) error {
	var o options
	fs := flag.NewFlagSet("bench-cni", flag.ContinueOnError)
	fs.StringVar(&o.plugin, "plugin", "bin/tproxy-cni", "`path` of the plugin")
	fs.StringVar(&o.floor, "floor", "bin/bench-cni", "`directory` of the programs empty and table")
	fs.StringVar(&o.out, "out", "dist/bench/cni.txt", "`file` for the samples, as benchstat reads them")
	fs.IntVar(&o.rounds, "rounds", 60, "how many times each is measured")
	fs.IntVar(&o.warmups, "warmups", 5, "rounds before the measured ones")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return lab.Main(ctx, os.Stderr, func(t lab.TB) { story(t, o) })
}

// story prepares every pod, measures, and only then looks at what was done, so
// that nothing but the measured programs runs between the measurements.
func story(t lab.TB, o options) {
	lab.Need(t, "ip", "nft", "nsenter", iptables, iptablesSave)
	list := variants(o)
	node := lab.New(t, "node").Up()
	pods := make([][]*lab.NS, o.warmups+o.rounds)
	for round := range pods {
		for i := range list {
			pods[round] = append(pods[round], newPod(t, node, round*len(list)+i))
		}
	}
	samples := make([][]sample, len(list))
	for round := range pods {
		for k := range list {
			i := (k + round) % len(list) // each round begins with another
			took, err := list[i].measure(pods[round][i])
			if err != nil {
				t.Fatalf("%s, round %d: %v", list[i].name, round, err)
			}
			if round >= o.warmups {
				samples[i] = append(samples[i], took)
			}
		}
	}
	for round := range pods {
		for i, v := range list {
			if err := v.check(pods[round][i]); err != nil {
				t.Fatalf("%s, round %d, left the pod unfinished: %v", v.name, round, err)
			}
		}
	}
	if err := report(os.Stdout, o.out, list, samples); err != nil {
		t.Fatalf("%v", err)
	}
}

// newPod is a namespace as the interface plugin leaves it.
func newPod(t lab.TB, node *lab.NS, n int) *lab.NS {
	pod := lab.New(t, "pod")
	lab.Veth(pod, "eth0", node, fmt.Sprintf("pod%d", n))
	pod.Addr("eth0", podAddrs...)
	return pod
}

// sample is what all commands of a variant took in one pod: the time from fork
// to exit, and the CPU time of their processes. The latter hardly depends on
// what else the machine does.
type sample struct{ wall, cpu time.Duration }

// measure runs the variant's commands with pipes for stdin and stdout, as a container
// runtime does.
func (v variant) measure(pod *lab.NS) (took sample, err error) {
	for _, c := range v.commands(pod) {
		path, err := lab.Look(c.args[0])
		if err != nil {
			return took, err
		}
		var out bytes.Buffer
		cmd := exec.Command(path, c.args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.stdin), &out, &out
		cmd.Env = append(os.Environ(), c.env...)
		began := time.Now()
		err = cmd.Run()
		took.wall += time.Since(began)
		if err != nil {
			return took, fmt.Errorf("%s: %w: %s", filepath.Base(path), err, out.String())
		}
		took.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if c.stdout != nil && !bytes.Equal(out.Bytes(), c.stdout) {
			return took, fmt.Errorf("%s answered %q instead of %q", filepath.Base(path), out.String(), c.stdout)
		}
	}
	return took, nil
}
