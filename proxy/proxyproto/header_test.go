package proxyproto

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

// v2 is a header of version 2: command and version, family, and all behind the length.
func v2(command, family byte, rest string) string {
	b := append([]byte(signature2), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(rest)))) + rest
}

const (
	local, proxy     = 0x20, 0x21
	unspec           = 0x00
	tcp4, udp4, tcp6 = 0x11, 0x12, 0x21
	unix             = 0x31

	// 192.0.2.1:40001 to 198.51.100.1:443, and the like of IPv6.
	block4 = "\xc0\x00\x02\x01\xc6\x33\x64\x01\x9c\x41\x01\xbb"
	block6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x9c\x41\x01\xbb"

	authority = "\x02\x00\x03a.b"
	noop      = "\x04\x00\x02\x00\x00"
	noSum     = "\x03\x00\x04\x00\x00\x00\x00"
)

// summed puts the right checksum into a header that has a field for it.
func summed(s string) string {
	sum := crc32.Checksum([]byte(s), crc32.MakeTable(crc32.Castagnoli))
	return strings.Replace(s, noSum, noSum[:3]+string(binary.BigEndian.AppendUint32(nil, sum)), 1)
}

var (
	named4 = Header{Client: netip.MustParseAddrPort("192.0.2.1:40001"), Dst: netip.MustParseAddrPort("198.51.100.1:443")}
	named6 = Header{Client: netip.MustParseAddrPort("[2001:db8::1]:40001"), Dst: netip.MustParseAddrPort("[2001:db8::2]:443")}
	own    = Header{Local: true}
)

var headers = []struct {
	name, text string
	want       Header
	fault      string // part of the error
}{
	{"v1, IPv4", "PROXY TCP4 192.0.2.1 198.51.100.1 40001 443\r\n", named4, ""},
	{"v1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 40001 443\r\n", named6, ""},
	{"v1, unknown", "PROXY UNKNOWN\r\n", own, ""},
	{"v1, unknown with addresses", "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", own, ""},
	{"v1, mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 40001 443\r\n", Header{
		Client: netip.MustParseAddrPort("[::ffff:192.0.2.1]:40001"), Dst: netip.MustParseAddrPort("[::ffff:198.51.100.1]:443"),
	}, ""},
	{"v1, port 0", "PROXY TCP4 192.0.2.1 198.51.100.1 0 443\r\n", Header{Client: netip.MustParseAddrPort("192.0.2.1:0"), Dst: named4.Dst}, ""},
	{"v1, port", "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", Header{}, "malformed"},
	{"v1, no return", "PROXY TCP4 192.0.2.1 198.51.100.1 40001 443\n", Header{}, "malformed"},
	{"v1, family", "PROXY TCP4 2001:db8::1 2001:db8::2 40001 443\r\n", Header{}, "malformed"},
	{"v1, zone", "PROXY TCP6 fe80::1%eth0 fe80::2 40001 443\r\n", Header{}, "malformed"},
	{"v1, short", "PROXY TCP4 192.0.2.1\r\n", Header{}, "malformed"},
	{"v1, more", "PROXY TCP4 192.0.2.1 198.51.100.1 40001 443 x\r\n", Header{}, "malformed"},
	{"v1, UDP", "PROXY UDP4 192.0.2.1 198.51.100.1 40001 443\r\n", Header{}, "malformed"},
	{"v1, too long", "PROXY UNKNOWN" + strings.Repeat(" ", 100), Header{}, "longer than"},
	{"v2, IPv4", v2(proxy, tcp4, block4), named4, ""},
	{"v2, IPv6", v2(proxy, tcp6, block6), named6, ""},
	{"v2, fields", v2(proxy, tcp4, block4+authority+noop), named4, ""},
	{"v2, checksum", summed(v2(proxy, tcp6, block6+authority+noSum+noop)), named6, ""},
	{"v2, wrong checksum", v2(proxy, tcp4, block4+noSum), Header{}, "CRC32C"},
	{"v2, short checksum", v2(proxy, tcp4, block4+"\x03\x00\x02\x00\x00"), Header{}, "CRC32C"},
	{"v2, local", v2(local, unspec, ""), own, ""},
	{"v2, local with addresses", v2(local, tcp4, block4), own, ""},
	{"v2, local with checksum", summed(v2(local, unspec, noSum)), own, ""},
	{"v2, local with wrong checksum", v2(local, tcp6, block6+noSum), Header{}, "CRC32C"},
	{"v2, local with what it likes", v2(local, tcp6, "\x01\xff"), own, ""},
	{"v2, no family", v2(proxy, unspec, ""), Header{}, "malformed"},
	{"v2, unix", v2(proxy, unix, strings.Repeat("x", 216)), Header{}, "not one of TCP"},
	{"v2, UDP", v2(proxy, udp4, block4), Header{}, "not one of TCP"},
	{"v2, short addresses", v2(proxy, tcp6, block4), Header{}, "malformed"},
	{"v2, cut field", v2(proxy, tcp4, block4+authority[:5]), Header{}, "malformed"},
	{"v2, half a field", v2(proxy, tcp4, block4+"\x04"), Header{}, "malformed"},
	{"v2, command", v2(0x22, tcp4, block4), Header{}, "malformed"},
	{"v2, version", v2(0x11, tcp4, block4), Header{}, "malformed"},
	{"v2, family", v2(proxy, 0x51, block4), Header{}, "malformed"},
	{"v2, long", v2(proxy, tcp4, block4+"\x28\x0f\xf1"+strings.Repeat("x", 0xff1)), named4, ""},
	{"v2, too long", v2(proxy, tcp4, block4+"\x28\x0f\xf2"+strings.Repeat("x", 0xff2)), Header{}, "longer than"},
	{"none", "GET / HTTP/1.1\r\n\r\n", Header{}, ErrNone.Error()},
	{"nearly v1", "PROXYTCP4 192.0.2.1 198.51.100.1 40001 443\r\n", Header{}, ErrNone.Error()},
	{"nearly v2", "\r\n\r\n\x00\r\nQUIX\n", Header{}, ErrNone.Error()},
}

