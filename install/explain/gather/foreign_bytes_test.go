package gather

import (
	"testing"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// FuzzKernel reads what the kernel lists of listeners and of conntrack's entries.
func FuzzKernel(f *testing.F) {
	socket := make([]byte, answerSize)
	socket[0], socket[1] = unix.AF_INET, unix.BPF_TCP_LISTEN
	f.Add(socket)
	six := append([]byte(nil), socket...)
	six[0] = unix.AF_INET6
	f.Add(append(six, 5, 0, inetDiagV6Only, 0, 1, 0, 0, 0))
	f.Add(append(socket[:answerSize:answerSize], 200, 0, 1, 0))
	f.Add(entry(f, []byte{192, 0, 2, 1}, []byte{10, 0, 0, 2}))
	f.Add(entry(f, make([]byte, 16), make([]byte, 3)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, _, ok := listener(data); ok && !l.Addr.IsValid() {
			t.Errorf("a listener on %v", l.Addr)
		}
		if r, ok := rewritten(data); ok && (!r.From.IsValid() || !r.As.IsValid() || r.From.Addr() == r.As.Addr()) {
			t.Errorf("rewritten: %+v", r)
		}
	})
}

// entry is one of conntrack's, of TCP, whose source is rewritten.
func entry(tb testing.TB, from, to []byte) []byte {
	tb.Helper()
	a := mnl.NewAttributeEncoder()
	for _, kind := range []uint16{ctaTupleOrig, ctaTupleReply} {
		a.Nested(kind, func(a *mnl.AttributeEncoder) error {
			a.Nested(ctaTupleIP, func(a *mnl.AttributeEncoder) error {
				at := uint16(1)
				if len(from) == 16 {
					at = 3
				}
				a.Bytes(at, from)
				a.Bytes(at+1, to)
				return nil
			})
			a.Nested(ctaTupleProto, func(a *mnl.AttributeEncoder) error {
				a.Uint8(ctaProtoNum, unix.IPPROTO_TCP)
				a.Bytes(ctaProtoSrc, []byte{0, 80})
				a.Bytes(ctaProtoDst, []byte{1, 80})
				return nil
			})
			return nil
		})
		from, to = to, append([]byte{203}, from[1:]...)
	}
	b, err := a.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return append([]byte{unix.AF_INET, 0, 0, 0}, b...)
}
