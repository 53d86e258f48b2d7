package handover

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Document is a state and its connections in a sealed file in memory: a line of JSON for
// each.
type Document struct {
	file *os.File
	fds  []int // that the state and the connections have
}

// Write makes a document. Each calls add for all of the state's connections.
func Write(s *State, each func(add func(*Conn) error) error) (d *Document, err error) {
	fd, err := unix.MemfdCreate("tproxy-handover", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	d = &Document{file: os.NewFile(uintptr(fd), "handover")}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	out := bufio.NewWriterSize(d.file, 64<<10)
	lines := json.NewEncoder(out)
	err = lines.Encode(s)
	d.note(s.Descriptors())
	if err == nil {
		err = each(func(c *Conn) error {
			d.note(c.Relay.Descriptors())
			return lines.Encode(c)
		})
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(d.file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return d, os.NewSyscallError("fcntl F_ADD_SEALS", err)
}

func (d *Document) note(fds []*int32) {
	for _, fd := range fds {
		d.fds = append(d.fds, int(*fd))
	}
}

// Close forgets the document. Its descriptors are the caller's.
func (d *Document) Close() { d.file.Close() }

// Reader reads a document.
type Reader struct {
	State State
	file  *os.File
	lines *bufio.Reader
	left  int

	given []int // descriptors in the document's order, in place of its numbers; nil: none
}

// Read reads the state of a document. The error says so if this program does not know
// what is in it.
func Read(file *os.File) (*Reader, error) { return read(file, nil) }

func read(file *os.File, given []int) (*Reader, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	// The offset is shared with whoever has the file.
	r := &Reader{file: file, lines: bufio.NewReaderSize(io.NewSectionReader(file, 0, info.Size()), 64<<10), given: given}
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	// First the format alone: the rest may be another's.
	var format struct{ Format int }
	if err := json.Unmarshal(line, &format); err != nil {
		return nil, fmt.Errorf("the state that is handed over: %w", err)
	}
	if format.Format != Format {
		return nil, fmt.Errorf("the state that is handed over has format %d, and this program knows format %d", format.Format, Format)
	}
	if err := strict(line, &r.State); err != nil {
		return nil, err
	}
	if len(r.State.Listeners) == 0 {
		return nil, errors.New("the state that is handed over has no listener")
	}
	r.left = r.State.Connections
	return r, r.number(r.State.Descriptors())
}

// Close gives back the document's memory.
func (r *Reader) Close() { r.file.Close() }

// number gives descriptors the numbers that they have here.
func (r *Reader) number(fds []*int32) error {
	if r.given == nil {
		return nil
	}
	if len(r.given) < len(fds) {
		return errors.New("the state that is handed over lacks descriptors")
	}
	for i, fd := range fds {
		*fd = int32(r.given[i])
	}
	r.given = r.given[len(fds):]
	return nil
}

// Next reads the next connection into c, and returns io.EOF after the last.
func (r *Reader) Next(c *Conn) error {
	*c = Conn{}
	if r.left == 0 {
		return io.EOF
	}
	r.left--
	line, err := r.line()
	if err != nil {
		return err
	}
	if err := strict(line, c); err != nil {
		return err
	}
	return r.number(c.Relay.Descriptors())
}

func (r *Reader) line() ([]byte, error) {
	line, err := r.lines.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		err = errors.New("the state that is handed over is not complete")
	}
	return line, err
}

// strict reads a line and refuses what this program does not know.
func strict(line []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("the state that is handed over: %w", err)
	}
	return nil
}
