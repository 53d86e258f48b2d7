package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// dump calls each with the attributes of every object of our table. tableAttr
// is the attribute in which such an object names its table.
func dump(conn *mnl.Conn, family nftables.TableFamily, message int, tableAttr uint16, each func(map[uint16][]byte)) error {
	return dumpAll(conn, family, message, func(f nftables.TableFamily, attrs map[uint16][]byte) {
		if cString(attrs[tableAttr]) == contract.Table && f == family {
			each(attrs)
		}
	})
}

// dumpAll calls each with the family and the attributes of every object of all tables
// of a family, or of all families if it is NFPROTO_UNSPEC.
func dumpAll(conn *mnl.Conn, family nftables.TableFamily, message int, each func(nftables.TableFamily, map[uint16][]byte)) error {
	kind := mnl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message)
	replies, err := dumpWhole(conn, kind, []byte{byte(family), unix.NFNETLINK_V0, 0, 0}) // struct nfgenmsg
	if err != nil {
		return err
	}
	for _, m := range replies {
		list, err := mnl.UnmarshalAttributes(m.Data[4:])
		if err != nil {
			return err
		}
		each(nftables.TableFamily(m.Data[0]), byType(list))
	}
	return nil
}

func byType(list []mnl.Attribute) map[uint16][]byte {
	attrs := map[uint16][]byte{}
	for _, a := range list {
		attrs[a.Type&^uint16(mnl.Nested)] = a.Data
	}
	return attrs
}

// mostTries bounds how often something is read, or put in order, that other software
// changes meanwhile.
const mostTries = 5

// errChanging is of a list that could not be read whole. EAGAIN: a later try may succeed.
var errChanging = fmt.Errorf("other software changes them all the time: %w", unix.EAGAIN)

// dumpWhole are the replies to a dump, read again if something changed meanwhile: what the
// kernel lists then may lack some and have others twice.
func dumpWhole(conn *mnl.Conn, message mnl.HeaderType, request []byte) (replies []mnl.Message, err error) {
	for range mostTries {
		replies, err = conn.Execute(mnl.Message{Header: mnl.Header{Type: message, Flags: mnl.Request | mnl.Dump}, Data: request})
		if err != nil || !slices.ContainsFunc(replies, interrupted) {
			return replies, err
		}
	}
	return nil, errChanging
}

// listWhole is dumpWhole for a list of the netlink library's.
func listWhole[T any](list func() ([]T, error)) (all []T, err error) {
	for range mostTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, errChanging
}

func interrupted(m mnl.Message) bool { return m.Header.Flags&mnl.DumpInterrupted != 0 }

// nested are the attributes within one; none if they cannot be read.
func nested(b []byte) map[uint16][]byte {
	list, err := mnl.UnmarshalAttributes(b)
	if err != nil {
		return nil
	}
	return byType(list)
}

func cString(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// u32 is a netlink attribute of nftables, in network order; 0 if it is absent.
func u32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// number is a netlink attribute of rtnetlink, in the machine's order; 0 if it is absent.
func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// value is the data in an NFTA_DATA_VALUE.
func value(b []byte) []byte { return nested(b)[unix.NFTA_DATA_VALUE] }