// read gives a stream to Size byte by byte, as the slowest sender does, and what it
// finds to Parse.
func read(p *Parser, stream []byte) (h Header, size int, err error) {
	for n := range len(stream) + 1 {
		if size, err = Size(stream[:n]); err != nil {
			return h, 0, err
		}
		if size > 0 && size <= n {
			h, err = p.Parse(stream[:size])
			return h, size, err
		}
	}
	return h, 0, nil
}

func TestParse(t *testing.T) {
	var p Parser // one for all: none leaves anything behind
	for _, tt := range headers {
		h, size, err := read(&p, []byte(tt.text+"PROXY and what follows\n"))
		switch {
		case tt.fault != "":
			if err == nil || !strings.Contains(err.Error(), tt.fault) || h != (Header{}) {
				t.Errorf("%s: got %v, %v, want an error with %q", tt.name, h, err, tt.fault)
			}
		case err != nil || h != tt.want || size != len(tt.text):
			t.Errorf("%s: got %v of %d bytes, %v; want %v of %d", tt.name, h, size, err, tt.want, len(tt.text))
		}
	}
}

// TestEarly: what cannot be a header any more is known at the first byte that says so.
func TestEarly(t *testing.T) {
	for text, want := range map[string]error{
		"": nil, "P": nil, "PROXY": nil, "PROXY ": nil, "\r": nil, "\r\n\r\n\x00\r\nQUIT\n": nil, v2(proxy, tcp4, "")[:15]: nil,
		"G": ErrNone, "PO": ErrNone, "PROXYX": ErrNone, "\r\n\r\n\x01": ErrNone,
	} {
		if n, err := Size([]byte(text)); n != 0 || !errors.Is(err, want) {
			t.Errorf("%q: got %d, %v, want %v", text, n, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range headers {
		f.Add([]byte(tt.text + "x"))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		h, size, err := read(&Parser{}, stream)
		if size > MaxSize || size > len(stream) {
			t.Fatalf("%d bytes of %d", size, len(stream))
		}
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("a long error: %v", err)
		}
		if err == nil && size > 0 && !h.Local && (h.Client.Addr().BitLen() != h.Dst.Addr().BitLen() || h.Client.Addr().Zone() != "") {
			t.Errorf("got %v", h)
		}
		// All at once it is the same.
		whole, werr := Size(stream)
		switch {
		case size > 0 && whole != size:
			t.Errorf("%d bytes at once, %d byte by byte", whole, size)
		case size == 0 && (werr == nil) != (err == nil):
			t.Errorf("%v at once, %v byte by byte", werr, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, text := range []string{headers[1].text, summed(v2(proxy, tcp6, block6+authority+noSum))} {
		b.Run("v"+map[bool]string{true: "1", false: "2"}[text[0] == 'P'], func(b *testing.B) {
			var p Parser
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Parse([]byte(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
