# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: writes that fail, time out or are dropped below count as dirty; once the errors end, a cut gives equality.
# VM: disks=32M,32M,32M modules="dm_mod dm_flakey dm_delay sd_mod +scsi_debug +null_blk" timeout=300 kernels=all
# VM: tools="fio dmsetup cmp"
. /lib/tap.sh

# rounds of cut, copy, commit while the errors go on
: "${ROUNDS:=2}"
SCSI=/sys/bus/pseudo/drivers/scsi_debug
SECTORS=65536
N=0

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }
dirty_is() { [ "$(get "$1" dirty)" = "$2" ]; }
knob() { echo "$2" >"$SCSI/$1"; }

# clean DISK: nothing is dirty
clean() {
	N=$((N + 1))
	cbtctl cut $N "$1" && cbtctl commit $N "$1"
}

#
# One write, under way across a cut, that fails: it belongs to the next epoch as well. What a
# failed write left on the disk is not known, and it may have changed after the copy was read.
#

# across DISK: writes granule 5; succeeds when dd was still waiting at the cut. Its end is in /tmp/dd.
across() {
	clean "$1" || return 1
	dd if=/dev/urandom of="$1" bs=4k seek=5 count=1 oflag=direct conv=notrunc >/tmp/dd 2>&1 &
	dd=$!
	wait_for 60 dirty_is "$1" 4096 || return 1
	clean "$1" || return 1
	clean=$(get "$1" dirty)
	alive=yes
	kill -0 $dd 2>/dev/null || alive=no
	wait $dd
	failed=$?
	[ $alive = yes ]
}

# fails_late DISK NAME: a machine that is too busy gets another try
fails_late() {
	tries=0
	until across "$1" || [ $tries -ge 5 ]; do tries=$((tries + 1)); done
	is "$2: the write was under way at the cut, and not dirty behind it" "$alive $clean" "yes 0"
	is "$2: it failed" $failed 1
	is "$2: it is dirty" "$(get "$1" dirty)" 4096
	N=$((N + 1))
	cbtctl cut $N "$1"
	is "$2: and in the next epoch" "$(cbtctl extents "$1")" "20480 4096"
	cbtctl commit $N "$1"
	is "$2: it is not called an escape" "$(get "$1" escapes)" 0
	is "$2: nothing is under way" "$(get "$1" inflight)" 0
}

#
# Load under errors
#

load() { # DISK
	exec fio --filename="$1" --output=/tmp/fio.out --time_based --runtime=600 --continue_on_error=all \
		--name=uring --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=8 --rate_iops=200 \
		--name=mixed --ioengine=libaio --direct=1 --rw=randrw --bsrange=512-64k --iodepth=4 --rate_iops=40 \
		--name=buffered --ioengine=psync --rw=randwrite --bs=8k --fsync=16 --rate_iops=40 >/dev/null 2>/tmp/fio.err
}

# round SOURCE TARGET: an epoch whose copy fails is aborted, as the agent does
round() {
	N=$((N + 1))
	cbtctl cut $N "$1" || return 1
	if cbtctl copy "$1" "$2"; then
		cbtctl commit $N "$1"
	else
		aborted=$((aborted + 1))
		cbtctl abort $N "$1"
	fi
}

written() { [ "$(get "$1" dirty)" -ge 131072 ]; }

# under NAME LOADED CALM TRACKED...: load on LOADED with errors; CALM ends them; each TRACKED then
# equals its target
under() {
	name=$1 loaded=$2 calm=$3
	shift 3
	for disk; do cbtctl attach "$disk"; done
	load "$loaded" &
	fio=$!
	for disk; do ok "$name: $disk is written" eval 'clean "$disk" && wait_for 60 written "$disk"'; done
	for disk; do ok "$name: $disk: detach under errors" cbtctl detach "$disk"; done
	ok "$name: unload under errors" rmmod blkcbt
	ok "$name: load under errors" insmod /lib/modules/blkcbt.ko
	N=0 bad=0 aborted=0
	for disk; do ok "$name: $disk: attach under errors" cbtctl attach "$disk"; done
	i=0
	while [ $i -lt "$ROUNDS" ]; do
		for disk; do
			round "$disk" "$(target "$disk")" || bad=1
			wait_for 60 written "$disk" || bad=1
		done
		i=$((i + 1))
	done
	is "$name: $ROUNDS rounds" $bad 0
	ok "$name: the load was there all the time" kill -0 $fio
	$calm
	kill -TERM $fio
	wait $fio
	sync
	errors=$(sed -n 's/.*errors *: total= *\([0-9]*\).*/\1/p' /tmp/fio.out | awk '{ s += $1 } END { print s + 0 }')
	for disk; do
		aborted=0
		ok "$name: $disk: last round" round "$disk" "$(target "$disk")"
		is "$name: $disk: it was copied" $aborted 0
	done
	echo 3 >/proc/sys/vm/drop_caches
	for disk; do
		ok "$name: $disk equals its copy" cmp "$disk" "$(target "$disk")"
		is "$name: $disk: no write escaped" "$(get "$disk" escapes)" 0
		is "$name: $disk: nothing is under way" "$(get "$disk" inflight)" 0
		diag "$name: $disk: fio saw $errors errors; late $(get "$disk" late), parked $(get "$disk" parked)"
		ok "$name: $disk: detach" cbtctl detach "$disk"
	done
}

