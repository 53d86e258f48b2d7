#!/bin/busybox sh
# The first process of the guest. It makes a root file system of the host's, read-only and covered by memory, and runs the
# tests in it. Kernel modules are loaded from here: what the tests need loads itself, as on any machine.
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

# Nothing of what runs on the host is to be seen.
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

chroot /root /bin/sh /run/kernels/tests.sh
poweroff -f
