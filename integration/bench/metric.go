package main

import (
	"fmt"
	"slices"
)

// metric is one row of the tables.
type metric struct {
	id, title, unit string
	less            bool // less is better
	detail          bool // for the terminal only

	// The goals of a sidecar: its ratio to the best peer, its ratio to
	// direct, its value. 0: none.
	toPeer, toDirect, value float64

	// beyond is the id of another metric: this one is not measured, but the
	// difference of that to direct.
	beyond string
}

// metrics are in the order of the tables.
var metrics = slices.Concat([]metric{
	{id: "up1", title: "up, 1 stream", unit: "Gbit/s", toPeer: 1.4, toDirect: .85},
	{id: "down1", title: "down, 1 stream", unit: "Gbit/s", toPeer: 1.4, toDirect: .85},
	{id: "up16", title: "up, 16 streams", unit: "Gbit/s", toPeer: 1.8, toDirect: .55},
	{id: "down16", title: "down, 16 streams", unit: "Gbit/s", toPeer: 1.8, toDirect: .55},
	{id: "up1-cpu", title: "up 1, CPU", unit: "s/GB", less: true, toPeer: .65},
	{id: "up1-proxy", title: "of it the proxy", unit: "s/GB", less: true, detail: true},
	{id: "down1-cpu", title: "down 1, CPU", unit: "s/GB", less: true, toPeer: .65},
	{id: "down1-proxy", title: "of it the proxy", unit: "s/GB", less: true, detail: true},
	{id: "up16-cpu", title: "up 16, CPU", unit: "s/GB", less: true, toPeer: .6},
	{id: "up16-proxy", title: "of it the proxy", unit: "s/GB", less: true, detail: true},
	{id: "down16-cpu", title: "down 16, CPU", unit: "s/GB", less: true, toPeer: .6},
	{id: "down16-proxy", title: "of it the proxy", unit: "s/GB", less: true, detail: true},
	{id: "rr1-p50", title: "1 conn, p50", unit: "µs", less: true, toPeer: .9, toDirect: 1.25},
	{id: "rr1-p99", title: "1 conn, p99", unit: "µs", less: true, detail: true},
	{id: "rr1-cpu", title: "1 conn, CPU", unit: "µs/req", less: true, detail: true},
	{id: "rr1-proxy", title: "of it the proxy", unit: "µs/req", less: true, detail: true},
	{id: "rr64", title: "64 conns, requests", unit: "k/s", toPeer: 1.2, toDirect: .52},
	{id: "rr64-p50", title: "64 conns, p50", unit: "µs", less: true},
	{id: "rr64-p99", title: "64 conns, p99", unit: "µs", less: true, toPeer: .85, toDirect: 1.6},
	{id: "rr64-cpu", title: "64 conns, CPU", unit: "µs/req", less: true},
	{id: "rr64-proxy", title: "of it the proxy", unit: "µs/req", less: true, detail: true},
	{id: "open64-p50", title: "constant rate, p50", unit: "µs", less: true},
	{id: "open64-p90", title: "constant rate, p90", unit: "µs", less: true, detail: true},
	{id: "open64-p99", title: "constant rate, p99", unit: "µs", less: true},
	{id: "open64-p999", title: "constant rate, p99.9", unit: "µs", less: true, detail: true},
	{id: "open64-cpu", title: "constant rate, CPU", unit: "µs/req", less: true, detail: true},
	{id: "open64-proxy", title: "of it the proxy", unit: "µs/req", less: true, detail: true},
	{id: "mixed-p99", title: "64 conns beside bulk, p99", unit: "µs", less: true},
	{id: "conns", title: "new connections", unit: "k/s", toPeer: 1.25, toDirect: .58},
	{id: "conns-p50", title: "new connection, p50", unit: "µs", less: true, detail: true},
	{id: "conns-p99", title: "new connection, p99", unit: "µs", less: true},
	{id: "conns-cpu", title: "new connection, CPU", unit: "µs", less: true},
	{id: "conns-proxy", title: "of it the proxy", unit: "µs", less: true, detail: true},
	{id: "idle", title: "memory, idle conns", unit: "MB", less: true, toPeer: .15},
	{id: "idle-kb", title: "of it, each", unit: "kB", less: true, detail: true},
	{id: "idle-after", title: "left of it after", unit: "MB", less: true, value: 2},
	{id: "idle-cpu", title: "CPU, idle conns", unit: "%", less: true, value: .049},
	{id: "idle-rr1-p50", title: "1 conn beside them, p50", unit: "µs", less: true},
}, crowded(100), crowded(1000), crowded(9000), []metric{
	{id: "start", title: "start to ready", unit: "ms", less: true, value: 20},
	{id: "iperf3", title: "iperf3, 1 stream up", unit: "Gbit/s"},
	{id: "wrk", title: "wrk, 64 conns", unit: "k/s"},
	{id: "wrk-p99", title: "wrk, p99", unit: "µs", less: true, detail: true},
})

// growthID is the id of one of growth's metrics.
func growthID(conns int, suffix string) string { return fmt.Sprint("growth-", conns, suffix) }

// crowded are the metrics of growth beside so many idle connections.
func crowded(conns int) []metric {
	of := func(title string) string { return fmt.Sprintf("%d idle: %s", conns, title) }
	kernel := growthID(conns, "-kernel")
	return []metric{
		{id: growthID(conns, "-kb"), title: of("user memory, each"), unit: "kB", less: true},
		{id: kernel, title: of("kernel memory, each"), unit: "kB", less: true},
		{id: growthID(conns, "-beyond"), title: "of it beyond direct", unit: "kB", less: true, beyond: kernel},
		{id: growthID(conns, "-p50"), title: of("1 conn beside, p50"), unit: "µs", less: true},
		{id: growthID(conns, "-conns"), title: of("new connections"), unit: "k/s"},
	}
}

// better reports whether a is better than b.
func (m metric) better(a, b float64) bool {
	if m.less {
		return a < b
	}
	return a > b
}

// met reports whether got reaches the goal.
func (m metric) met(got, goal float64) bool { return got == goal || m.better(got, goal) }
