// Package relay moves the bytes of a connection between its two sides, the client's
// socket and the application's. Each direction is a half:
//
//	        a read gets bytes              all written
//	empty ────────────────────► holding ──────────────► empty
//	  │                           │  ▲
//	  │ a read gets 0             │  │ dst has room again (EPOLLOUT)
//	  ▼                           ▼  │
//	ended ──► over: FIN to dst   blocked
//
// Nothing here waits. The caller notes what edge-triggered epoll reports
// (Side.Note), calls Relay.Step and watches for EPOLLOUT where Relay.NeedsRoom says
// so. In the steady state a Step allocates nothing.
//
// Invariants:
//
//   - A half reads only while it holds nothing and dst has room. A receiver that
//     does not read stops its sender and costs at most one buffer, a pipe or memory;
//     when all are lent it costs none, and its bytes stay in the kernel (peekBuffer).
//   - A half that has something to write, or to read, while dst has no room waits
//     for EPOLLOUT: Writable is cleared by EAGAIN alone, after which the kernel
//     reports room.
//   - A buffer is either lent to a half, which has bytes in it, or with its Buffers.
//     Receivers that keep up share one.
//   - A half that neither holds bytes nor has a readable source waits for an event
//     that epoll will report: Readable is cleared only by EAGAIN, or by a read that
//     got less than there was room for when no end had been reported.
//   - An end that epoll reported (FIN, RST) is remembered, as no other event follows:
//     whatever stops a half for now, it reads to the end later.
//   - What a side sent before it broke goes to the other side, as far as there is
//     room, before the RST.
//   - A half stops after its turn of bytes even if it could go on, and continues
//     after the others had theirs.
package relay
