// Command tproxy-proxy is the sidecar: it accepts the connections that the
// tproxy-cni plugin intercepts in its pod and relays each to the application
// from the client's own address.
//
// A few event loops do the work, each on a thread of its own (loop.go). The
// first has the listener and gives the connections out in turn; after that no
// two loops share anything that a connection needs. A loop waits in epoll, which
// tells of every change once (EPOLLET); what it told is kept with the socket
// (side) until a system call says otherwise. So an idle connection is two
// descriptors and a conn: no goroutine, no timer, no buffer.
//
// One connection's life (conn.go):
//
//	accepted ──► dialing ──► relaying ──► closed    both ends of stream passed on: FIN, FIN
//	    │           │  ▲ │        │
//	    │           │  └─┘ next   │
//	    │           ▼    port     ▼
//	    └────────► reset ◄────────┘                 RST to both sides
//
// While it is relaying, its two halves (relay.go) move one direction's bytes
// each:
//
//	        a read gets bytes              all written
//	empty ────────────────────► carrying ──────────────► empty
//	  │                            │  ▲
//	  │ a read gets 0              │  │ dst has room again (EPOLLOUT)
//	  ▼                            ▼  │
//	ended ──► over: FIN to dst    blocked
//
// What holds at any time:
//
//   - A half reads only while it carries nothing. A receiver that does not read
//     stops its sender, and costs one carrier: a pipe or a buffer.
//   - A carrier is either lent to a half, which has bytes in it, or in its loop's
//     hands. Receivers that keep up share one.
//   - A half that neither carries bytes nor has a readable source waits for an
//     event that epoll will tell: readable is taken back only by EAGAIN, or by a
//     read that got less than there was room for while no end had been told of.
//   - An end that epoll told of (FIN, RST) is remembered, because there is no
//     other event for it: whatever stops a half for now, it reads to the end later.
//   - What a side sent before it broke goes to the other side, as far as there is
//     room, before the RST.
//   - A half stops after its turn of bytes although it could go on, and goes on
//     after the others had theirs.
package main
