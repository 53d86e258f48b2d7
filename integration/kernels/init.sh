#!/bin/busybox sh
# The guest's first process. Its root file system is the host's, read-only under an overlay in memory; the tests run in it.
# The modules for that are loaded here; those that the tests need are loaded on demand, as on any machine.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

while read -r module; do insmod "/early/$module"; done < /early/order

share() { mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 "$1" "$2" || poweroff -f; }
share host /host
share modules /lib/modules
mount -t tmpfs tmpfs /cover
mkdir /cover/data /cover/work
mount -t overlay -o lowerdir=/host,upperdir=/cover/data,workdir=/cover/work overlay /root || poweroff -f
mkdir -p /root/lib/modules && mount -o bind /lib/modules /root/lib/modules # iptables-legacy runs modprobe itself

# Nothing that runs on the host is visible.
mount -t tmpfs tmpfs /root/run
mount -t tmpfs -o mode=1777 tmpfs /root/tmp
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t cgroup2 cgroup /root/sys/fs/cgroup
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/shm /root/dev/pts /root/run/kernels
mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
mount -t devpts -o ptmxmode=666 pts /root/dev/pts
ln -s /proc/self/fd /root/dev/fd # as udev would
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "/root/dev/${n#*:}"; done
share tests /root/run/kernels
cp /plan /environment /root/run

# libcni's results: tests on the host create and remove this directory, and one removed in the lower layer is lost in the overlay.
mkdir -p /root/var/lib/cni
touch /root/var/lib/cni
mount -t tmpfs tmpfs /root/var/lib/cni

# It becomes the root of the mount namespace, as on any machine: a process in a chroot may not make a user namespace.
cd /root && mount -o move . / && chroot . /bin/sh /run/kernels/tests.sh
poweroff -f
