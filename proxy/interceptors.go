package main

import (
	"context"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
)

const interceptorsPause = 10 * time.Second // between two looks for other interceptors

// warnOfInterceptors logs once if another interceptor's proxy listens in the pod,
// which may start later than this one.
func (p *proxy) warnOfInterceptors(ctx context.Context) {
	for {
		switch who, err := probe.Interceptors(); {
		case err != nil:
			p.log.Warn("cannot look for other interceptors", "err", err)
			return
		case len(who) > 0:
			p.log.Warn("another interceptor is in this pod: if its rules take inbound connections, clients are refused",
				"other", strings.Join(who, "; "),
				"cure", "take the other injection out of the pod, have it leave inbound connections alone, or annotate the pod with "+
					contract.AnnotationPrefix+"mode: "+contract.ModeNone)
			return
		}
		select {
		case <-time.After(interceptorsPause):
		case <-ctx.Done():
			return
		}
	}
}
