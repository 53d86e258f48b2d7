package trace

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TablePrefix begins the name of the table (family inet) that marks packets while
// a trace runs. The rest is random: two traces do not meet.
const TablePrefix = "tproxy_trace_"

const (
	tableOwner = 2    // NFT_TABLE_F_OWNER: the table goes with the socket
	priority   = -450 // before everything, defragmentation (-400) included
)

// TCP flags (RFC 9293, section 3.1).
const (
	fin = 1 << iota
	syn
	rst
	_
	ack
)

// arm adds a table with these flags in one transaction and returns its name. It writes
// the messages itself: the nftables library has no flags for tables, and gives no access
// to its socket, to which the table belongs.
func arm(conn *mnl.Conn, w Wanted, flags uint32) (table string, err error) {
	table = TablePrefix + rand.Text()
	messages := []mnl.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, nil),
		nft(unix.NFT_MSG_NEWTABLE, func(a *mnl.AttributeEncoder) {
			a.String(unix.NFTA_TABLE_NAME, table)
			a.Uint32(unix.NFTA_TABLE_FLAGS, flags)
		}),
	}
	for _, c := range []struct {
		name string
		hook uint32
		rule [][]expr.Any
	}{
		{"prerouting", unix.NF_INET_PRE_ROUTING, w.incoming()},
		{"output", unix.NF_INET_LOCAL_OUT, w.outgoing()},
	} {
		messages = append(messages, nft(unix.NFT_MSG_NEWCHAIN, func(a *mnl.AttributeEncoder) {
			a.String(unix.NFTA_CHAIN_TABLE, table)
			a.String(unix.NFTA_CHAIN_NAME, c.name)
			a.String(unix.NFTA_CHAIN_TYPE, "filter")
			a.Nested(unix.NFTA_CHAIN_HOOK, func(a *mnl.AttributeEncoder) error {
				a.Uint32(unix.NFTA_HOOK_HOOKNUM, c.hook)
				before := int32(priority)
				a.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(before))
				return nil
			})
		}))
		for _, r := range c.rule {
			messages = append(messages, nft(unix.NFT_MSG_NEWRULE, func(a *mnl.AttributeEncoder) {
				a.String(unix.NFTA_RULE_TABLE, table)
				a.String(unix.NFTA_RULE_CHAIN, c.name)
				a.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, "marks packets to follow while a trace runs"))
				a.Nested(unix.NFTA_RULE_EXPRESSIONS, func(a *mnl.AttributeEncoder) error {
					for _, e := range r {
						data, err := expr.Marshal(unix.NFPROTO_INET, e)
						if err != nil {
							return err
						}
						a.Bytes(mnl.Nested|unix.NFTA_LIST_ELEM, data)
					}
					return nil
				})
			}))
		}
	}
	// The kernel reports errors unasked; only the last message asks for an answer.
	messages[len(messages)-1].Header.Flags |= mnl.Acknowledge
	messages = append(messages, message(unix.NFNL_MSG_BATCH_END, 0, nil))
	return table, transact(conn, messages)
}

// disarm removes a table that the kernel does not remove by itself.
func disarm(conn *mnl.Conn, table string) error {
	remove := nft(unix.NFT_MSG_DELTABLE, func(a *mnl.AttributeEncoder) { a.String(unix.NFTA_TABLE_NAME, table) })
	remove.Header.Flags = mnl.Request | mnl.Acknowledge
	return transact(conn, []mnl.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, nil), remove, message(unix.NFNL_MSG_BATCH_END, 0, nil),
	})
}

// transact sends a batch and waits for the answer to the last message before its end.
func transact(conn *mnl.Conn, messages []mnl.Message) error {
	sent, err := conn.SendMessages(messages)
	if err != nil {
		return err
	}
	last := sent[len(sent)-2].Header.Sequence
	for {
		answers, err := conn.Receive()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(answers, func(m mnl.Message) bool { return m.Header.Sequence == last }) {
			return nil
		}
	}
}

// message is one of nfnetlink's own, whose subsystem is in its resource id.
func message(kind uint16, family byte, data []byte) mnl.Message {
	return mnl.Message{
		Header: mnl.Header{Type: mnl.HeaderType(kind), Flags: mnl.Request},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, data...),
	}
}

// nft is a message of nftables that creates something in family inet.
func nft(kind uint16, fill func(*mnl.AttributeEncoder)) mnl.Message {
	a := mnl.NewAttributeEncoder()
	a.ByteOrder = binary.BigEndian
	fill(a)
	data, err := a.Encode()
	if err != nil {
		panic(err) // only an attribute that is too long, of which there is none
	}
	m := message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NFPROTO_INET, data)
	m.Header.Flags |= mnl.Create
	m.Data[3] = 0
	return m
}

// incoming marks the first packets of clients.
func (w Wanted) incoming() [][]expr.Any {
	return [][]expr.Any{slices.Concat(
		name(expr.MetaKeyIIFNAME, w.Interface), flags(fin|syn|rst|ack, syn), address(w.Client, source), port(w.Port, destination), w.mark(),
	)}
}

// outgoing marks, on lo, the sidecar's SYN and RST and the application's SYN-ACK
// and RST; and off lo the answer that a client gets.
func (w Wanted) outgoing() [][]expr.Any {
	lo := name(expr.MetaKeyOIFNAME, "lo")
	from, to := address(w.Client, source), address(w.Client, destination)
	if !w.Client.IsValid() {
		from = compare(expr.MetaKeySKUID, native(w.UID))
		to = masked(expr.MetaKeyMARK, w.Mark)
	}
	return [][]expr.Any{
		slices.Concat(lo, flagsAnyOf(syn|rst), from, port(w.Port, destination), w.mark()),
		slices.Concat(lo, flagsAnyOf(syn|rst), to, port(w.Port, source), w.mark()),
		slices.Concat(name(expr.MetaKeyOIFNAME, w.Interface), flagsAnyOf(syn|rst), address(w.Client, destination), port(w.Port, source), w.mark()),
	}
}

// mark is nft's "limit rate N/second meta nftrace set 1".
func (w Wanted) mark() []expr.Any {
	return []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(w.PerSecond), Burst: w.PerSecond, Unit: expr.LimitTimeSecond},
		&expr.Immediate{Register: 1, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1},
	}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func compare(key expr.MetaKey, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

func name(key expr.MetaKey, link string) []expr.Any {
	return compare(key, append([]byte(link), make([]byte, unix.IFNAMSIZ-len(link))...))
}

func masked(key expr.MetaKey, mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(mask)},
	}
}

// The ends of a packet, as the place of a field in the two headers.
const (
	source = iota
	destination
)

// address compares one end; the zero address is every one.
func address(a netip.Addr, end uint32) []expr.Any {
	if !a.IsValid() {
		return nil
	}
	proto, offset, n := byte(unix.NFPROTO_IPV4), 12+4*end, uint32(4)
	if a.Is6() {
		proto, offset, n = unix.NFPROTO_IPV6, 8+16*end, 16
	}
	return append(compare(expr.MetaKeyNFPROTO, []byte{proto}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()})
}

// port compares one end, behind a match on TCP; 0 is every port.
func port(p uint16, end uint32) []expr.Any {
	if p == 0 {
		return nil
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2 * end, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p)},
	}
}

func loadFlags(mask byte) []expr.Any {
	return append(compare(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}})
}

func flags(mask, value byte) []expr.Any {
	return append(loadFlags(mask), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}})
}

func flagsAnyOf(mask byte) []expr.Any {
	return append(loadFlags(mask), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}})
}
