package pods

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Gone reports whether an error of a Runtime says that the pod does not exist any
// more.
func Gone(err error) bool { return err != nil && status.Code(err) == codes.NotFound }

// answer is an error of the runtime, or of reaching it, without gRPC's own words.
type answer struct {
	text string
	err  error
}

func (a answer) Error() string { return a.text }
func (a answer) Unwrap() error { return a.err }

// plain makes an error of a call readable: "ListPodSandbox: dial unix
// /run/x.sock: connect: permission denied".
func plain(call string, err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	text := s.Message()
	if _, dial, found := strings.Cut(text, "while dialing: "); found {
		text = strings.TrimSuffix(dial, `"`)
	}
	return answer{call + ": " + text, err}
}
