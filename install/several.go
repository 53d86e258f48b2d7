package main

import (
	"context"
	"os"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
)

// several finds out whether containerd loads more than one CNI configuration: by the
// flag or, without it, from the runtime where its socket is there. It asks again when the
// socket was made anew, as at a start of the runtime.
type several struct {
	flag   *int // max_conf_num; nil: ask
	socket string

	asked time.Time // the socket's, at the last answer
	last  bool
}

func (s *several) now(ctx context.Context) bool {
	if s.flag != nil {
		return *s.flag != 1
	}
	info, err := os.Stat(s.socket)
	if err != nil || info.ModTime().Equal(s.asked) {
		return s.last
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	runtime, err := pods.Dial(s.socket)
	if err != nil {
		return s.last
	}
	defer runtime.Close()
	if n, err := runtime.MaxConfNum(ctx); err == nil {
		s.last, s.asked = n != 1, info.ModTime()
	}
	return s.last
}
