package podstat

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Pending reports whether the SYN that client has sent to server has arrived there, and
// the answer to the SYN-ACK not yet. It asks sock_diag(7) for one socket, whatever the
// number of others.
func Pending(client, server netip.AddrPort) (bool, error) {
	// struct inet_diag_req_v2, whose id has the peer behind our end: ports in network
	// order, addresses of 16 bytes, interface, cookie.
	const id, peerPort, addr, peerAddr, cookie = 8, 10, 12, 28, 48
	request := make([]byte, requestSize)
	request[0], request[1] = familyOf(server.Addr().Is6()), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], ^uint32(0))
	binary.BigEndian.PutUint16(request[id:], server.Port())
	binary.BigEndian.PutUint16(request[peerPort:], client.Port())
	copy(request[addr:], server.Addr().AsSlice())
	copy(request[peerAddr:], client.Addr().AsSlice())
	binary.NativeEndian.PutUint64(request[cookie:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	pending := false
	err := ask(unix.NETLINK_SOCK_DIAG, unix.SOCK_DIAG_BY_FAMILY, 0, request, "sock_diag", func(data []byte) error {
		// Without such a socket it is the listener.
		const synReceived = 3
		pending = len(data) > 1 && data[1] == synReceived
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return pending, err
}
