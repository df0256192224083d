# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2086,SC2154
# What: what a crash-safe store costs a writer, in instructions and in writes of its own (a benchmark, run by tests/bench/run)
# VM: mode=icount mem=1024 timeout=900 modules="+null_blk +brd" tools="fio modprobe" files="tests/bench/sample.sh:/lib/sample.sh"
#
# The tracked disk is null_blk, the store is in memory, so what differs is the module's work. 100 extents of 4 MiB are
# written; with a hot set of 16 most writes come to one that was retired.
. /lib/tap.sh
. /lib/sample.sh

MIB=400

get() { cbtctl get /dev/nullb0 | sed -n "s/^$1=//p"; }
attach() { cbtctl attach /dev/nullb0 "$@"; }
with_store() {
	cbtctl store-format /dev/nullb0 --store /dev/ram0 --identity a && attach --store /dev/ram0 --identity a "$@" &&
		[ "$(get store_state)" = 2 ]
}
# The same as sample, and the store's writes for each thousand of the disk's
sample_store() { # NAME OPTION...
	_name=$1
	shift
	_before=$(get store_writes)
	sample "$_name" /dev/nullb0 "$@" || return
	diag "sample $_name.ios $(awk -v n=$(($(get store_writes) - _before)) -v of=$((MIB * 256)) 'BEGIN { print 1000 * n / of }')"
	diag "sample $_name.in_use $(($(get store_hot) * 4))"
}
SPOT="--random_generator=tausworthe --norandommap --random_distribution=zipf:1.2"

round() {
	attach && forget /dev/nullb0 && write /dev/nullb0 && sample attached /dev/nullb0 &&
		sample attached_seq /dev/nullb0 --rw=write && sample attached_spot /dev/nullb0 $SPOT && cbtctl detach /dev/nullb0 &&
		attach --await && cbtctl store-drop /dev/nullb0 && forget /dev/nullb0 && write /dev/nullb0 && sample shim /dev/nullb0 && cbtctl detach /dev/nullb0 &&
		with_store && forget /dev/nullb0 && write /dev/nullb0 && sample_store steady && sample_store seq --rw=write &&
		sample_store spot $SPOT && cbtctl detach /dev/nullb0 &&
		with_store --hot 16 && forget /dev/nullb0 && write /dev/nullb0 && sample_store beyond &&
		sample_store beyond_seq --rw=write && sample_store beyond_spot $SPOT && cbtctl detach /dev/nullb0
}

ok "the disks are made" sh -c 'modprobe null_blk gb=1 nr_devices=1 && modprobe brd rd_nr=1 rd_size=65536'
ok "the module loads" insmod /lib/modules/blkcbt.ko
r=1
while [ $r -le "${rounds:-3}" ]; do
	ok "round $r" round || done_testing
	r=$((r + 1))
done
done_testing
