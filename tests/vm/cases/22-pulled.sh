# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: a tracked disk is pulled in each state; it is let go, and a new one of its name inherits nothing.
# VM: disks=32M modules="sd_mod +scsi_debug +null_blk dm_mod loop" timeout=600 kernels=all
# VM: tools="fio dmsetup losetup blockdev" env="CYCLES"
. /lib/tap.sh

# times that a disk is pulled while it is attached and detached in a loop
: "${CYCLES:=3}"
SIZE=33554432

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

#
# Kinds of disks: DISK, and plug, pull, unplugged (the pull is complete)
#

# The name is free once the module has let go of the old disk: until then the next one is sdb.
scsi_plug() {
	[ -e /sys/block/sda ] && return
	for other in /sys/block/sd*; do
		[ ! -e "$other" ] || echo 1 >"$other/device/delete"
	done
	echo "- - -" >"$(echo /sys/class/scsi_host/host*/scan)"
}
scsi_pull() { echo 1 >/sys/block/sda/device/delete; }
scsi_unplugged() { ! [ -e /sys/block/sda ]; }

# what is there already is left alone: plugging is tried until it works
null_plug() { echo 1 >/sys/kernel/config/nullb/nullb0/power; }
null_pull() { echo 0 >/sys/kernel/config/nullb/nullb0/power; }
null_unplugged() { ! [ -e /sys/block/nullb0 ]; }

dm_plug() { dmsetup info one >/dev/null 2>&1 || echo 0 65536 linear /dev/vda 0 | dmsetup create one; }
# Of a disk that is open --force leaves the name, and errors behind it, until the last close.
dm_pull() { dmsetup remove --force one || [ "$(dmsetup table one | cut -d' ' -f3)" = error ]; }
dm_unplugged() { ! dmsetup info one >/dev/null 2>&1 || dmsetup remove one; }

loop_plug() { [ "$(cat /sys/block/loop0/size)" != 0 ] || losetup /dev/loop0 /tmp/file; }
# The medium goes when the last who has it open is gone.
loop_pull() {
	losetup -d /dev/loop0
	[ -z "$fio" ] || kill $fio
}
loop_unplugged() { [ "$(cat /sys/block/loop0/size)" = 0 ]; }

# plug is for wait_for: it fails until the new disk is there
plug() {
	${kind}_plug && test -b $disk && [ "$(blockdev --getsize64 $disk)" = $SIZE ] || return 1
	dev=$(printf '%d:%d' "0x$(stat -Lc %t $disk)" "0x$(stat -Lc %T $disk)")
}

gone() { wait_for 30 ${kind}_unplugged; }

#
# Pulled, and all that comes after
#

# after NAME OPEN_EPOCH: the disk has been pulled; number 7 is behind every epoch so far
after() {
	ok "$1: it is gone" gone
	# of a loop device the disk stays: its medium is gone
	is "$1: GET says so" $(($(get "$dev" flags) & 2)) 2
	[ -z "$2" ] || ok "$1: the epoch can be aborted" cbtctl abort "$2" "$dev"
	fails "$1: no cut" "the disk is gone" cbtctl cut 7 "$dev"
	is "$1: nothing is under way" "$(get "$dev" inflight)" 0
	id=$(get "$dev" id)
	fails "$1: the module is in use" "unavailable" rmmod blkcbt
	if [ $kind = dm ] || [ $kind = null ]; then
		ok "$1: a new one takes its number" wait_for 20 plug
		fails "$1: and is not mistaken for it" "still tracked" cbtctl attach $disk
		ok "$1: detach" cbtctl detach "$dev"
	else
		ok "$1: detach" cbtctl detach "$dev"
		ok "$1: a new one takes its name" wait_for 20 plug
	fi
	fails "$1: the new one is not tracked" "not tracked" cbtctl get "$dev"
	ok "$1: attach of the new one" cbtctl attach $disk
	is "$1: it inherits nothing" "$(get $disk epoch) $(get $disk committed) $(get $disk state) $(get $disk dirty) $(($(get $disk flags) & 14))" \
		"0 0 0 $SIZE 8"
	ok "$1: it is another attachment" test "$(get $disk id)" != "$id"
}

fio_on() {
	fio --name=w --filename=$disk --direct=1 --rw=randwrite --bs=4k --ioengine=io_uring --iodepth=16 \
		--time_based --runtime=60 >/tmp/fio.out 2>&1 &
	fio=$!
}

written() { [ "$(get $disk dirty)" -ge 65536 ]; }

enumerate() {
	while ! [ -e /tmp/stop ]; do cbtctl extents "$dev" >/tmp/extents; done
}