target() {
	case $1 in
	/dev/vda) echo /dev/vdc ;;
	*) echo /dev/vdb ;;
	esac
}

no_errors() { is "$name: fio saw none" "$errors" 0; }
some_errors() { ok "$name: fio saw errors" test "$errors" -gt 0; }

ok "the module loads" insmod /lib/modules/blkcbt.ko

# dm: delayed, then failed, by two layers; the upper one is tracked
echo 0 $SECTORS flakey /dev/vda 0 0 86400 1 error_writes | dmsetup create bad
echo 0 $SECTORS delay /dev/mapper/bad 0 0 /dev/mapper/bad 0 2000 | dmsetup create late
cbtctl attach /dev/mapper/late
fails_late /dev/mapper/late "dm"
cbtctl detach /dev/mapper/late
dmsetup remove late
dmsetup remove bad

# scsi: the data is on the disk, the answer comes late, and is an error
modprobe scsi_debug dev_size_mb=32 statistics=1
ok "scsi_debug shows up" wait_for 20 test -b /dev/sda
echo 0 >"$(echo /sys/class/scsi_disk/*/max_retries)"
cbtctl attach /dev/sda
slow() { wait_for 10 eval "echo $1 >$SCSI/delay" 2>/dev/null; }
slow 500
knob every_nth 1
knob opts 32
fails_late /dev/sda "scsi, wrong checksum"
knob opts 16
fails_late /dev/sda "scsi, aborted command"
slow 1
# never answered: the block layer's timer ends it
echo 3 >/sys/block/sda/device/timeout
knob opts 128
fails_late /dev/sda "scsi, time-out"
knob opts 0
knob every_nth 0
cbtctl detach /dev/sda

calm_dm() { dmsetup suspend fl && echo 0 $SECTORS linear /dev/vda 0 | dmsetup load fl && dmsetup resume fl; }
# 1 s up, 1 s down; both the layer that fails and the disk below it are tracked
echo 0 $SECTORS flakey /dev/vda 0 1 1 1 error_writes | dmsetup create fl
under "dm-flakey, failing writes" /dev/mapper/fl calm_dm /dev/mapper/fl /dev/vda
some_errors
dmsetup remove fl
echo 0 $SECTORS flakey /dev/vda 0 1 1 1 drop_writes | dmsetup create fl
under "dm-flakey, dropped writes" /dev/mapper/fl calm_dm /dev/mapper/fl
no_errors
dmsetup remove fl
echo 0 $SECTORS flakey /dev/vda 0 1 1 | dmsetup create fl
under "dm-flakey, everything fails" /dev/mapper/fl calm_dm /dev/mapper/fl
some_errors
dmsetup remove fl

calm_scsi() { knob every_nth 0; knob opts 0; }
# task set full, busy host, wrong checksums, aborted commands
knob opts $((0x800 | 0x8000 | 32 | 16))
knob every_nth 17
under "scsi errors" /dev/sda calm_scsi /dev/sda
some_errors
echo 1 >/sys/block/sda/device/timeout
knob opts 128
knob every_nth 101
under "scsi time-outs" /dev/sda calm_scsi /dev/sda
some_errors

modprobe null_blk nr_devices=0
mount -t configfs config /sys/kernel/config
# newer kernels name the disk after its folder
mkdir /sys/kernel/config/nullb/nullb0
nullb() { echo "$2" >"/sys/kernel/config/nullb/nullb0/$1"; }
nullb size 32
nullb memory_backed 1
nullb discard 1
nullb badblocks +16384-49151
nullb power 1
calm_nullb() { nullb badblocks -16384-49151; }
ok "null_blk shows up" wait_for 10 test -b /dev/nullb0
if dd if=/dev/zero of=/dev/nullb0 bs=4k seek=3000 count=1 oflag=direct conv=notrunc; then
	# 6.1 from 6.1.192 on
	skip "bad blocks of null_blk have no effect on this kernel"
else
	under "null_blk with bad blocks" /dev/nullb0 calm_nullb /dev/nullb0
	some_errors
fi

ok "the module unloads" rmmod blkcbt
done_testing
