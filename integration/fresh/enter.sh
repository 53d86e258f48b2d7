# The machine's first process: it assembles the root file system and runs $TRIAL in it, in the project's directory. It has
# mount and PID namespaces of its own: its mounts are not seen outside, and everything it started ends with it.
set -eu
mount -t tmpfs fresh "$WORK"
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t overlay -o "lowerdir=$BASE,upperdir=$WORK/upper,workdir=$WORK/work" fresh "$WORK/root"
cd "$WORK/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=755 run run
for file in resolv.conf hosts; do cp -L "/etc/$file" etc/ || :; done

show() { mkdir -p ".$2" && mount --bind "$1" ".$2"; }
[ -z "$GOROOT" ] || { show "$GOROOT" /usr/local/go && mount -o remount,bind,ro ./usr/local/go; }
show "$GOMODCACHE" "$GOMODCACHE"
show "$GOCACHE" "$GOCACHE"
show "$DEBS" /var/cache/apt/archives
chmod 755 root # for the user, who has no caches of its own
mkdir -p home/user
cp -a "$SOURCE" home/user/tproxy-cni
chown -R 1000:1000 home/user

# Packages start their services on a machine that has booted: look like one.
printf '#!/bin/sh\necho N 2\n' > sbin/runlevel && chmod 755 sbin/runlevel && ln -s /bin/true sbin/init
# The services that start at boot.
boots() { find etc/systemd/system etc/rc[2345].d -path '*.wants/*' -o -path '*.d/S*' 2>/dev/null | sort; }
boots > run/boots
mkdir old && pivot_root . old && umount -l old && rmdir old && cd / # no chroot: the kernel makes no user namespace in one
status=0
env -i HOME=/root PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 GOMODCACHE="$GOMODCACHE" GOCACHE="$GOCACHE" \
	GOPROXY=off GOTOOLCHAIN=local ${http_proxy+http_proxy="$http_proxy"} ${https_proxy+https_proxy="$https_proxy"} \
	/bin/sh -c "cd /home/user/tproxy-cni; $TRIAL" < /dev/null || status=$?

# However the trial ended, nothing it started still runs or will start at boot, and other services may start again.
for p in proc/[0-9]*; do
	[ "$p" = proc/1 ] || echo "left: runs: $(tr '\0' ' ' < "$p/cmdline")"
done
boots | comm -13 run/boots - | sed 's/^/left: starts with the machine: /'
[ ! -e usr/sbin/policy-rc.d ] || echo "left: policy-rc.d"
exit $status
