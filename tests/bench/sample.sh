# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC2034,SC2154
#
# sample.sh - instructions per write, in a VM whose clock counts instructions;
# sourced as /lib/sample.sh after tap.sh. 1 ns is 1 instruction, whatever the
# machine below is doing. So fio's runtime divided by its writes is the number of
# instructions that one write costs, user space and kernel together.
#
#   write DISK [OPTION...]        one write to every 4 KiB of the first $MIB of it
#   writer DISK [OPTION...]       the same in place of the shell that runs it: for the background
#   sample NAME DISK [OPTION...]  the same, and what one of them cost
#   forget DISK                   nothing is dirty

rounds=$(sed -n 's/.*bench_rounds=\([0-9]*\).*/\1/p' /proc/cmdline)
EPOCH=0

# In an order that is always the same.
writer() {
	disk=$1
	shift
	exec fio --name=w --filename="$disk" --rw=randwrite --bs=4k --size="${MIB}m" --random_generator=lfsr --randseed=1 \
		--ioengine=io_uring --direct=1 --iodepth=32 --thread --disk_util=0 --output-format=terse "$@"
}
write() { (writer "$@"); }

# The 50th field of fio's terse output is the runtime of the writes in ms.
sample() {
	name=$1
	shift
	ms=$(write "$@" | cut -d';' -f50)
	[ "${ms:-0}" -gt 0 ] || { diag "fio on $1: no runtime"; return 1; }
	_writes=$((MIB * 256))
	diag "sample $name $(((ms * 10000000 / _writes + 5) / 10)).$(((ms * 10000000 / _writes + 5) % 10))"
}

forget() {
	EPOCH=$((EPOCH + 1))
	cbtctl cut $EPOCH "$1" && cbtctl commit $EPOCH "$1"
}
