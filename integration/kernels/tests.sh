# Runs each line of the plan, "name<tab>folder<tab>command", on the guest's second serial line, which is nobody else's.
stty -F /dev/ttyS1 raw
exec < /dev/null > /dev/ttyS1 2>&1
. /run/kernels/environment
ip link set lo up
# The project may be where the host's files are covered, in /tmp.
[ -d "$source" ] || { mkdir -p "$source" && mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 source "$source"; }
ulimit -n 20000 # as on the machines that the tests were written on; a kernel's first process has 4096

# What the tests start most often is copied into memory, with its libraries: touching is copying here.
for program in ip nft setpriv curl cat nc nginx ss ping; do
	path=$(command -v "$program") && ldd "$path" | grep -o '/[^ ]*' | xargs touch "$path"
done

echo "### kernel $(uname -r)"
echo "### plan $(grep -c . /run/kernels/plan)"
while IFS='	' read -r name folder command; do
	echo "### run $name"
	begin=$(date +%s)
	(cd "$folder" && eval "$command" < /dev/null)
	printf '\n### end %s %d %d\n' "$name" $? $(($(date +%s) - begin))
done < /run/kernels/plan
