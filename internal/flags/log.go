package flags

import (
	"errors"
	"io"
	"log/slog"
)

// Log is how a program logs. The zero value is text, from level info up.
type Log struct {
	Level slog.Level
	JSON  bool
}

// New makes the program's logger.
func (l Log) New(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.Level}
	if l.JSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// LogFlags are --log-level and --log-format, whose environment variables begin
// with prefix.
func LogFlags[C any](prefix string, log func(*C) *Log) []Flag[C] {
	return []Flag[C]{
		{
			Name: "log-level", Env: prefix + "LOG_LEVEL", Preset: "info", Usage: "`debug|info|warn|error`",
			Set: func(c *C, s string) error {
				if log(c).Level.UnmarshalText([]byte(s)) != nil {
					return errors.New("want debug, info, warn or error")
				}
				return nil
			},
		},
		{
			Name: "log-format", Env: prefix + "LOG_FORMAT", Preset: "text", Usage: "`text|json`",
			Set: func(c *C, s string) error {
				if s != "text" && s != "json" {
					return errors.New("want text or json")
				}
				log(c).JSON = s == "json"
				return nil
			},
		},
	}
}
