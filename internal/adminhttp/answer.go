package adminhttp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// serve reads one request, answers it and closes the connection.
func (c *conn) serve(log *slog.Logger, h http.Handler) {
	defer c.end()
	_ = c.SetDeadline(time.Now().Add(patience))
	r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(c, requestBytes)))
	var a answer
	var broken net.Error
	switch {
	case err == nil:
		r.RemoteAddr = c.RemoteAddr().String()
		a.make(log, h, r)
	case errors.As(err, &broken), err == io.EOF, errors.Is(err, os.ErrClosed):
		return // the peer is gone
	default:
		http.Error(&a, "malformed request, or longer than 8 kB", http.StatusBadRequest)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	_ = a.write(c, r)
}

// headBytes is room for the head of an answer.
const headBytes = 1 << 10

// answer is complete before any of it is sent: a peer that does not read delays
// nothing else. Its zero value is ready.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// make calls the handler.
func (a *answer) make(log *slog.Logger, h http.Handler, r *http.Request) {
	defer func() {
		if what := recover(); what != nil {
			log.Error("panic in an admin handler", "url", r.URL.String(), "panic", fmt.Sprint(what))
			*a = answer{status: http.StatusInternalServerError}
		}
	}()
	h.ServeHTTP(a, r)
}

// write sends it. r is the request, nil if it could not be read.
func (a *answer) write(to io.Writer, r *http.Request) error {
	a.WriteHeader(http.StatusOK)
	header := a.Header()
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", http.DetectContentType(a.body.Bytes()))
	}
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	length := a.body.Len()
	response := http.Response{
		StatusCode: a.status, ProtoMajor: 1, ProtoMinor: 1, Header: header, Request: r,
		Body: io.NopCloser(&a.body), ContentLength: int64(length), Close: true,
	}
	whole := bytes.NewBuffer(make([]byte, 0, length+headBytes)) // or it would grow to twice that
	if err := response.Write(whole); err != nil {
		return err
	}
	a.body = bytes.Buffer{} // the peer may take its time, and one copy is enough
	_, err := to.Write(whole.Bytes())
	return err
}
