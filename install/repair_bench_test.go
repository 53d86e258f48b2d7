package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/repair"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// BenchmarkRepair is what a look at a hundred pods that are right costs the
// installer.
func BenchmarkRepair(b *testing.B) {
	lab.Need(b)
	fake := &fakeRuntime{}
	var pods []fakePod
	for i := range 100 {
		pod, node := lab.New(b, fmt.Sprint("pod", i)), lab.New(b, fmt.Sprint("node", i))
		lab.Veth(pod, "eth0", node, "pod0")
		pod.Addr("eth0", lab.Pod4+"/24", lab.Pod6+"/64")
		mode := []contract.Mode{contract.ModeNAT, contract.ModeTProxy}[i%2]
		if err := intercept.Apply(pod.Path(), intercept.Default(mode)); err != nil {
			b.Fatal(err)
		}
		pods = append(pods, fakePod{name: fmt.Sprint("web-", i), netns: pod.Path(), annotations: map[string]string{contract.AnnotationPrefix + "mode": string(mode)}})
	}
	fake.set(pods...)
	looked := make(chan state.Count)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	entry, err := settings.NewEntry(nil)
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		_ = repair.Run(ctx, slog.New(slog.DiscardHandler), repair.Options{
			Socket: serveRuntime(b, fake), Entry: entry, NodeNetNS: ownNetNS, Every: time.Nanosecond,
			Done: func(state.State, bool) {},
			Looked: func(c state.Count, _ time.Duration) {
				select {
				case looked <- c:
				case <-ctx.Done():
				}
			},
		})
	}()
	if c := <-looked; c[state.Intercepted][contract.ModeNAT] != 50 || c[state.Intercepted][contract.ModeTProxy] != 50 {
		b.Fatalf("pods are %v", c)
	}
	b.ReportAllocs()
	before, looks := cpu(b), 0.0
	for b.Loop() {
		<-looked
		looks++
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/looks/1000, "cpu-ms/op")
}

// cpu is what this process has used, user and system time.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
