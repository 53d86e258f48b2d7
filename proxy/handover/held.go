package handover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// Held is a document with its descriptors, in the hands of a program that knows nothing of
// what they are.
type Held struct {
	file *os.File
	fds  []int
	lent bool // this process has to end, and another may go on with them already
}

// Len is how many descriptors there are.
func (h *Held) Len() int { return len(h.fds) }

// Close gives up this process's part of them, or with reset ends the connections, too,
// unless another process may have them.
func (h *Held) Close(reset bool) {
	for _, fd := range h.fds {
		if reset && !h.lent {
			sys.ResetOnClose(fd)
		}
		_ = unix.Close(fd)
	}
	h.file.Close()
}

// Keep gives the document and its descriptors to the holder at a unix socket. After an
// error it has none of them.
func (d *Document) Keep(path string) error {
	p, err := visit(path)
	if err != nil {
		return err
	}
	defer p.Close()
	p.patience = givingPatience
	return p.give(int(d.file.Fd()), d.fds, givingPatience)
}

// Serve answers a connection to a holder that holds held, nil if nothing, and returns what
// it holds from then on. It closes neither, and conn in any case, at the end of ctx at
// once. The error is of the connection alone.
func Serve(ctx context.Context, conn *net.UnixConn, held *Held) (_ *Held, err error) {
	p, err := newPeer(conn)
	if err != nil {
		return held, err
	}
	defer p.Close()
	defer context.AfterFunc(ctx, func() { p.Close() })()
	text, fds, err := p.receive()
	if err != nil {
		return held, err
	}
	var n int
	if _, err := fmt.Sscanf(text, "keep %d", &n); err == nil && n >= 0 && len(fds) == 1 {
		got, err := p.keep(fds[0], n)
		if err != nil {
			return held, err
		}
		return got, nil
	}
	closeAll(fds)
	switch {
	case text != "take":
		return held, fmt.Errorf("the other end says %q", text)
	case held == nil:
		return nil, p.send("nothing")
	}
	// The other end has to go on with everything first, and a word that is late must not
	// become a reset of what it serves.
	if err := p.give(int(held.file.Fd()), held.fds, 0); err != nil {
		held.lent = ctx.Err() != nil
		return held, err
	}
	return nil, nil
}

// keep receives what another program is to give up.
func (p peer) keep(file, n int) (h *Held, err error) {
	h = &Held{file: os.NewFile(uintptr(file), "handover")}
	if h.fds, err = p.take(n); err == nil {
		err = p.send("kept")
	}
	if err != nil {
		h.Close(false)
		return nil, err
	}
	return h, nil
}

// Offer is what a holder has, to look at before it is taken.
type Offer struct {
	peer
	file *os.File
	n    int
}

// Ask asks the holder at a unix socket, nil if there is no holder or it has nothing.
func Ask(path string) (*Offer, error) {
	p, err := visit(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, nil
	case err != nil:
		return nil, err
	}
	o := &Offer{peer: p}
	var fds []int
	var text string
	if err = p.send("take"); err == nil {
		text, fds, err = p.receive()
	}
	if err == nil && len(fds) == 1 {
		if _, err = fmt.Sscanf(text, "keep %d", &o.n); err == nil {
			o.file = os.NewFile(uintptr(fds[0]), "handover")
			return o, nil
		}
	}
	closeAll(fds)
	p.Close()
	return nil, err
}

// Look reads the document, whose numbers of descriptors mean nothing here.
func (o *Offer) Look() (*Reader, error) { return Read(o.file) }

// Take reads it with the descriptors. The holder keeps them until Done.
func (o *Offer) Take() (*Reader, error) {
	fds, err := o.take(o.n)
	if err != nil {
		return nil, err
	}
	return read(o.file, fds)
}

// Done tells the holder that this program has taken over, or, if it could not, nothing.
func (o *Offer) Done(taken bool) {
	if taken {
		_ = o.send("kept")
	}
	o.peer.Close()
	o.file.Close()
}
