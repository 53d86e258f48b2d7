package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

const (
	mostRights   = 253              // descriptors in a message: the kernel's SCM_MAX_FD
	peerPatience = 10 * time.Second // for one message

	// givingPatience is a sidecar's, whose connections stand still meanwhile: with the
	// time that they have to drain after that, less than the kubelet's 30 seconds.
	givingPatience = 4 * time.Second
)

// peer is the other end of a unix socket, of the same user. Each message but the last is
// answered, so that no read gets two:
//
//	gives                        takes
//	keep N, the document    ──►
//	                        ◄──  more
//	some, 253 descriptors   ──►
//	                        ◄──  more
//	some, the last of N     ──►
//	                        ◄──  kept
//
// Until the last message the one who gives has everything, whatever becomes of the other;
// from then on the other has.
type peer struct {
	*net.UnixConn
	patience time.Duration
}

// newPeer makes sure who it is. The connection is closed if it is another.
func newPeer(conn *net.UnixConn) (p peer, err error) {
	raw, err := conn.SyscallConn()
	var uid uint32
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { uid, err = sock.PeerUID(int(fd)) })
		err = errors.Join(cerr, err)
	}
	if own := uint32(os.Getuid()); err == nil && uid != own {
		err = fmt.Errorf("a process of uid %d is at the other end: descriptors are for uid %d only", uid, own)
	}
	if err != nil {
		return p, errors.Join(err, conn.Close())
	}
	return peer{conn, peerPatience}, nil
}

// visit connects to a holder.
func visit(path string) (p peer, err error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return p, err
	}
	return newPeer(conn)
}

func (p peer) send(text string, fds ...int) error {
	_ = p.SetDeadline(time.Now().Add(p.patience))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err := p.WriteMsgUnix([]byte(text), rights, nil)
	return err
}

func (p peer) receive() (text string, fds []int, err error) {
	return p.receiveUntil(time.Now().Add(p.patience))
}

func (p peer) receiveUntil(deadline time.Time) (text string, fds []int, err error) {
	_ = p.SetDeadline(deadline)
	b, rights := make([]byte, 64), make([]byte, unix.CmsgSpace(4*mostRights))
	n, rn, flags, _, err := p.ReadMsgUnix(b, rights)
	if err != nil {
		return "", nil, err
	}
	all, err := unix.ParseSocketControlMessage(rights[:rn])
	for i := range all {
		got, perr := unix.ParseUnixRights(&all[i])
		fds, err = append(fds, got...), errors.Join(err, perr)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		err = errors.Join(err, errors.New("descriptors are lost on the way: the limit of open files is too low"))
	}
	if err != nil {
		closeAll(fds)
		return "", nil, err
	}
	return string(b[:n]), fds, nil
}

// expect receives a message without descriptors.
func (p peer) expect(want string, deadline time.Time) error {
	text, fds, err := p.receiveUntil(deadline)
	closeAll(fds)
	if err == nil && text != want {
		err = fmt.Errorf("the other end says %q, want %q", text, want)
	}
	return err
}

// give gives a document and its descriptors. It returns nil once the other end has them,
// for which it waits so long at most; 0: as long as the other end lives.
func (p peer) give(document int, fds []int, patience time.Duration) error {
	if err := p.send(fmt.Sprintf("keep %d", len(fds)), document); err != nil {
		return err
	}
	for len(fds) > 0 {
		if err := p.expect("more", time.Now().Add(p.patience)); err != nil {
			return err
		}
		n := min(len(fds), mostRights)
		if err := p.send("some", fds[:n]...); err != nil {
			return err
		}
		fds = fds[n:]
	}
	last := time.Time{}
	if patience > 0 {
		last = time.Now().Add(patience)
	}
	return p.kept(last)
}

// kept waits for the last word. Once the time is up the other end cannot say it any more,
// or has just said it: so never do both have the descriptors, nor neither.
func (p peer) kept(deadline time.Time) error {
	err := p.expect("kept", deadline)
	if errors.Is(err, os.ErrDeadlineExceeded) && p.CloseRead() == nil && p.expect("kept", time.Now().Add(p.patience)) == nil {
		return nil
	}
	return err
}

// take receives n descriptors. With an error it has none. Whoever has called it sends
// "kept" then.
func (p peer) take(n int) (fds []int, err error) {
	defer func() {
		if err != nil {
			closeAll(fds)
		}
	}()
	for len(fds) < n {
		if err := p.send("more"); err != nil {
			return fds, err
		}
		_, some, err := p.receive()
		fds = append(fds, some...)
		if err == nil && len(some) == 0 {
			err = errors.New("the other end sends no descriptors")
		}
		if err != nil {
			return fds, err
		}
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
