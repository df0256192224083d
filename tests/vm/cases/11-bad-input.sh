# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: what cannot be is refused, with a text that says what to do; a disk may vanish while it is tracked.
# VM: disks=64M,64M modules="+null_blk sd_mod +scsi_debug dm_mod" timeout=240 kernels=all
# VM: tools="fio sfdisk dmsetup blockdev"
. /lib/tap.sh

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

ok "the module loads" insmod /lib/modules/blkcbt.ko
fails "an absent disk" "no such disk" cbtctl attach 253:200
ok "a number that cannot be, by netlink" cbtctl raw huge-device
for granule in 3000 2048 2M 0; do
	fails "a granule of $granule" "use a power of two" cbtctl attach /dev/vda $granule
done
echo '2048,32768' | sfdisk -q /dev/vda
fails "a partition" "attach the whole disk vda" cbtctl attach /dev/vda1
modprobe null_blk zoned=1 zone_size=4 gb=1 memory_backed=1
fails "a zoned disk" "zoned" cbtctl attach /dev/nullb0
ok "attach" cbtctl attach /dev/vda
fails "attach again" "already tracked (detach it first: reprotect disk detach /dev/vda)" cbtctl attach /dev/vda
fails "detach of a disk that is not tracked" "not tracked" cbtctl detach /dev/vdb
fails "extents without an open epoch" "No data available" cbtctl extents /dev/vda
fails "commit without an open epoch" "no epoch is open" cbtctl commit 1 /dev/vda
fails "cut of epoch 0" "not greater" cbtctl cut 0 /dev/vda
fails "cut of a group with an unknown disk" "not tracked" cbtctl cut 1 /dev/vda /dev/vdb
fails "cut of a disk named twice" "named twice" cbtctl cut 1 /dev/vda /dev/vda
is "nothing was cut" "$(get /dev/vda state)" 0
ok "cut" cbtctl cut 5 /dev/vda
fails "cut twice" "epoch 5 is open" cbtctl cut 6 /dev/vda
fails "commit of another epoch" "epoch 5 is the open one" cbtctl commit 6 /dev/vda
fails "a range that ends before it starts" "ends before it starts" cbtctl commit 5 /dev/vda --from 8192 --to 4096
fails "detach with an open epoch" "or detach with --force" cbtctl detach /dev/vda
mkfifo /tmp/go
cbtctl hold /dev/vda </tmp/go >/tmp/hold 2>&1 &
hold=$!
exec 9>/tmp/go
ok "a reader has the epoch" wait_for 10 grep -q 16 /tmp/hold
ok "commit" cbtctl commit 5 /dev/vda
ok "cut of the next" cbtctl cut 6 /dev/vda
echo go >&9
wait $hold
ok "a reader of epoch 5 is not served epoch 6" grep -q "Stale file handle" /tmp/hold
fails "a number used before" "not greater" sh -c 'cbtctl abort 6 /dev/vda && cbtctl cut 6 /dev/vda'
ok "cut of a third" cbtctl cut 7 /dev/vda
ok "detach by force" cbtctl detach /dev/vda --force

for what in unknown-command event-command unknown-attribute foreign-attribute short-attribute no-disk no-epoch \
	flat-nest truncated; do
	ok "netlink: $what is refused" cbtctl raw $what 253:200
done
ok "netlink: garbage" cbtctl raw garbage 3000 7
ok "without privilege nothing but INFO" cbtctl raw nocap

# A disk that is pulled out.
modprobe scsi_debug dev_size_mb=32
wait_for 20 test -b /dev/sda
dev=$(cat /sys/block/sda/dev)
ok "scsi: attach" cbtctl attach /dev/sda
ok "scsi: cut" cbtctl cut 1 /dev/sda
fio --name=w --filename=/dev/sda --direct=1 --rw=randwrite --bs=4k --time_based --runtime=20 >/dev/null 2>&1 &
fio=$!
cbtctl hold "$dev" </tmp/go >/tmp/hold 2>&1 &
hold=$!
wait_for 10 grep -q 16 /tmp/hold
echo 1 >/sys/block/sda/device/delete
wait $fio
ok "scsi: the disk is gone" wait_for 10 sh -c "! test -e /sys/block/sda"
is "scsi: and GET says so" $(($(get "$dev" flags) & 2)) 2
ok "scsi: the epoch can be aborted" cbtctl abort 1 "$dev"
fails "scsi: but not cut" "the disk is gone" cbtctl cut 2 "$dev"
ok "scsi: detach" cbtctl detach "$dev"
echo go >&9
wait $hold
ok "scsi: the reader is told" grep -q "No such device" /tmp/hold

# A tracked disk is not held open: dm goes away under it.
echo 0 65536 linear /dev/vdb 0 | dmsetup create lin
dev=$(dmsetup info -c --noheadings -o major,minor --separator : lin)
ok "dm: attach" cbtctl attach /dev/mapper/lin
cbtctl cut 1 /dev/mapper/lin
ok "dm: is removed while tracked" dmsetup remove lin
fails "dm: no cut any more" "the disk is gone" sh -c "cbtctl abort 1 $dev && cbtctl cut 2 $dev"
echo 0 65536 linear /dev/vdb 0 | dmsetup create lin
fails "dm: a new disk of this number" "still tracked" cbtctl attach /dev/mapper/lin
ok "dm: detach of the old" cbtctl detach "$dev"
ok "dm: attach of the new" cbtctl attach /dev/mapper/lin
cbtctl cut 1 /dev/mapper/lin && cbtctl commit 1 /dev/mapper/lin
cbtctl events 600 >/tmp/events 2>&1 &
events=$!
wait_for 10 grep -q listening /tmp/events
dmsetup suspend lin && echo 0 98304 linear /dev/vdb 0 | dmsetup load lin && dmsetup resume lin
dd if=/dev/zero of=/dev/mapper/lin bs=4k seek=10000 count=1 oflag=direct
fails "dm: a disk that was resized is not cut" "its size has changed" cbtctl cut 2 /dev/mapper/lin
is "dm: and GET says so" $(($(get /dev/mapper/lin flags) & 4)) 4
ok "dm: an event says so" wait_for 30 grep -qx event=5 /tmp/events
kill $events
ok "dm: detach" cbtctl detach /dev/mapper/lin
ok "the module unloads" rmmod blkcbt
done_testing
