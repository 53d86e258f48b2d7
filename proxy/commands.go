package main

import (
	"io"
	"strings"
)

// command is what the program does instead of being the sidecar, by its first
// argument. run returns the exit status: 0 for yes or done, 1 for no or failed, 2 for a
// bad setting.
type command struct {
	name, what string
	run        func(args []string, getenv func(string) string, stdout, stderr io.Writer) int
}

func commands() []command {
	return []command{
		{"check", "tells whether the plugin has prepared this pod: a startup probe for any proxy", runCheck},
		{"hold", "keeps the connections of a sidecar with --hold while its container is restarted, in another container", runHold},
		{"listen", "opens the listeners of tproxy mode for another program, which it becomes, without a capability", runListen},
		{"log-level", "prints the sidecar's log level, or changes it while it runs", runLogLevel},
		{"ready", "asks the sidecar of this pod whether it is ready, and prints why not: its startup probe", runReady},
		{"status", "shows what the sidecar of this pod does: readiness, counters, connections, queues, routing", runStatus},
	}
}

// commandOf finds the command that args begin with.
func commandOf(args []string) (c command, ok bool) {
	for _, c := range commands() {
		if len(args) > 0 && args[0] == c.name {
			return c, true
		}
	}
	return command{}, false
}

// commandsHelp is the list of commands for --help.
func commandsHelp() string {
	var b strings.Builder
	b.WriteString("\nCommands, each with its own --help:")
	for _, c := range commands() {
		b.WriteString("\n  " + c.name + "\n    \t" + c.what)
	}
	return b.String()
}
