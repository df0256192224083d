# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2154
# What: instructions that a 4 KiB write costs with and without tracking (a benchmark, run by tests/bench/run)
# VM: mode=icount mem=1024 timeout=900 modules="+null_blk +brd +dm_mod +dm_era" tools="fio dmsetup modprobe" files="tests/bench/sample.sh:/lib/sample.sh"
#
# All kinds of disk are set up before the first round and stay; only the module comes
# and goes, so what differs between two samples of a round is the module.
. /lib/tap.sh
. /lib/sample.sh

MIB=400

lean() { sample "$1" "$2" --fixedbufs=1 --registerfiles=1 --gtod_reduce=1 --iodepth_batch_submit=8 \
	--iodepth_batch_complete_min=1 --iodepth_batch_complete_max=32; }

# tracked DISK BYTES: so much of it is dirty, and the auditor found nothing that was not marked
tracked() {
	cbtctl get "$1" >/tmp/get
	grep -qx "dirty=$2" /tmp/get && grep -qx escapes=0 /tmp/get && return
	diag "$1: not tracked as it should be: $(grep -E '^(dirty|escapes|fallbacks)=' /tmp/get | xargs)"
	return 1
}

# nullb0 plain and tracked, nullb1 below dm-linear, nullb2 below dm-era
disks() {
	modprobe null_blk gb=1 nr_devices=3 && modprobe brd rd_nr=1 rd_size=65536 &&
		echo "0 $((MIB * 2048)) linear /dev/nullb1 0" | dmsetup create linear &&
		dd if=/dev/zero of=/dev/ram0 bs=4k count=1 &&
		echo "0 $((MIB * 2048)) era /dev/ram0 /dev/nullb2 8" | dmsetup create era
}

round() {
	sample base /dev/nullb0 && lean lean_base /dev/nullb0 && sample dm_base /dev/mapper/linear &&
		dmsetup message era 0 checkpoint && sample era_fresh /dev/mapper/era && sample era /dev/mapper/era &&
		insmod /lib/modules/blkcbt.ko && sample loaded /dev/nullb0 &&
		cbtctl attach /dev/nullb0 && sample all /dev/nullb0 &&
		forget /dev/nullb0 && tracked /dev/nullb0 0 && sample fresh /dev/nullb0 && tracked /dev/nullb0 $((MIB * 1048576)) && sample attached /dev/nullb0 && lean lean_attached /dev/nullb0 &&
		EPOCH=$((EPOCH + 1)) && cbtctl cut "$EPOCH" /dev/nullb0 && write /dev/nullb0 && sample open /dev/nullb0 &&
		cbtctl commit "$EPOCH" /dev/nullb0 && cbtctl detach /dev/nullb0 &&
		cbtctl attach /dev/mapper/linear && forget /dev/mapper/linear && sample dm_fresh /dev/mapper/linear &&
		tracked /dev/mapper/linear $((MIB * 1048576)) &&
		sample dm_attached /dev/mapper/linear && cbtctl detach /dev/mapper/linear && rmmod blkcbt
}

ok "the disks are made" disks || done_testing
r=1
while [ $r -le "${rounds:-3}" ]; do
	EPOCH=0
	ok "round $r" round || done_testing
	r=$((r + 1))
done
done_testing
