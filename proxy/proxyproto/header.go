// Package proxyproto reads the header of the PROXY protocol, versions 1 and 2, with
// which a proxy names the client of a connection. No byte behind the header is
// looked at, and nothing here waits.
package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"

	proxyproto "github.com/pires/go-proxyproto"
)

// Header is what a header says.
type Header struct {
	// Local means that it names no client (LOCAL, UNKNOWN): the connection is the
	// sender's own. The addresses are not valid then.
	Local bool

	// Client and Dst are the two ends of the client's connection, of one family. An
	// IPv4-mapped IPv6 address stays one.
	Client, Dst netip.AddrPort
}

const (
	// MaxSize is the length of the longest header that is taken, in bytes: a client's
	// certificate in it has 1 to 2 KiB, the addresses and all else much less.
	MaxSize = v2Prefix + 4096

	v1Size   = 107 // of the longest line of version 1
	v2Prefix = 16  // signature, version, command, family and the length of the rest
)

var (
	// ErrNone is a stream that does not begin with a header.
	ErrNone = errors.New("no PROXY header")

	errTooLong  = fmt.Errorf("the PROXY header is longer than the %d bytes of version 1, or the %d of version 2 that are taken", v1Size, MaxSize)
	errChecksum = errors.New("the PROXY header's CRC32C is wrong")
	errNotTCP   = errors.New("the PROXY header names a client that is not one of TCP over IPv4 or IPv6")
)

var (
	signature1 = []byte("PROXY ")
	signature2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

// Size returns the length of the header at the beginning of a stream, of which b is
// what has come so far: 0 if that is too little to tell. The error is ErrNone, or says
// that the header is too long.
func Size(b []byte) (int, error) {
	switch {
	case bytes.HasPrefix(b, signature2):
		if len(b) < v2Prefix {
			return 0, nil
		}
		n := v2Prefix + int(binary.BigEndian.Uint16(b[v2Prefix-2:]))
		if n > MaxSize {
			return 0, errTooLong
		}
		return n, nil
	case bytes.HasPrefix(b, signature1):
		n := 1 + bytes.IndexByte(b[:min(len(b), v1Size)], '\n')
		if n == 0 && len(b) >= v1Size {
			return 0, errTooLong
		}
		return n, nil
	case bytes.HasPrefix(signature2, b), bytes.HasPrefix(signature1, b):
		return 0, nil
	}
	return 0, ErrNone
}

// Parser parses headers, one at a time. Its zero value is ready.
type Parser struct {
	whole bytes.Reader
	buf   *bufio.Reader
}

// Parse reads a whole header, as Size found it. The error says what is wrong with it;
// it has no foreign text.
func (p *Parser) Parse(b []byte) (Header, error) {
	p.whole.Reset(b)
	if p.buf == nil {
		p.buf = bufio.NewReaderSize(nil, MaxSize) // the library wants version 1 in one read
	}
	p.buf.Reset(&p.whole)
	h, err := proxyproto.Read(p.buf)
	p.whole.Reset(nil)
	if err != nil {
		return Header{}, fmt.Errorf("the PROXY header is malformed: %w", reason(err))
	}
	if h.Version == 2 {
		if err := verify(b, h); err != nil {
			return Header{}, err
		}
	}
	if h.Command.IsLocal() {
		return Header{Local: true}, nil
	}
	src, dst := addrPort(h.SourceAddr), addrPort(h.DestinationAddr)
	if !src.IsValid() || !dst.IsValid() {
		return Header{}, errNotTCP
	}
	return Header{Client: src, Dst: dst}, nil
}

// reason is an error of the library without what it wraps, which may quote the header.
func reason(err error) error {
	for {
		switch e := err.(type) {
		case interface{ Unwrap() []error }:
			err = e.Unwrap()[0]
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		default:
			return err
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// addressSize is the length of the addresses of version 2 by the family in the header.
var addressSize = [...]int{0: 0, 1: 12, 2: 36, 3: 216}

// verify checks that the fields behind the addresses fill the header exactly, and its
// checksum, if it has one. What else they say nobody here uses. Of a header that names
// no client only the checksum counts: the rest of it need not have any form.
func verify(b []byte, h *proxyproto.Header) error {
	malformed := fmt.Errorf("the PROXY header is malformed: %w", proxyproto.ErrTruncatedTLV)
	if h.Command.IsLocal() {
		malformed = nil
	}
	const head = 3 // of a field: type and length
	for at := v2Prefix + addressSize[b[13]>>4]; at < len(b); {
		if len(b)-at < head {
			return malformed
		}
		value := at + head
		end := value + int(binary.BigEndian.Uint16(b[at+1:]))
		if end > len(b) {
			return malformed
		}
		if proxyproto.PP2Type(b[at]) == proxyproto.PP2_TYPE_CRC32C && !sumMatches(b, value, end) {
			return errChecksum
		}
		at = end
	}
	return nil
}

// sumMatches compares the checksum at b[from:to] with that of all bytes, its own
// counted as zero.
func sumMatches(b []byte, from, to int) bool {
	var zero [crc32.Size]byte
	if to-from != len(zero) {
		return false
	}
	sum := crc32.Update(0, castagnoli, b[:from])
	sum = crc32.Update(sum, castagnoli, zero[:])
	return binary.BigEndian.Uint32(b[from:to]) == crc32.Update(sum, castagnoli, b[to:])
}
