package podstat

import (
	"encoding/binary"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ask sends a request to a protocol of netlink and visits the messages of the answer:
// all of a dump, or else one. call names the request in errors.
func ask(protocol int, kind, flags uint16, request []byte, call string, visit func(data []byte) error) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// The kernel answers while it is asked. Whatever goes wrong, the asker must end.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(request)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = binary.NativeEndian.AppendUint16(message, unix.NLM_F_REQUEST|flags)
	message = append(message, make([]byte, 8)...) // sequence number, port
	if err := unix.Sendto(fd, append(message, request...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 8<<10) // the kernel puts no more into a datagram than that, or than was read before
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return os.NewSyscallError(call, -syscall.Errno(int32(binary.NativeEndian.Uint32(m.Data))))
			}
			if err := visit(m.Data); err != nil || flags&unix.NLM_F_DUMP == 0 {
				return err
			}
		}
	}
}

// attribute is a struct rtattr with its value.
func attribute(kind uint16, value []byte) []byte {
	a := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	return append(binary.NativeEndian.AppendUint16(a, kind), value...)
}

// attributes are those behind the header of a message, by their kind.
func attributes(data []byte) map[uint16][]byte {
	all := map[uint16][]byte{}
	for len(data) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofRtAttr || size > len(data) {
			break
		}
		all[binary.NativeEndian.Uint16(data[2:])] = data[unix.SizeofRtAttr:size]
		data = data[min(len(data), (size+3)&^3):] // aligned to 4 bytes
	}
	return all
}

// number32 is an attribute's value of 32 bits, or missing if there is none.
func number32(value []byte, missing uint32) uint32 {
	if len(value) < 4 {
		return missing
	}
	return binary.NativeEndian.Uint32(value)
}
