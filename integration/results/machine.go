package results

import (
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Machine is what was measured on.
type Machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
}

// ThisMachine asks the kernel. What it does not say stays empty.
func ThisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if fs, err := procfs.NewDefaultFS(); err == nil {
		if cpus, err := fs.CPUInfo(); err == nil && len(cpus) > 0 {
			m.CPU = cpus[0].ModelName
		}
	}
	return m
}

// On is in one line when and on what a run was.
func (m Machine) On(date time.Time) string {
	return fmt.Sprintf("%s, Linux %s, %d × %s", date.Format("2006-01-02 15:04 MST"), m.Kernel, m.CPUs, m.CPU)
}
