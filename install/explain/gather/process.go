package gather

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processes visits the sockets of the namespace's processes, as far as this process
// sees them: a container without the node's process ids sees none, which is no error.
func (g gatherer) processes(visit func(inode uint32, pid int, name string)) error {
	here, err := os.Stat(g.NetNS)
	if err != nil {
		return err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range all {
		there, err := os.Stat(dir + "/ns/net")
		if err != nil || !os.SameFile(here, there) {
			continue // another's, or it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return fmt.Errorf("process id of %s: %w", dir, err)
		}
		comm, _ := os.ReadFile(dir + "/comm")
		files, _ := os.ReadDir(dir + "/fd")
		for _, f := range files {
			target, _ := os.Readlink(dir + "/fd/" + f.Name())
			text, ok := strings.CutPrefix(target, "socket:[")
			if !ok {
				continue
			}
			if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32); err == nil {
				visit(uint32(inode), pid, strings.TrimSpace(string(comm)))
			}
		}
	}
	return nil
}
