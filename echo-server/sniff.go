package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// One port serves clients that wait for the server's line and clients that send
// an HTTP request and must not get that line. Only the client's first bytes
// tell which it is, so:
//
//   - they begin as an HTTP request does: HTTP.
//   - they are anything else, or an end of file: the line, at once.
//   - there are none: the line, after a wait.
//
// The wait is the one guess. It delays none but a silent client, and it must
// outlast the time between a client's connect and its request, which is sent
// right after but on a busy machine not at once: too long is a moment, too short
// is a broken HTTP client. A test whose clients all speak first sets it long.

// methods are how HTTP requests begin.
var methods = [][]byte{
	[]byte("GET "), []byte("HEAD "), []byte("POST "), []byte("PUT "), []byte("PATCH "),
	[]byte("DELETE "), []byte("OPTIONS "), []byte("TRACE "), []byte("CONNECT "),
}

const longestMethod = len("OPTIONS ")

// sniff reads the first bytes that the client sends, as many as it takes to
// tell whether this is HTTP, for no longer than wait.
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

// begins tells whether said begins with an HTTP method, or may when there is
// more of it.
func begins(said []byte) (yes, perhaps bool) {
	for _, m := range methods {
		if bytes.HasPrefix(said, m) {
			return true, false
		}
		perhaps = perhaps || bytes.HasPrefix(m, said)
	}
	return false, perhaps
}
