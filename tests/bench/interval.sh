# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2034,SC2086,SC2154
# What: how soon one consistent epoch can follow another under 4 KiB random writes, and holds beside latencies (a benchmark, run by tests/bench/run)
# VM: mem=1024 timeout=600 modules="+null_blk" tools="fio jq modprobe" disks=64M,64M
. /lib/tap.sh

rounds=$(sed -n 's/.*bench_rounds=\([0-9]*\).*/\1/p' /proc/cmdline)
EPOCHS=10
N=0

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }
info() { cbtctl info | sed -n "s/^$1=//p"; }
ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }

# cut, read through the image, written to the target, committed: with nobody else on the way
epoch() {
	N=$((N + 1))
	cbtctl cut $N /dev/vda --mode consistent && cbtctl copy /dev/vda /dev/vdb --image &&
		[ "$(get /dev/vda mode)" = 1 ] && cbtctl commit $N /dev/vda
}

round() {
	insmod /lib/modules/blkcbt.ko && cbtctl attach /dev/vda && epoch || return 1
	fio --name=w --filename=/dev/vda --rw=randwrite --bs=4k --ioengine=io_uring --direct=1 --iodepth=8 --rate_iops=1000 \
		--time_based --runtime=600 --output=/tmp/fio.json --output-format=json >/dev/null 2>&1 &
	fio=$!
	sleep 1
	epoch
	from=$(ms) first=$N before=$(get /dev/vda preserves)
	while [ $N -lt $((first + EPOCHS)) ]; do epoch || return 1; done
	diag "sample interval $((($(ms) - from) / EPOCHS))"
	diag "sample interval_preserves $((($(get /dev/vda preserves) - before) / EPOCHS))"
	kill -TERM $fio
	wait $fio
	diag "sample wall_hold_p99 $(($(info holds_p99_ns) / 1000))"
	diag "sample wall_write $(sed -n '/^{/,$p' /tmp/fio.json | jq '.jobs[0].write.lat_ns.mean / 1000 | floor')"
	cbtctl detach /dev/vda && rmmod blkcbt
}

r=1
while [ $r -le "${rounds:-3}" ]; do
	N=0
	ok "round $r" round || done_testing
	r=$((r + 1))
done
done_testing
