// Package integration tests the plugin and the sidecar together, from outside:
// the upstream cnitool and interface plugins attach a pod's namespace, programs
// from Debian are the clients and the applications, and what an application
// says about its peer is compared with what the client's own socket says.
//
// The topology is package lab's: client, node, pod. Every test has its own.
package integration
