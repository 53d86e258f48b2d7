package samples

import (
	"bytes"
	"encoding/json"
	"maps"
	"sync"
)

// Log takes the sidecar's log, in JSON, and counts what it says of connections that have
// ended under the names of the metrics that count the same. Other lines are kept.
type Log struct {
	mu    sync.Mutex
	part  []byte // of a line that has not ended
	seen  Samples
	other []byte
}

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b...)
	for {
		line, rest, ended := bytes.Cut(l.part, []byte("\n"))
		if !ended {
			l.part = append([]byte(nil), l.part...)
			return len(b), nil
		}
		l.line(line)
		l.part = rest
	}
}

func (l *Log) line(line []byte) {
	var c struct {
		Msg, End string
		Up       float64 `json:"bytes_up"`
		Down     float64 `json:"bytes_down"`
	}
	if json.Unmarshal(line, &c) != nil || c.Msg != "connection" {
		const most = 64 << 10
		if len(l.other) < most {
			l.other = append(append(l.other, line...), '\n')
		}
		return
	}
	if l.seen == nil {
		l.seen = Samples{}
	}
	l.seen["connections_accepted_total"]++
	l.seen["connections_closed_total{"+c.End+"}"]++
	l.seen["relayed_bytes_total{up}"] += c.Up
	l.seen["relayed_bytes_total{down}"] += c.Down
}

// Seen is what the connections' lines say so far.
func (l *Log) Seen() Samples {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Samples{}
	maps.Copy(s, l.seen)
	return s
}

// Other are the other lines, the first of them if they are many.
func (l *Log) Other() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.other)
}
