package main

import (
	"io"
	"os"
	"path/filepath"
	"time"
)

// world is what a command sees of the outside.
type world struct {
	args           []string
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer

	// Set by tests: before is disk.Disk's Before; timer is the longest time
	// between two attempts, node.Recheck if zero.
	before func(op, path string) error
	timer  time.Duration
}

// self returns the path of this program's file, and its directory, where the
// plugin is, too.
func self() (path, dir string, err error) {
	path, err = os.Executable()
	return path, filepath.Dir(path), err
}
