// Package integration tests the plugin and the sidecar together, from outside: the
// upstream cnitool and interface plugins attach a pod's namespace, Debian's programs are
// the clients and the applications, and the peer address that an application reports is
// compared with the local address of the client's socket.
//
// The topology is package lab's: client, node, pod. Every test makes its own.
package integration
