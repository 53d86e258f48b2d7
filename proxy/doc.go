// Command tproxy-proxy is the sidecar: it accepts the connections that the
// tproxy-cni plugin intercepts in its pod and relays each to the application
// from the client's own address.
//
// A few event loops do the work, each on a thread of its own (loop.go). The first
// has the listener (accept.go) and hands the connections out in turn. After that the
// loops share nothing that a running connection needs, only what its beginning and
// its end do (shared.go). A loop waits in edge-triggered epoll, so an idle connection
// is two descriptors and a conn: no goroutine, no timer, no buffer.
//
// One connection's life (conns.go, dialing.go):
//
//	accepted ──► dialing ──► relaying ──► closed    both streams passed on to the end: FIN, FIN
//	    │           │  ▲ │        │
//	    │           │  └─┘ next   │
//	    │           ▼    port     ▼
//	    └────────► reset ◄────────┘                 RST to both sides
//
// A connection that begins with a PROXY header (header.go) is dialing from the start,
// without a socket of the application until the header has come. It comes from a trusted
// load balancer or, over a unix socket, from another proxy of the pod (front.go).
//
// Packages below:
//
//	relay      moves the bytes, and draws the states of a direction
//	dial       checks a destination and chooses the source to dial from
//	probe      finds out whether the plugin has prepared the pod
//	proxyproto reads PROXY headers
//	accesslog  writes a line for each connection
//	stats      counts: each loop for itself
//	podstat    reads what the kernel shows of the pod
//	metrics    writes both for Prometheus
//	report     writes both, and the connections, for people: text, JSON and a page
//	sock       opens sockets and sets their options
//	sys        makes the system calls of the data path
package main
