package printable

import (
	"strconv"
	"strings"
	"testing"
)

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":                        `""`,
		"nat":                     `"nat"`,
		`a"b\c`:                   `"a\"b\\c"`,
		"\x1b[2Jnone":             `"\x1b[2Jnone"`,
		"a\nlevel=INFO\r\x00\x7f": `"a\nlevel=INFO\r\x00\x7f"`,
		"\u202etan":               `"\u202etan"`,        // right to left
		"n\u0430t":                `"n\u0430t"`,         // a Cyrillic letter
		"\u009b2J":                `"\u009b2J"`,         // ESC [ in one character
		"a\xffb":                  `"a\xffb"`,           // no UTF-8
		"\U0001f600\u2028":        `"\U0001f600\u2028"`, // another end of a line
		"\ufffd":                  `"\ufffd"`,           // the sign itself is UTF-8
		strings.Repeat("a", 100):  `"` + strings.Repeat("a", 100) + `"`,
		strings.Repeat("a", 101):  `"` + strings.Repeat("a", 100) + `"... (101 bytes)`,
		strings.Repeat("é", 1000): `"` + strings.Repeat(`\u00e9`, 16) + `"... (2000 bytes)`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("%+q: got %s, want %s", in, got, want)
		}
	}
}

func TestWord(t *testing.T) {
	for in, want := range map[string]string{
		"10-calico.conflist": "10-calico.conflist", "tproxy-cni.io/mode": "tproxy-cni.io/mode",
		"": `""`, "a b": `"a b"`, "ok: a": `"ok: a"`, "a\n": `"a\n"`, "é": `"\u00e9"`, `"`: `"\""`,
		strings.Repeat("x", 101): `"` + strings.Repeat("x", 100) + `"... (101 bytes)`,
	} {
		if got := Word(in); got != want {
			t.Errorf("%+q: got %s, want %s", in, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"a: \"b\\n\"\nc\n":         `a: "b\n"; c`,
		"no such\tfile \x1b[0m":    `no such\tfile \x1b[0m`,
		strings.Repeat("ab", 2048): strings.Repeat("ab", 2048),
	} {
		if got := Line(in); got != want {
			t.Errorf("%+q: got %s, want %s", in, got, want)
		}
	}
	if got := Line(strings.Repeat("a", 20000)); len(got) != MaxLine || !strings.HasSuffix(got, "aaa... (20000 bytes)") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}

func TestList(t *testing.T) {
	var texts []string
	for i := range 1000 {
		texts = append(texts, strconv.Itoa(i))
	}
	for n, want := range map[int]string{0: "", 2: "0, 1", 10: "0, 1, 2, 3, 4, 5, 6, 7, 8, 9", 1000: "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 990 more"} {
		if got := List(texts[:n], ", "); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

// FuzzShown: whatever comes, what is shown is bounded printable ASCII on one
// line, and can be read back where it is short.
func FuzzShown(f *testing.F) {
	for _, s := range []string{"", "nat", "\x1b]0;title\x07", "\u202egnp.exe", "a\nlevel=ERROR msg=fake", "\xff\xfe\xc3", "\u2028\u2066", strings.Repeat("\x00", 5000), `\"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, got := range map[string]string{"Quote": Quote(s), "Word": Word(s), "Short": Short(s), "Line": Line(s)} {
			for _, r := range got {
				if r < ' ' || r > '~' {
					t.Fatalf("%s(%+q) has %+q", name, s, r)
				}
			}
			if most := map[string]int{"Line": MaxLine, "Short": MaxValue}[name]; most > 0 && len(got) > most || len(got) > MaxLine {
				t.Fatalf("%s(%+q) has %d bytes", name, s, len(got))
			}
			if name != "Line" && len(got) > MaxValue+40 {
				t.Fatalf("%s(%+q) has %d bytes", name, s, len(got))
			}
		}
		if back, err := strconv.Unquote(Quote(s)); err == nil && back != s || len(s) <= 10 && err != nil {
			t.Fatalf("%s is %+q, not %+q (%v)", Quote(s), back, s, err)
		}
		if once := Line(s); Line(once) != once {
			t.Fatalf("a line of a line: %q, %q", once, Line(once))
		}
	})
}
