# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: a write is seen by whatever path it comes.
# VM: disks=256M,64M modules="+null_blk dm_mod sd_mod +scsi_debug" timeout=300 kernels=all
# VM: mem=512 tools="fio sfdisk dmsetup blkdiscard blockdev mkswap swapon swapoff"
. /lib/tap.sh

EPOCH=0

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

# clean DISK: nothing is dirty
clean() {
	sync
	EPOCH=$((EPOCH + 1))
	cbtctl cut $EPOCH "$1" && cbtctl commit $EPOCH "$1"
}

# seen NAME DISK WANT: exactly these extents are dirty
seen() {
	EPOCH=$((EPOCH + 1))
	cbtctl cut $EPOCH "$2"
	is "$1" "$(cbtctl extents "$2" | xargs)" "$3"
	cbtctl commit $EPOCH "$2"
	is "$1: not by the auditor alone" "$(get "$2" escapes)" 0
}

io() { fio --name=w --output-format=terse "$@" >/dev/null; }

ok "the module loads" insmod /lib/modules/blkcbt.ko
modprobe scsi_debug dev_size_mb=64 lbpu=1 lbpws=1
wait_for 20 test -b /dev/sda
printf '2048,65536\n67584,65536\n133120,65536\n' | sfdisk -q /dev/vda
wait_for 10 test -b /dev/vda3
cbtctl attach /dev/vda
clean /dev/vda
dd if=/dev/zero of=/dev/vda1 bs=4k seek=1 count=1 oflag=direct
seen "a partition" /dev/vda "1052672 4096"
dd if=/dev/zero of=/dev/vda2 bs=4k seek=2 count=2 conv=fsync
seen "a partition through the page cache" /dev/vda "34611200 8192"
echo 0 32768 linear /dev/vda1 2048 | dmsetup create lin
dd if=/dev/zero of=/dev/mapper/lin bs=4k seek=3 count=1 oflag=direct
seen "dm-linear on a partition" /dev/vda "2109440 4096"
printf '0 2048 linear /dev/vda1 4096\n2048 2048 linear /dev/vda2 0\n' | dmsetup create two
dd if=/dev/zero of=/dev/mapper/two bs=1M count=2 oflag=direct
seen "one write split by dm over two partitions" /dev/vda "3145728 1048576 34603008 1048576"
dd if=/dev/zero of=/dev/vda bs=16M seek=8 count=1 oflag=direct
seen "a write of 16 MiB" /dev/vda "134217728 16777216"
io --filename=/dev/vda --rw=write --bs=4k --size=64k --offset=200M --ioengine=io_uring --iodepth=16 \
	--iodepth_batch_submit=16 --direct=1
seen "plugged io_uring" /dev/vda "209715200 65536"
blkdiscard -f -z -o 220200960 -l 1048576 /dev/vda
seen "write zeroes" /dev/vda "220200960 1048576"
blkdiscard -f -o 230686720 -l 1048576 /dev/vda
seen "discard" /dev/vda "230686720 1048576"
io --filename=/dev/vda --rw=write --bs=512 --size=512 --offset=245763584 --direct=1
seen "one sector" /dev/vda "245760000 4096"
mkswap /dev/vda3 >/dev/null && swapon /dev/vda3
clean /dev/vda
mount -t tmpfs -o size=95% fill /mnt
pages() { sed -n 's/^pswpout //p' /proc/vmstat; }
n=0
before=$(pages)
dd if=/dev/urandom of=/tmp/block bs=1M count=4 2>/dev/null
while [ "$(pages)" -lt $((before + 1024)) ] && cp /tmp/block /mnt/fill$n; do
	n=$((n + 1))
done
out=$(($(pages) - before))
swapped=$(get /dev/vda dirty)
diag "swap: $out pages went out, $swapped bytes dirty"
ok "pages were swapped out" test "$out" -ge 1024
ok "and seen" test "$swapped" -ge 4194304
umount /mnt
ok "swap off" swapoff /dev/vda3
dmsetup remove two
dmsetup remove lin
is "nothing escaped" "$(get /dev/vda escapes)" 0
cbtctl detach /dev/vda

cbtctl attach /dev/sda
clean /dev/sda
blkdiscard -o 1048576 -l 1048576 /dev/sda
seen "scsi: discard" /dev/sda "1048576 1048576"
blkdiscard -z -o 3145728 -l 1048576 /dev/sda
seen "scsi: write zeroes" /dev/sda "3145728 1048576"
ok "scsi: SG_IO writes" cbtctl sg /dev/sda 2a000000400000000800 out 4096
seen "scsi: SG_IO WRITE(10)" /dev/sda "8388608 4096"
is "scsi: it is counted" "$(get /dev/sda passthrough)" 1
ok "scsi: SG_IO inquires" cbtctl sg /dev/sda 120000002400 in 36
seen "scsi: SG_IO INQUIRY" /dev/sda ""
cbtctl sg /dev/sda c50000000000 out 512
seen "scsi: SG_IO of an unknown command" /dev/sda "0 67108864"
cbtctl detach /dev/sda

modprobe null_blk memory_backed=1 gb=1 poll_queues=1 discard=1
# Written before it polls: null_blk sleeps for memory, also where polling must not.
dd if=/dev/zero of=/dev/nullb0 bs=1M count=2 oflag=direct
cbtctl attach /dev/nullb0
clean /dev/nullb0
io --filename=/dev/nullb0 --rw=write --bs=4k --size=64k --offset=1M --ioengine=io_uring --hipri --direct=1
seen "polled" /dev/nullb0 "1048576 65536"
cbtctl detach /dev/nullb0

# Polled through a bio-based disk: its bios lose the flag, and arrive.
echo 0 262144 linear /dev/nullb0 0 | dmsetup create lin
cbtctl attach /dev/mapper/lin
clean /dev/mapper/lin
io --filename=/dev/mapper/lin --rw=write --bs=4k --size=64k --offset=1M --ioengine=io_uring --hipri --direct=1
seen "polled dm" /dev/mapper/lin "1048576 65536"
io --filename=/dev/mapper/lin --rw=write --bs=16M --size=32M --offset=32M --ioengine=psync --direct=1
seen "large writes to dm" /dev/mapper/lin "33554432 33554432"
blkdiscard -z -o 67108864 -l 33554432 /dev/mapper/lin
seen "a chain of write zeroes on dm" /dev/mapper/lin "67108864 33554432"
blkdiscard -o 1048576 -l 16777216 /dev/mapper/lin
seen "discard on dm" /dev/mapper/lin "1048576 16777216"
is "dm: nothing is under way" "$(get /dev/mapper/lin inflight)" 0
cbtctl detach /dev/mapper/lin
dmsetup remove lin
ok "the module unloads" rmmod blkcbt
done_testing
