package integration

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendRing sends a frame from memory that the attacker shares with the kernel
// (PACKET_TX_RING, TPACKET_V1).
func (a aim) sendRing(frame []byte) error {
	const size = 4096
	return on(unix.AF_PACKET, unix.SOCK_RAW, 0, step{"ring", func(fd int) error {
		ring := &unix.TpacketReq{Block_size: size, Block_nr: 1, Frame_size: size, Frame_nr: 1}
		if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, ring); err != nil {
			return err
		}
		mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		defer unix.Munmap(mem)
		// struct tpacket_hdr, aligned to 16, less the sockaddr_ll behind it, is
		// before the frame.
		head := (*unix.TpacketHdr)(unsafe.Pointer(&mem[0]))
		copy(mem[(int(unsafe.Sizeof(*head))+15)&^15:], frame)
		head.Len = uint32(len(frame))
		head.Status = unix.TP_STATUS_SEND_REQUEST
		to := &unix.SockaddrLinklayer{Protocol: swap16(a.etherType()), Ifindex: a.ifindex(), Halen: 6}
		copy(to.Addr[:], a.MAC)
		return unix.Sendto(fd, nil, 0, to)
	}})
}

// sendXDP sends a frame with an AF_XDP socket: the driver reads it from shared
// memory.
func sendXDP(ifindex int, frame []byte) error {
	const size = 16 * 4096
	return on(unix.AF_XDP, unix.SOCK_RAW, 0, step{"xdp", func(fd int) error {
		defer unix.Close(fd) // a queue has one socket
		mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		copy(mem, frame)
		reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&mem[0]))), Len: size, Size: 4096}
		if err := setXDP(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
			return err
		}
		ring := uint32(16)
		for _, opt := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
			if err := setXDP(fd, opt, unsafe.Pointer(&ring), 4); err != nil {
				return err
			}
		}
		var offs unix.XDPMmapOffsets
		length := uint32(unsafe.Sizeof(offs))
		if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
			uintptr(unsafe.Pointer(&offs)), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
			return errno
		}
		tx, err := unix.Mmap(fd, unix.XDP_PGOFF_TX_RING, int(offs.Tx.Desc)+16*16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return err
		}
		defer unix.Munmap(tx)
		if err := unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(ifindex)}); err != nil {
			return err
		}
		binary.NativeEndian.PutUint64(tx[offs.Tx.Desc:], 0)
		binary.NativeEndian.PutUint32(tx[offs.Tx.Desc+8:], uint32(len(frame)))
		binary.NativeEndian.PutUint32(tx[offs.Tx.Producer:], 1)
		return ignoring(unix.Sendto(fd, nil, unix.MSG_DONTWAIT, nil), unix.EAGAIN)
	}})
}

func setXDP(fd, opt int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt), uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func ignoring(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
