# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: every fio job with tracking on while other processes attach, cut, abort and detach.
# VM: disks=64M,64M,64M,64M modules="dm_mod +null_blk" timeout=300 kernels=all mem=1024
# VM: tools="fio dmsetup cmp modprobe" files=tests/fio:/fio env="STRESS_SECONDS STRESS_ROUNDS"
. /lib/tap.sh

# seconds for each job, rounds of copying for each disk while all of them run
: "${STRESS_SECONDS:=3}"
: "${STRESS_ROUNDS:=4}"
export SIZE=64M RUNTIME="$STRESS_SECONDS"

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

jobs_on() { # DISK JOB...
	target=$1
	shift
	for job; do
		TARGET=$target fio --output-format=terse "/fio/$job.fio" >/dev/null || return 1
	done
}

# churn DISK: attach, cut, abort, detach, as fast as it goes, while /run/churn exists
churn() {
	turns=0
	while [ -e /run/churn ]; do
		cbtctl attach "$1" && cbtctl cut 1 "$1" && cbtctl abort 1 "$1" && cbtctl detach "$1" --force || return 1
		turns=$((turns + 1))
	done
	echo "churn $1: $turns turns"
	[ $turns -gt 0 ]
}

# Asks for everything that can be asked, from a process of its own.
watch() {
	while [ -e /run/churn ]; do
		for disk; do cbtctl get "$disk" >/dev/null; done
		cbtctl info >/dev/null || return 1
	done
}

replicate() { # EPOCH SOURCE
	cbtctl cut "$1" "$2" && cbtctl copy "$2" /dev/vdd && cbtctl commit "$1" "$2"
}

ok "the module loads" insmod /lib/modules/blkcbt.ko
ok "null_blk with polled queues" modprobe null_blk poll_queues=1 gb=1
echo 0 131072 linear /dev/vdc 0 | dmsetup create lin
touch /run/churn
ok "attach, null_blk" cbtctl attach /dev/nullb0

# vda keeps its tracking while everything runs on it; vdb and dm come and go.
ok "attach, virtio-blk" cbtctl attach /dev/vda
jobs_on /dev/vda writeback uring mixed large sync trim & jobs1=$!
jobs_on /dev/vdb uring mixed trim & jobs2=$!
jobs_on /dev/mapper/lin uring mixed writeback & jobs3=$!
jobs_on /dev/nullb0 polled & jobs4=$!
churn /dev/vdb & churn1=$!
churn /dev/mapper/lin & churn2=$!
watch /dev/vda /dev/vdb /dev/mapper/lin & watch=$!

n=1
bad=0
while [ $n -le "$STRESS_ROUNDS" ]; do
	replicate $n /dev/vda || bad=1
	n=$((n + 1))
done
is "$STRESS_ROUNDS rounds under load" $bad 0
ok "the jobs on virtio-blk" wait $jobs1
ok "the jobs on a disk whose tracking comes and goes" wait $jobs2
ok "the jobs on a dm device whose tracking comes and goes" wait $jobs3
ok "polled writes" wait $jobs4
rm /run/churn
ok "attach, cut, abort, detach went on" wait $churn1
ok "on dm too" wait $churn2
ok "so did the questions" wait $watch
sync
ok "last round" replicate $n /dev/vda
echo 3 >/proc/sys/vm/drop_caches
ok "source and target are equal" cmp /dev/vda /dev/vdd
is "no write escaped" "$(get /dev/vda escapes)" 0
is "nothing is under way" "$(get /dev/vda inflight)" 0
ok "polled writes were seen" test "$(get /dev/nullb0 dirty)" -gt 0
ok "detach" cbtctl detach /dev/vda
ok "detach, null_blk" cbtctl detach /dev/nullb0
ok "the module unloads" rmmod blkcbt
done_testing
