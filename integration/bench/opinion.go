package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// iperf3 is a second opinion on bulk.
func iperf3(b *bench, s *site, f family) (values, error) {
	args := []string{"iperf3", "-J", "-c", f.pod.String(), "-p", fmt.Sprint(iperfPort), "-t", fmt.Sprint(max(1, int(b.duration.Seconds())))}
	out, err := s.net.Client.Try(args...)
	var report struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err = errors.Join(err, json.Unmarshal([]byte(out), &report)); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return values{"iperf3": report.End.Received.Rate / 1e9}, nil
}

// wrk is a second opinion on requests: HTTP, one thread, 64 connections.
func wrk(b *bench, s *site, f family) (values, error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.duration+time.Minute)
	defer cancel()
	path, err := lab.Look("wrk")
	if err != nil {
		return nil, err
	}
	url := "http://" + hostPort(f.pod, appPort) + "/"
	seconds := fmt.Sprintf("-d%d", max(1, int(b.duration.Seconds())))
	out, err := s.net.Client.TryCmd(exec.CommandContext(ctx, path, "-t1", "-c64", seconds, "--latency", url))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	v := values{}
	for line := range strings.Lines(out) {
		switch name, text, _ := strings.Cut(strings.TrimSpace(line), " "); name {
		case "Requests/sec:":
			var rate float64
			_, err = fmt.Sscan(text, &rate)
			v["wrk"] = rate / 1e3
		case "99%":
			var d time.Duration
			d, err = time.ParseDuration(strings.TrimSpace(text))
			v["wrk-p99"] = float64(d.Microseconds())
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
	}
	if v["wrk"] == 0 || strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
		return nil, errors.New(out)
	}
	return v, nil
}

func hostPort(a netip.Addr, port int) string { return net.JoinHostPort(a.String(), fmt.Sprint(port)) }
