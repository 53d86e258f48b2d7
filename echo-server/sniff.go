package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// One port serves clients that wait for the server's greeting and clients that send an
// HTTP request and must not get one. Only the client's first bytes tell them apart:
//
//   - they start an HTTP request: HTTP.
//   - they are anything else, or an end of file: the greeting, at once.
//   - there are none: the greeting, after a wait.
//
// The wait is a guess. It delays only a silent client, and must outlast the time
// between a client's connect and its request, which on a busy machine takes a while:
// too long costs a moment, too short breaks an HTTP client. A test whose clients all
// speak first sets it long.

// methods are how HTTP requests start.
var methods = [][]byte{
	[]byte("GET "), []byte("HEAD "), []byte("POST "), []byte("PUT "), []byte("PATCH "),
	[]byte("DELETE "), []byte("OPTIONS "), []byte("TRACE "), []byte("CONNECT "),
}

const longestMethod = len("OPTIONS ")

// sniff reads the first bytes that the client sends, as many as are needed to decide
// whether this is HTTP, for at most wait.
func sniff(c net.Conn, wait time.Duration) (said []byte, isHTTP bool, err error) {
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, false, err
	}
	buf := make([]byte, longestMethod)
	for {
		n, err := c.Read(buf[len(said):])
		said = buf[:len(said)+n]
		isHTTP, undecided := begins(said)
		switch {
		case err == nil && undecided:
			continue
		case err == nil, errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return said, isHTTP, c.SetReadDeadline(time.Time{})
		}
		return said, false, err
	}
}

// begins reports whether said starts with an HTTP method, or may once there is more
// of it.
func begins(said []byte) (yes, perhaps bool) {
	for _, m := range methods {
		if bytes.HasPrefix(said, m) {
			return true, false
		}
		perhaps = perhaps || bytes.HasPrefix(m, said)
	}
	return false, perhaps
}