flap() {
	while ! [ -e /tmp/stop ]; do
		cbtctl attach $disk
		cbtctl cut 1 $disk
		cbtctl detach "$dev" --force
	done
}

# a job in the background that ends with /tmp/stop
start() {
	rm -f /tmp/stop
	"$@" >/tmp/job 2>&1 &
	job=$!
}

stop() {
	touch /tmp/stop
	wait $job
}

states() {
	ok "$kind: plug" wait_for 20 plug
	ok "$kind: attach" cbtctl attach $disk
	${kind}_pull
	after "$kind, idle" ""

	cbtctl cut 1 $disk && cbtctl commit 1 $disk
	fio_on
	ok "$kind, under load: it is written" wait_for 30 written
	${kind}_pull
	wait $fio
	fio=
	after "$kind, under load" ""

	cbtctl cut 1 $disk && cbtctl commit 1 $disk
	fio_on
	ok "$kind, epoch open: it is written" wait_for 30 written
	cbtctl cut 2 $disk
	${kind}_pull
	wait $fio
	fio=
	after "$kind, epoch open" 2

	cbtctl cut 1 $disk && cbtctl commit 1 $disk
	fio_on
	wait_for 30 written
	cbtctl cut 2 $disk
	start enumerate
	wait_for 30 test -s /tmp/extents
	cbtctl hold "$dev" </tmp/go >/tmp/hold 2>&1 &
	hold=$!
	exec 9>/tmp/go
	ok "$kind, while it is enumerated: a reader has the epoch" wait_for 30 grep -q 16 /tmp/hold
	${kind}_pull
	wait $fio
	fio=
	ok "$kind, while it is enumerated: it can still be" cbtctl extents "$dev"
	after "$kind, while it is enumerated" 2
	stop
	echo >&9
	exec 9>&-
	wait $hold
	ok "$kind, while it is enumerated: the reader is told" grep -q "No such device" /tmp/hold

	# An event that is still to be sent: the whole disk is marked, or its size changed.
	cbtctl events 600 >/tmp/events 2>&1 &
	events=$!
	wait_for 20 grep -q listening /tmp/events
	if [ $kind = scsi ]; then
		cbtctl sg $disk c50000000000 out 512
	fi
	${kind}_pull
	after "$kind, an event reported" ""
	ok "$kind, an event reported: detach" wait_for 30 grep -qx event=2 /tmp/events
	if [ $kind = scsi ]; then
		ok "$kind, an event reported: resync" wait_for 30 grep -qx event=4 /tmp/events
	fi
	kill $events
	cbtctl detach "$dev"

	start flap
	cycles=0
	bad=0
	while [ $cycles -lt "$CYCLES" ]; do
		wait_for 30 cbtctl get "$dev" >/dev/null 2>&1 || bad=1
		${kind}_pull
		gone || bad=1
		wait_for 30 plug || bad=1
		cycles=$((cycles + 1))
	done
	stop
	is "$kind: pulled $CYCLES times while it was attached and detached" $bad 0
	cbtctl detach "$dev" --force 2>/dev/null
	fails "$kind: not tracked in the end" "not tracked" cbtctl get "$dev"
	${kind}_pull
	gone
	is "$kind: nothing is tracked" "$(cbtctl get)" ""
}

mkfifo /tmp/go
fio=
ok "the module loads" insmod /lib/modules/blkcbt.ko

modprobe scsi_debug dev_size_mb=32
wait_for 20 test -b /dev/sda && scsi_pull
kind=scsi disk=/dev/sda
states

modprobe null_blk nr_devices=0
mount -t configfs config /sys/kernel/config
mkdir /sys/kernel/config/nullb/nullb0
for setting in size=32 memory_backed=1 index=0; do
	echo ${setting#*=} >"/sys/kernel/config/nullb/nullb0/${setting%=*}"
done
kind=null disk=/dev/nullb0
states

kind=dm disk=/dev/mapper/one
states

dd if=/dev/zero of=/tmp/file bs=1M count=32 2>/dev/null
kind=loop disk=/dev/loop0
states

# Another medium of the same size comes before anybody looks: nothing of it has been copied.
dd if=/dev/urandom of=/tmp/other bs=1M count=32 2>/dev/null
losetup /dev/loop0 /tmp/file
cbtctl attach /dev/loop0
cbtctl cut 1 /dev/loop0 && cbtctl commit 1 /dev/loop0
losetup -d /dev/loop0
losetup /dev/loop0 /tmp/other
fails "a medium exchanged for one of the same size is not taken for the old" "detach" cbtctl cut 2 /dev/loop0
ok "it can be detached" cbtctl detach /dev/loop0
losetup -d /dev/loop0

ok "the module unloads" rmmod blkcbt
done_testing
