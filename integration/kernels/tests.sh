# Runs each line of the plan, "name<tab>folder<tab>command", on the guest's second serial line, which is nobody else's.
stty -F /dev/ttyS1 raw
exec < /dev/null > /dev/ttyS1 2>&1
. /run/kernels/environment
ulimit -n 20000 # as on the machines that the tests were written on; a kernel's first process has 4096

echo "### kernel $(uname -r)"
echo "### plan $(grep -c . /run/kernels/plan)"
while IFS='	' read -r name folder command; do
	echo "### run $name"
	(cd "$folder" && eval "$command" < /dev/null)
	printf '\n### end %s %d\n' "$name" $?
done < /run/kernels/plan
