package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// These loads are not measured and so may be simple: a goroutine for each connection.

// plainly runs one for each of the load's connections and returns the first error.
func (c *client) plainly(one func(ctx context.Context, i int) error) error {
	c.startClock()
	ctx, cancel := context.WithDeadline(context.Background(), c.limit)
	defer cancel()
	errs := make(chan error, c.Conns)
	for i := range c.Conns {
		go func() { errs <- one(ctx, i) }()
	}
	for range c.Conns {
		if err := <-errs; err != nil {
			return err
		}
	}
	c.stopClock()
	return nil
}

// plain is such a connection.
type plain struct {
	*net.TCPConn
	c       *client
	local   netip.AddrPort
	request message
}

// plainDial connects and makes the first message, which is not yet sent.
func (c *client) plainDial(ctx context.Context, kind byte, nonce uint64) (*plain, error) {
	c.mu.Lock()
	local := c.source()
	c.mu.Unlock()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local), Control: reuseAddr}
	nc, err := dialer.DialContext(ctx, "tcp", c.Target.String())
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", local, err)
	}
	deadline, _ := ctx.Deadline()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Conns++
	return &plain{nc.(*net.TCPConn), c, local, newMessage(kind, nonce)}, nc.SetDeadline(deadline)
}

// reuseAddr lets a port be bound of which an earlier connection is in TIME_WAIT, as in
// connect.
func reuseAddr(_, _ string, raw syscall.RawConn) error {
	var err error
	cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(cerr, os.NewSyscallError("setsockopt", err))
}

// answer reads the reply.
func (p *plain) answer() error {
	var reply message
	if _, err := io.ReadFull(p, reply[:]); err != nil {
		return fmt.Errorf("from %s: reply: %w", p.local, err)
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if err := p.c.compare(&reply, &p.request, p.local, 0); err != nil {
		return fmt.Errorf("from %s: %w", p.local, err)
	}
	p.c.result.Count++
	return nil
}

// moved counts bytes that were compared.
func (c *client) moved(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Bytes += n
}

// echoSize is more than all buffers between client and server together.
const echoSize = 8 << 20

// echo sends random bytes and half-closes; the same bytes and the end of the stream must
// come back.
func (c *client) echo() error {
	return c.plainly(func(ctx context.Context, i int) error {
		return c.echoOne(ctx, uint64(i), echoSize/c.Conns*(i+1)*2/(c.Conns+1))
	})
}

func (c *client) echoOne(ctx context.Context, seed uint64, size int) error {
	p, err := c.plainDial(ctx, kindEcho, seed)
	if err != nil {
		return err
	}
	defer p.Close()
	out := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(out)
	sent := make(chan error, 1)
	go func() {
		_, err := p.Write(p.request[:])
		if err == nil {
			_, err = p.Write(out)
		}
		if err == nil {
			err = p.CloseWrite()
		}
		sent <- err
	}()
	if err := p.answer(); err != nil {
		return err
	}
	back, err := io.ReadAll(p)
	if err != nil {
		return fmt.Errorf("from %s: after %d of %d bytes: %w", p.local, len(back), size, err)
	}
	if !bytes.Equal(back, out) {
		return fmt.Errorf("from %s: sent %d bytes, got %d, and they differ", p.local, size, len(back))
	}
	c.moved(int64(size))
	return <-sent
}

// slow has writers of a byte at a time beside readers of a little at a time, one
// connection of each after the other.
func (c *client) slow() error {
	return c.plainly(func(ctx context.Context, i int) error {
		for nonce := uint64(i); time.Now().Before(c.end); nonce += uint64(c.Conns) {
			one := c.dripOne
			if i%2 == 0 {
				one = c.sipOne
			}
			if err := one(ctx, nonce); err != nil {
				return err
			}
		}
		return nil
	})
}

// pause is how long a slow client does nothing.
const pause = 10 * time.Millisecond

func (c *client) dripOne(ctx context.Context, nonce uint64) error {
	p, err := c.plainDial(ctx, kindExchange, nonce)
	if err != nil {
		return err
	}
	defer p.Close()
	for i := range p.request {
		if _, err := p.Write(p.request[i : i+1]); err != nil {
			return fmt.Errorf("from %s: byte %d: %w", p.local, i, err)
		}
		<-time.After(pause)
	}
	return p.answer()
}

// sipOne reads a download, the beginning slowly and, after its own FIN, the rest.
func (c *client) sipOne(ctx context.Context, nonce uint64) error {
	p, err := c.plainDial(ctx, kindDown, nonce)
	if err != nil {
		return err
	}
	defer p.Close()
	if _, err := p.Write(p.request[:]); err != nil {
		return fmt.Errorf("from %s: %w", p.local, err)
	}
	if err := p.answer(); err != nil {
		return err
	}
	var check checker
	const sips, sip = 100, 2048
	buf := make([]byte, 64<<10)
	for i := 0; ; i++ {
		room := buf
		if i < sips {
			room = buf[:sip]
		}
		n, err := p.Read(room)
		if n > 0 {
			if err := check.take(room[:n]); err != nil {
				return fmt.Errorf("from %s: %w", p.local, err)
			}
		}
		switch {
		case err == io.EOF:
			c.moved(check.off)
			if err := check.complete(); err != nil {
				return fmt.Errorf("from %s: %w", p.local, err)
			}
			return nil
		case err != nil:
			return fmt.Errorf("from %s: after %d bytes: %w", p.local, check.off, err)
		case i == sips:
			if err := p.CloseWrite(); err != nil {
				return err
			}
		case i < sips:
			<-time.After(pause)
		}
	}
}
