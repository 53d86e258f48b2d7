# Runs each line of the plan, "name<tab>directory<tab>command", and writes to the guest's second serial line, which nothing else uses.
stty -F /dev/ttyS1 raw
exec < /dev/null > /dev/ttyS1 2>&1
. /run/environment
ip link set lo up
# The project may be in /tmp, where the host's files are covered.
[ -d "$source" ] || { mkdir -p "$source" && mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 source "$source"; }
ulimit -n 20000 # as on the machines that the tests were written on; a kernel's first process has 4096

# touch copies the programs that the tests start most often, with their libraries, into the overlay's memory, instead of
# reading them over 9p each time.
for program in ip nft setpriv curl cat nc nginx ss ping; do
	path=$(command -v "$program") && ldd "$path" | grep -o '/[^ ]*' | xargs touch "$path"
done

plan=/run/plan
echo "### kernel $(uname -rv)"
echo "### plan $(grep -c . "$plan")"
while IFS='	' read -r name folder command; do
	echo "### run $name"
	begin=$(date +%s)
	(cd "$folder" && eval "$command" < /dev/null)
	printf '\n### end %s %d %d\n' "$name" $? $(($(date +%s) - begin))
done < "$plan"
