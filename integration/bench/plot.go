package main

import (
	"fmt"
	"image/color"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// picture is a file with groups of bars: a group for each metric, a bar for
// each variant.
type picture struct {
	file, title, axis string
	metrics, labels   []string
}

var pictures = []picture{
	{
		"throughput", "Bulk throughput: more is better", "Gbit/s",
		[]string{"up1", "down1", "up16", "down16"},
		[]string{"1 stream up", "1 stream down", "16 up", "16 down"},
	},
	{
		"cpu", "CPU of the whole machine per gigabyte: less is better", "s/GB",
		[]string{"up1-cpu", "down1-cpu", "up16-cpu", "down16-cpu"},
		[]string{"1 stream up", "1 stream down", "16 up", "16 down"},
	},
	{
		"latency", "Latency of a request, 1 connection: less is better", "µs",
		[]string{"rr1-p50", "rr1-p99"},
		[]string{"p50", "p99"},
	},
	{
		"percentiles", "Latency at a constant rate, 64 connections: less is better", "µs",
		[]string{"open64-p50", "open64-p90", "open64-p99"},
		[]string{"p50", "p90", "p99"},
	},
	{
		"requests", "Requests and new connections: more is better", "1000/s",
		[]string{"rr64", "conns"},
		[]string{"requests, 64 connections", "new connections"},
	},
	{
		"memory", "User memory per idle connection: less is better", "kB",
		[]string{"idle-kb"},
		[]string{""},
	},
}

// palette is for direct, the sidecars and the peers, in this order.
var palette = map[role][]color.RGBA{
	limit: {{0x9e, 0x9e, 0x9e, 0xff}},
	ours:  {{0x0b, 0x6e, 0x4f, 0xff}, {0x35, 0xb7, 0x79, 0xff}, {0x00, 0x4d, 0x66, 0xff}, {0x4a, 0xa3, 0xc4, 0xff}},
	peer:  {{0xc7, 0x51, 0x2e, 0xff}, {0x3b, 0x4c, 0xa0, 0xff}, {0xe8, 0x9b, 0x72, 0xff}, {0x8d, 0x9b, 0xd6, 0xff}},
}

// plots draws the pictures of each family: throughput-IPv4.svg and so on.
func (r *report) plots() error {
	plot.DefaultFont.Variant = "Sans"
	for _, f := range r.families {
		for _, p := range pictures {
			file := filepath.Join(r.out, fmt.Sprintf("%s-%s.svg", p.file, f.name))
			if err := r.draw(p, f.name, file); err != nil {
				return fmt.Errorf("plot %s: %w", file, err)
			}
		}
	}
	return nil
}

func (r *report) draw(p picture, family, file string) error {
	canvas := plot.New()
	canvas.Title.Text = p.title + " (" + family + ")"
	canvas.Y.Label.Text = p.axis
	canvas.NominalX(p.labels...)
	canvas.Legend.Top = true
	canvas.Legend.Padding = vg.Points(2)
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	canvas.Add(grid)

	variants := r.of(limit, ours, peer)
	const pictureWidth = 9 * vg.Inch
	width := pictureWidth * 0.62 / vg.Length((len(variants)+1)*len(p.metrics))
	seen, drawn := map[role]int{}, false
	for i, v := range variants {
		var bars plotter.Values
		for _, m := range p.metrics {
			x, _, ok := r.median(key{family, v, m})
			drawn = drawn || ok
			bars = append(bars, x)
		}
		chart, err := plotter.NewBarChart(bars, width)
		if err != nil {
			return err
		}
		role := r.role(v)
		colors := palette[role]
		chart.Color = colors[seen[role]%len(colors)]
		seen[role]++
		chart.LineStyle.Width = 0
		chart.Offset = width * (vg.Length(i) - vg.Length(len(variants)-1)/2)
		canvas.Add(chart)
		canvas.Legend.Add(v, chart)
	}
	if !drawn {
		return nil
	}
	canvas.Y.Min = 0
	canvas.X.Min, canvas.X.Max = -.5, float64(len(p.metrics))*1.25-.5 // room for the legend
	return canvas.Save(pictureWidth, 4*vg.Inch, file)
}

func (r *report) role(variant string) role {
	for _, s := range r.sites {
		if s.name == variant {
			return s.role
		}
	}
	return limit
}
