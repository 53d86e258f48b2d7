package intercept

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// transact fills a transaction and commits it in the namespace of p, or
// nothing of it. The library's own Flush has the kernel answer each message,
// for a rule twice, and reads the answers one by one: half of an ADD's work.
// Only the last message needs an answer, because errors come unasked.
func (p *pod) transact(fill func(*nftables.Conn) error) (err error) {
	messages, err := encode(fill)
	if err != nil {
		return err
	}
	conn := p.raw
	defer func() {
		if err != nil { // answers to other messages may be waiting
			err = errors.Join(err, wrap("open nftables again", p.dial()))
		}
	}()
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

// encode returns the messages that the library would send.
//
// ATTENTION: this is production code that goes through a test hook.
// google/nftables (v0.3.0) encodes and sends in one call, Flush, and has no
// option to encode only. Its one way to get at the messages is WithTestDial,
// meant for its own tests: Flush calls the function given to that in place of
// the kernel. The function keeps the messages and answers with errNotSent.
//
// What this relies on, and what TestTransact would show to have changed after an
// update of the library: Flush calls the function once, with the whole batch
// (begin, messages, end), and returns its error. When upstream gets an option to
// encode, or to ask for one answer a batch, use that and delete this.
func encode(fill func(*nftables.Conn) error) (messages []netlink.Message, err error) {
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
		return nil, fmt.Errorf("encode nftables messages: %w", err)
	}
	return messages, nil
}

// errNotSent is NOT a missing permission, although it wraps os.ErrPermission:
// at that error Flush stops at once, where for any other it would go on to read
// an answer for each message, which nothing sends. It never leaves encode.
var errNotSent = fmt.Errorf("not sent: %w", os.ErrPermission)
