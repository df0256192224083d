# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
#
# degraded.sh - what the cases about missing observers share. Sourced as
# /lib/degraded.sh after tap.sh.
#
#   get DISK KEY, info KEY       one value of cbtctl's
#   says TEXT                    the last loading of the module said this in the log
#   slow_disk DISK               /dev/loop0 on DISK: has requests, and its writes can be kept waiting
#   under_way NAME               a write to it is marked while under way, and again when done
#   rounds SOURCE TARGET         rounds under load, and a last one without
#   equal NAME SOURCE TARGET     rounds, then byte for byte; nothing escaped

N=0
get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }
info() { cbtctl info | sed -n "s/^$1=//p"; }
dirty_is() { [ "$(get "$1" dirty)" = "$2" ]; }
# written DISK: the load has written at least 64 granules since the cut
written() { [ "$(get "$1" dirty)" -ge 262144 ]; }

says() { dmesg | tail -n 12 | grep -F "blkcbt: " | grep -F -e "$1"; }

clean() {
	N=$((N + 1))
	cbtctl cut $N "$1" && cbtctl commit $N "$1"
}

slow_disk() {
	echo "0 $(cat "/sys/block/${1#/dev/}/size") linear $1 0" | dmsetup create slow &&
		losetup --direct-io=on /dev/loop0 /dev/mapper/slow &&
		[ "$(cat /sys/block/loop0/loop/dio)" = 1 ]
}

writing() {
	read -r _ _writes </sys/block/loop0/inflight
	[ "$_writes" -gt 0 ]
}

# A write that the disk has only after the cut: whoever reads in between reads old content.
under_way() {
	cbtctl attach /dev/loop0 >/dev/null
	clean /dev/loop0
	dmsetup suspend --nolockfs slow
	dd if=/dev/urandom of=/dev/loop0 bs=4k seek=3 count=1 oflag=direct &
	_writer=$!
	ok "$1: a write is under way" wait_for 60 writing
	is "$1: it is marked" "$(get /dev/loop0 dirty)" 4096
	clean /dev/loop0
	ok "$1: it is under way across a cut" writing
	is "$1: after the cut it is not marked yet" "$(get /dev/loop0 dirty)" 0
	dmsetup resume slow
	wait $_writer
	is "$1: it is marked again when it completes" "$(get /dev/loop0 dirty)" 4096
	is "$1: it is no escape" "$(get /dev/loop0 escapes)" 0
	cbtctl detach /dev/loop0
}

rounds() {
	fio --filename="$1" --output-format=terse --time_based --runtime=300 \
		--name=uring --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=16 --rate_iops=300 \
		--name=mixed --ioengine=libaio --direct=1 --rw=randwrite --bsrange=512-128k --iodepth=8 --rate_iops=60 \
		--name=buffered --ioengine=psync --rw=randwrite --bs=8k --fsync=32 --rate_iops=60 \
		--name=trim --ioengine=libaio --direct=1 --rw=randtrim --bs=64k --rate_iops=10 >/dev/null 2>&1 &
	fio=$!
	i=0
	while [ $i -lt "${ROUNDS:-4}" ]; do
		N=$((N + 1))
		cbtctl cut $N "$1" && cbtctl copy "$1" "$2" && cbtctl commit $N "$1" || return 1
		wait_for 60 written "$1" || return 1
		i=$((i + 1))
	done
	kill -TERM $fio || return 1
	wait $fio
	sync
	N=$((N + 1))
	cbtctl cut $N "$1" && cbtctl copy "$1" "$2" && cbtctl commit $N "$1" || return 1
	echo 3 >/proc/sys/vm/drop_caches
}

equal() {
	ok "$1: attach" cbtctl attach "$2"
	ok "$1: rounds" rounds "$2" "$3"
	ok "$1: equal" cmp "$2" "$3"
	is "$1: nothing escaped" "$(get "$2" escapes)" 0
	is "$1: nothing is under way" "$(get "$2" inflight)" 0
	ok "$1: detach" cbtctl detach "$2"
}
