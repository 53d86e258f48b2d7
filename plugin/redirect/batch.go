package redirect

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// transact fills a transaction and commits it in the namespace of p, or
// nothing of it. The library's own Flush has the kernel answer each message,
// for a rule twice, and reads the answers one by one: half of an ADD's work.
// Only the last message needs an answer, because errors come unasked.
func (p *pod) transact(fill func(*nftables.Conn) error) error {
	messages, err := batch(fill)
	if err != nil {
		return err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(p.ns.Fd())})
	if err != nil {
		return err
	}
	defer conn.Close()
	end := len(messages) - 1 // the end of the batch, which gets no answer
	for i := range messages {
		h := &messages[i].Header
		h.Sequence, h.PID = 0, 0 // the connection's to give
		h.Flags &^= netlink.Acknowledge | netlink.Echo
		if i == end-1 {
			h.Flags |= netlink.Acknowledge
		}
	}
	if messages, err = conn.SendMessages(messages); err != nil {
		return err
	}
	// What the kernel says of a failure is an error and ends this; should the
	// commit itself fail, the error is that of the batch's first message.
	for {
		answers, err := conn.Receive()
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Sequence == messages[end-1].Header.Sequence {
				return nil
			}
		}
	}
}

// errNotSent ends the library's Flush at once, as a missing permission does.
var errNotSent = fmt.Errorf("not sent: %w", os.ErrPermission)

// batch is what the library would send. It shows that only to the connection
// which it has for tests.
func batch(fill func(*nftables.Conn) error) (messages []netlink.Message, err error) {
	conn, err := nftables.New(nftables.WithTestDial(func(m []netlink.Message) ([]netlink.Message, error) {
		messages = m
		return nil, errNotSent
	}))
	if err != nil {
		return nil, err
	}
	if err := fill(conn); err != nil {
		return nil, err
	}
	if err := conn.Flush(); !errors.Is(err, errNotSent) {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return messages, nil
}
