# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: memory that the module holds for a disk of 1 TiB (a benchmark, run by tests/bench/run)
# VM: mem=1024 cpus=1 timeout=300 modules="+null_blk" tools="fio modprobe"
#
# The disk is null_blk without memory. "Worst" is one dirty granule in every
# region of 128 MiB, that a page of the map covers: every page is there, none is
# dirty as a whole. Numbers from the module, MemFree of the kernel beside them.
. /lib/tap.sh

DISK=/dev/nullb0

map_kib() { # NAME
	bytes=$(cbtctl get $DISK | sed -n 's/^map=//p')
	[ -n "$bytes" ] && diag "sample $1 $((bytes / 1024))"
}

# Free memory once everything that can be given back has been.
free_kib() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	sleep 1
	sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo
}
show() { grep -E '^(MemFree|Slab|SUnreclaim|VmallocUsed|Percpu)' /proc/meminfo; }

# 4 KiB in each 128 MiB of 1 TiB
spread() {
	fio --name=s --filename=$DISK --rw=write:131068k --bs=4k --size=1t --io_size=32m --ioengine=io_uring --direct=1 \
		--iodepth=32 --thread --disk_util=0
}
epoch_cut() { cbtctl cut "$1" $DISK; }
epoch_commit() { cbtctl commit "$1" $DISK; }
epoch() { epoch_cut "$1" && epoch_commit "$1"; }

ok "a disk of 1 TiB" modprobe null_blk gb=1024
ok "the module is loaded" insmod /lib/modules/blkcbt.ko
size=$(sed -n 's/^blkcbt \([0-9]*\) .*/\1/p' /proc/modules)
diag "sample module_code $((size / 1024))"
# Pages on the processor's own free lists do not count as free: keep these short.
echo 1000000 >/proc/sys/vm/percpu_pagelist_high_fraction
# Once round without looking, so that what is allocated once and kept is there.
ok "attached once without looking" cbtctl attach $DISK
ok "an epoch" epoch 1
spread
ok "detached" cbtctl detach $DISK
before=$(free_kib)
show
ok "attached" cbtctl attach $DISK
ok "the module says what its maps hold" map_kib map_all
ok "epoch 1" epoch 1
ok "nothing is dirty" map_kib map_idle
ok "a write in every region" spread
ok "its memory" map_kib map_worst
ok "cut" epoch_cut 2
ok "a write in every region again" spread
ok "its memory" map_kib map_worst_open
show
diag "sample kernel_worst_open $((before - $(free_kib)))"
ok "commit" epoch_commit 2
ok "its memory" map_kib map_committed
ok "the next epoch" epoch 3
ok "its memory, one epoch on" map_kib map_committed_next
ok "the epoch after that" epoch 4
ok "its memory, two epochs on" map_kib map_idle_again
ok "detached" cbtctl detach $DISK
show
diag "sample kernel_back $((before - $(free_kib)))"
ok "unloaded" rmmod blkcbt
done_testing
