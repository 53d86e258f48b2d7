package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Epoll is an epoll instance.
type Epoll struct{ fd int }

// Event is what Epoll.Wait reports: Events of descriptor Fd, which was watched
// with the id that is in Pad.
type Event = unix.EpollEvent

// NewEpoll opens an instance, which the caller closes.
func NewEpoll() (Epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return Epoll{fd}, os.NewSyscallError("epoll_create1", err)
}

// Close closes the instance.
func (e Epoll) Close() { Close(e.fd) }

// Add watches a descriptor for events.
func (e Epoll) Add(fd int, events, id uint32) error {
	return e.control(unix.EPOLL_CTL_ADD, fd, events, id)
}

// Modify changes the events of a descriptor that is watched. One that holds
// already is reported again.
func (e Epoll) Modify(fd int, events, id uint32) error {
	return e.control(unix.EPOLL_CTL_MOD, fd, events, id)
}

func (e Epoll) control(op, fd int, events, id uint32) error {
	ev := Event{Events: events, Fd: int32(fd), Pad: int32(id)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.fd, op, fd, &ev))
}

// Wait blocks until there are events, for at most timeout milliseconds unless
// that is -1. It tells Go's scheduler that it does. A signal ends it with 0
// events; any error is a bug of the caller.
func (e Epoll) Wait(events []Event, timeout int) (int, error) {
	n, err := unix.EpollWait(e.fd, events, timeout)
	if err == unix.EINTR {
		return 0, nil
	}
	return n, os.NewSyscallError("epoll_wait", err)
}

// NewEventfd makes a descriptor that Wake makes readable.
func NewEventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return fd, os.NewSyscallError("eventfd", err)
}

// Wake makes an eventfd readable, from any thread.
func Wake(eventfd int) {
	_, _ = unix.Write(eventfd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // adds to a counter in native byte order: anything but 0 does
}
