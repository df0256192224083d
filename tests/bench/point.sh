# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2034,SC2154
# What: instructions that an open consistent epoch, a preserve and a cut cost (a benchmark, run by tests/bench/run)
# VM: mode=icount mem=1024 timeout=900 modules="+null_blk" tools="fio modprobe" files="tests/bench/sample.sh:/lib/sample.sh"
. /lib/tap.sh
. /lib/sample.sh

MIB=200
DISK=/dev/nullb0
CUTS=200

get() { cbtctl get $DISK | sed -n "s/^$1=//p"; }
begin() { # [OPTION...]
	EPOCH=$((EPOCH + 1))
	cbtctl cut "$EPOCH" $DISK --mode consistent "$@"
}
# end PRESERVES: the epoch was consistent to the end, and so many granules were preserved in it
end() {
	[ "$(get mode)" = 1 ] && [ "$(get preserves)" = "$1" ] && cbtctl commit "$EPOCH" $DISK && return
	diag "mode $(get mode), $(get preserves) preserved and not $1: $(get downgrade_reason)"
	return 1
}

# Cuts of eight disks while fio writes; on one processor a hold is what a cut does, and nothing else.
holds() {
	for i in 1 2 3 4 5 6 7; do cbtctl attach /dev/nullb$i || return 1; done
	MIB=$((MIB * 100)) writer $DISK --rate_iops=20000 --time_based --runtime=600 >/dev/null 2>&1 &
	fio=$!
	i=0
	while [ $i -lt $CUTS ]; do
		begin /dev/nullb[1-7] && cbtctl commit "$EPOCH" /dev/nullb[0-7] || return 1
		i=$((i + 1))
	done
	kill -TERM $fio
	wait $fio
	cbtctl info >/tmp/info
	for i in 1 2 3 4 5 6 7; do cbtctl detach /dev/nullb$i || return 1; done
	for what in p50 p99 max; do diag "sample hold_$what $(sed -n "s/^holds_${what}_ns=//p" /tmp/info)"; done
}

round() {
	EPOCH=0
	sample base $DISK && insmod /lib/modules/blkcbt.ko && cbtctl attach $DISK || return 1
	# Nothing in the epoch; and all of it, already read. Written once before, so that all is dirty, and no more.
	forget $DISK && begin && write $DISK && sample empty $DISK && end 0 &&
		begin && cbtctl release $DISK 0 "$(get size)" && write $DISK && sample released $DISK && end 0 || return 1
	# Each write the first to its granule, which is of the epoch; and the same without one, for comparison.
	forget $DISK && sample fresh $DISK && begin --budget 512M && sample preserve $DISK && end $((MIB * 256)) || return 1
	holds && cbtctl detach $DISK && rmmod blkcbt
}

ok "null_blk" modprobe null_blk gb=1 nr_devices=8
r=1
while [ $r -le "${rounds:-3}" ]; do
	ok "round $r" round || done_testing
	r=$((r + 1))
done
done_testing
