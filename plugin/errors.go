package main

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// Codes of the plugin's own errors; the specification leaves 100 and up to
// plugins. It also uses the specification's codes 4 (an interface that cannot be
// intercepted), 6 (input that cannot be decoded), 7 (a wrong conflist entry) and 11
// (the kernel is out of resources, try again), and libcni's 8 (no such network
// namespace).
const (
	errAnnotation uint = 100 // an annotation of the pod is wrong; nothing was changed
	errKernel     uint = 101 // the kernel refused a step, which the message names
	errDrift      uint = 102 // CHECK: the pod is not as ADD programs it
)

// kernelError returns err as a *types.Error; one that it wraps stays as it is.
func kernelError(err error) error {
	code := errKernel
	var coded *types.Error
	if errors.As(err, &coded) {
		return coded
	}
	var none intercept.NoNetNS
	if errors.As(err, &none) {
		code = types.ErrInvalidNetNS
	}
	if intercept.Transient(err) {
		code = types.ErrTryAgainLater
	}
	return types.NewError(code, err.Error(), "")
}
