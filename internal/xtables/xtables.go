// Package xtables reads the rules of iptables-legacy, which nftables does not show,
// in the calling thread's network namespace. It needs CAP_NET_ADMIN there, and root to
// read which tables there are. It changes nothing: a table that is not there is not
// asked for, because the kernel would make it.
package xtables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Table is a table of iptables-legacy, of IPv4 or IPv6.
type Table struct {
	// Chains are its rules by chain, in order, each the kernel's struct ipt_entry
	// or ip6t_entry with its matches and its target. PREROUTING, if the table has
	// that hook, ends with its policy.
	Chains map[string][][]byte

	// At is the chain whose first rule is at an offset, which is how rules name it.
	At map[int]string
}

// Offsets in the kernel's structs, in bytes: linux/netfilter_ipv4/ip_tables.h,
// netfilter_ipv6/ip6_tables.h, netfilter/x_tables.h.
const (
	infoHookEntry = 36 // of struct ipt_getinfo
	infoUnderflow = 56
	infoSize      = 80
	infoLen       = 84
	entriesHeader = 40 // of struct ipt_get_entries
	nameLen       = 32
	prerouting    = 0 // hook number
)

// TargetOffset is the place in a rule of the target's offset, an uint16; that of the
// next rule follows.
func TargetOffset(six bool) int {
	if six {
		return 140
	}
	return 88
}

// Names are the tables that there are; none on a kernel without iptables-legacy.
func Names(six bool) ([]string, error) {
	file := "ip_tables_names"
	if six {
		file = "ip6_tables_names"
	}
	// Not /proc/net, which is the first thread's.
	names, err := os.ReadFile("/proc/thread-self/net/" + file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(names)), err
}

// Read returns the table of that name, which must be one of Names.
func Read(six bool, name string) (*Table, error) {
	af, level := unix.AF_INET, unix.SOL_IP
	if six {
		af, level = unix.AF_INET6, unix.SOL_IPV6
	}
	fd, err := unix.Socket(af, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	const getInfo, getEntries = 64, 65 // IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; IPv6's are the same
	info := make([]byte, infoLen)
	copy(info, name)
	if err := getsockopt(fd, level, getInfo, info); err != nil {
		return nil, err
	}
	size := u32(info, infoSize)
	blob := make([]byte, entriesHeader+int(size))
	copy(blob, info[:nameLen])
	binary.NativeEndian.PutUint32(blob[nameLen:], size)
	if err := getsockopt(fd, level, getEntries, blob); err != nil {
		return nil, err
	}
	return Parse(six, blob[entriesHeader:], int(u32(info, infoHookEntry+4*prerouting)), int(u32(info, infoUnderflow+4*prerouting)))
}

// Parse splits a table's entries into chains. A chain of a user's begins behind an
// entry with the target ERROR, which has its name.
func Parse(six bool, entries []byte, first, policy int) (*Table, error) {
	t := &Table{Chains: map[string][][]byte{}, At: map[int]string{}}
	const (
		entryRest    = 24 // of the struct, from its field target_offset
		targetHeader = 32
	)
	chain := ""
	for at := 0; at < len(entries); {
		rule := entries[at:]
		field := TargetOffset(six)
		if len(rule) < field+4 {
			return nil, errCut
		}
		target, next := int(u16(rule, field)), int(u16(rule, field+2))
		if next > len(rule) || target < field+entryRest || target+targetHeader > next {
			return nil, errCut
		}
		rule = rule[:next]
		if at == first {
			chain = "PREROUTING"
		}
		if text(rule[target+2:target+31]) == "ERROR" {
			chain = text(rule[target+targetHeader:])
			t.At[at+next] = chain
		} else if chain != "" {
			t.Chains[chain] = append(t.Chains[chain], rule)
		}
		if at == policy {
			chain = ""
		}
		at += next
	}
	return t, nil
}

var errCut = errors.New("iptables-legacy's rules are cut short")

// getsockopt fills b, whose length is exact. golang.org/x/sys has it for known structs
// alone.
func getsockopt(fd, level, option int, b []byte) error {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return fmt.Errorf("read iptables-legacy's rules: %w", os.NewSyscallError("getsockopt", errno))
	}
	return nil
}

func u16(b []byte, at int) uint16 { return binary.NativeEndian.Uint16(b[at:]) }
func u32(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }

func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
