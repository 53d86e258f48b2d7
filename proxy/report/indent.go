package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Indent is a document in JSON for people and programs: as it came, indented, in
// printable ASCII.
func Indent(raw []byte) (string, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, r := range strings.TrimSpace(out.String()) {
		switch {
		case r == '\n' || ' ' <= r && r <= '~':
			b.WriteRune(r)
		case r < 1<<16: // only within strings
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			r -= 1 << 16
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return b.String() + "\n", nil
}
