package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// picture is a file with panels side by side, two in a row.
type picture struct {
	file, title string
	panels      []panel
}

// panel has groups of bars: a group for each metric, a bar for each variant.
type panel struct {
	title, axis     string
	metrics, labels []string
}

var pictures = []picture{
	{"throughput", "Bulk throughput: more is better", []panel{{"", "Gbit/s", bulks(""), bulkLabels}}},
	{"cpu", "CPU of the whole machine per gigabyte: less is better", []panel{{"", "s/GB", bulks("-cpu"), bulkLabels}}},
	{"latency", "Latency of a request: less is better", []panel{
		{"1 connection", "µs", []string{"rr1-p50", "rr1-p99"}, []string{"p50", "p99"}},
		{"64 connections, a constant rate", "µs", []string{"open64-p50", "open64-p90", "open64-p99"}, []string{"p50", "p90", "p99"}},
	}},
	{"requests", "Requests and new connections: more is better", []panel{
		{"64 connections", "1000 requests/s", []string{"rr64"}, []string{""}},
		{"32 at a time", "1000 new connections/s", []string{"conns"}, []string{""}},
	}},
	{"memory", "User memory of the proxy with idle connections: less is better", []panel{
		{"", "MB", []string{"idle", "idle-after"}, []string{"while they are there", "left of it after they closed"}},
	}},
	{"growth", "What a connection costs beside 100, 1,000 and 9,000 idle ones", []panel{
		{"user memory of the proxy for each", "kB", growths("-kb"), growthLabels},
		{"kernel memory for each", "kB", growths("-kernel"), growthLabels},
		{"p50 of a request beside them", "µs", growths("-p50"), growthLabels},
		{"new connections beside them", "1000/s", growths("-conns"), growthLabels},
	}},
}

var (
	bulkLabels   = []string{"1 stream up", "1 stream down", "16 up", "16 down"}
	growthLabels = []string{"100", "1,000", "9,000"}
)

func bulks(suffix string) []string {
	return []string{"up1" + suffix, "down1" + suffix, "up16" + suffix, "down16" + suffix}
}

func growths(suffix string) []string {
	return []string{growthID(100, suffix), growthID(1000, suffix), growthID(9000, suffix)}
}

// palette has a colour for each variant, the same in every picture.
var palette = map[string]color.RGBA{
	directName: {0x9e, 0x9e, 0x9e, 0xff},
	"nat":      {0x0b, 0x6e, 0x4f, 0xff}, "tproxy": {0x35, 0xb7, 0x79, 0xff},
	"haproxy-1": {0xe8, 0x9b, 0x72, 0xff}, "haproxy-2": {0xc7, 0x51, 0x2e, 0xff},
	"nginx-1": {0x8d, 0x9b, 0xd6, 0xff}, "nginx-2": {0x3b, 0x4c, 0xa0, 0xff},
}

// others are for sidecars with names, in turn.
var others = []color.RGBA{{0x0b, 0x6e, 0x4f, 0xff}, {0x35, 0xb7, 0x79, 0xff}, {0x00, 0x4d, 0x66, 0xff}, {0x4a, 0xa3, 0xc4, 0xff}}

// The parts of a page.
const (
	pageWidth   = 9 * vg.Inch
	rowHeight   = 3.2 * vg.Inch
	titleHeight = 28
	captionSize = 9
	legendWidth = 90
	margin      = 8
)

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

// draw writes a picture, unless it would be empty.
func (r *report) draw(p picture, family, file string) error {
	rows := (len(p.panels) + 1) / 2
	svg := vgsvg.New(pageWidth, vg.Length(rows)*rowHeight+titleHeight+captionSize+margin)
	page := draw.New(svg)
	page.FillPolygon(color.White, []vg.Point{
		page.Min, {X: page.Max.X, Y: page.Min.Y}, page.Max, {X: page.Min.X, Y: page.Max.Y},
	})
	text := func(x, y, size vg.Length, what string) {
		page.FillText(draw.TextStyle{Color: color.Black, Font: font.From(plot.DefaultFont, size), Handler: plot.DefaultTextHandler}, vg.Point{X: x, Y: y}, what)
	}
	text(margin, page.Max.Y-titleHeight/2-margin/2, 14, p.title+" ("+family+")")
	text(margin, margin, captionSize, r.env.machine()+". "+r.env.effort()+".")

	tiles := draw.Tiles{Cols: min(2, len(p.panels)), Rows: rows, PadX: 2 * margin, PadY: margin}
	body := draw.Crop(page, margin, -legendWidth, captionSize+2*margin, -titleHeight)
	var legend plot.Legend
	drawn := false
	for i, panel := range p.panels {
		canvas, some, err := r.panel(panel, family, pageWidth/vg.Length(tiles.Cols))
		if err != nil {
			return err
		}
		drawn = drawn || some
		legend, canvas.Legend = canvas.Legend, plot.NewLegend()
		canvas.Draw(tiles.At(body, i%2, i/2))
	}
	if !drawn {
		return nil
	}
	legend.Draw(draw.Crop(body, body.Max.X-body.Min.X+margin, legendWidth, 0, 0))
	var out bytes.Buffer
	if _, err := svg.WriteTo(&out); err != nil {
		return err
	}
	// Fonts of the same width, for systems without the first.
	const from, to = "font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;"
	return os.WriteFile(file, bytes.ReplaceAll(out.Bytes(), []byte(from), []byte(to)), 0o644)
}

// ticks are plot's own, with labels as short as can be.
func ticks(low, high float64) []plot.Tick {
	all := plot.DefaultTicks{}.Ticks(low, high)
	for i := range all {
		if all[i].Label != "" {
			all[i].Label = strconv.FormatFloat(all[i].Value, 'f', -1, 64)
		}
	}
	return all
}

// panel makes a panel of this width, with its legend. drawn reports whether it has
// any value.
func (r *report) panel(p panel, family string, wide vg.Length) (canvas *plot.Plot, drawn bool, err error) {
	canvas = plot.New()
	canvas.Title.Text = p.title
	canvas.Y.Label.Text = p.axis
	canvas.NominalX(p.labels...)
	canvas.Y.Tick.Marker = plot.TickerFunc(ticks)
	canvas.Legend.Top, canvas.Legend.Left = true, true
	canvas.Legend.Padding = vg.Points(2)
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	canvas.Add(grid)

	variants := r.of(limit, ours, peer)
	width := wide * 0.68 / vg.Length((len(variants)+1)*len(p.metrics))
	named := 0
	for i, v := range variants {
		var bars plotter.Values
		for _, m := range p.metrics {
			f := r.figure(key{family, v, m})
			drawn = drawn || f.Samples > 0
			bars = append(bars, f.Center)
		}
		chart, err := plotter.NewBarChart(bars, width)
		if err != nil {
			return nil, false, err
		}
		fixed, ok := palette[v]
		if chart.Color = fixed; !ok {
			chart.Color = others[named%len(others)]
			named++
		}
		chart.LineStyle.Width = 0
		chart.Offset = width * (vg.Length(i) - vg.Length(len(variants)-1)/2)
		canvas.Add(chart)
		canvas.Legend.Add(v, chart)
	}
	canvas.Y.Min, canvas.Y.Max = 0, canvas.Y.Max*1.04
	canvas.X.Min, canvas.X.Max = -.5, float64(len(p.metrics))-.5
	return canvas, drawn, nil
}
