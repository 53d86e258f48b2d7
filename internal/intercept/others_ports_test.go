package intercept

import "testing"

func TestPortSet(t *testing.T) {
	set := func(ports ...uint16) (s portSet) {
		for _, p := range ports {
			s.add(p, p)
		}
		return s
	}
	many := set(1, 3, 5, 7, 9, 11, 13, 15, 17, 65535)
	for want, s := range map[string]portSet{
		"":                      everyPort,
		" to port 80":           set(80),
		" to port 65535":        set(0, 65535),
		" to ports 22, 8000":    set(22, 8000),
		" to ports 8000-8002":   set(8000, 8001, 8002),
		" to ports 60-70":       portRange(60, 70),
		" to ports 64-127":      portRange(64, 127),
		" to ports 63-128":      portRange(63, 128),
		" but not to port 22":   everyPort.less(set(22)),
		" but not to ports 1-2": everyPort.less(set(0, 1, 2)),
		" to ports 1, 3, 5, 7, 9, 11, 13, 15, ...": many,
	} {
		if got := s.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
