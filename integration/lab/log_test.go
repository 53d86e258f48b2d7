package lab

import (
	"strings"
	"testing"
)

func TestCheckLog(t *testing.T) {
	for log, want := range map[string]string{
		`{"time":"t","msg":"m","bytes_up":1,"addr":"192.0.2.1:80"}` + "\n" + `{"msg":"m2"}` + "\n": "",
		`{"msg":"m","bytesUp":1}`:               `key "bytesUp" is not snake_case`,
		`{"msg":"m","log-level":"info"}`:        `key "log-level" is not snake_case`,
		`{"msg":"m","addr":{"IP":"192.0.2.1"}}`: `the value of "addr" is not a scalar`,
		`{"msg":"m"}` + "\nlevel=INFO msg=m\n":  "not a line of JSON",
		"":                                      "not a line of JSON", // a program that logs nothing shows nothing
	} {
		err := checkLog(log)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", log, err, want)
		}
	}
}
