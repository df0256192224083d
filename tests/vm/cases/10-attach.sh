# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: attach, detach and one whole epoch on each kind of disk.
# VM: disks=64M modules="+null_blk +dm_mod +brd +scsi_debug sd_mod loop" timeout=240 kernels=all
# VM: tools="fio dmsetup blockdev losetup"
. /lib/tap.sh

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

# write OFFSET DISK: 4 KiB past the page cache
write() { dd if=/dev/urandom of="$2" bs=4k count=1 seek="$(($1 / 4096))" oflag=direct conv=notrunc; }

# one DISK NAME: what every kind of disk does
one() {
	size=$(blockdev --getsize64 "$1")
	ok "$2: attach" cbtctl attach "$1"
	is "$2: everything starts dirty" "$(get "$1" dirty)" "$size"
	ok "$2: cut" cbtctl cut 1 "$1"
	is "$2: the epoch holds the whole disk" "$(cbtctl extents "$1")" "0 $size"
	is "$2: nothing is dirty after the cut" "$(get "$1" dirty)" 0
	ok "$2: commit" cbtctl commit 1 "$1"
	write 40960 "$1"
	write 8192 "$1"
	write 12288 "$1"
	is "$2: three granules are dirty" "$(get "$1" dirty)" 12288
	ok "$2: second cut" cbtctl cut 2 "$1"
	is "$2: two extents" "$(cbtctl extents "$1" | xargs)" "8192 8192 40960 4096"
	is "$2: an extent from the middle on" "$(cbtctl extents "$1" 16384)" "40960 4096"
	write 4096000 "$1"
	is "$2: a write after the cut is not in the epoch" "$(get "$1" open) $(get "$1" dirty)" "12288 4096"
	ok "$2: abort" cbtctl abort 2 "$1"
	is "$2: abort puts it back" "$(get "$1" dirty)" 16384
	ok "$2: third cut" cbtctl cut 3 "$1"
	ok "$2: commit of a range" cbtctl commit 3 "$1" --from 8192 --to 40960
	is "$2: the rest is put back" "$(get "$1" dirty)" 8192
	is "$2: no write escaped" "$(get "$1" escapes)" 0
	is "$2: nothing is under way" "$(get "$1" inflight)" 0
	ok "$2: detach" cbtctl detach "$1"
	fails "$2: it is not tracked any more" "not tracked" cbtctl get "$1"
}

ok "the module loads" insmod /lib/modules/blkcbt.ko
ok "the gate is full" sh -c 'cbtctl info | grep -q gate_mode=0'
one /dev/vda virtio-blk
modprobe null_blk memory_backed=1 gb=1
one /dev/nullb0 null_blk
echo 0 65536 linear /dev/vda 8 | dmsetup create lin
one /dev/mapper/lin dm-linear
dd if=/dev/zero of=/tmp/file bs=1M count=8
losetup /dev/loop0 /tmp/file
one /dev/loop0 loop
modprobe scsi_debug dev_size_mb=32
ok "scsi_debug shows up" wait_for 20 test -b /dev/sda
one /dev/sda scsi_debug
modprobe brd rd_nr=1 rd_size=32768
if grep -q bdev_write_page /proc/kallsyms; then
	fails "brd: refused where it takes pages past the block layer" "rw_page" cbtctl attach /dev/ram0
else
	one /dev/ram0 brd
fi
ok "a granule of 64 KiB" cbtctl attach /dev/vda 64k
cbtctl cut 1 /dev/vda && cbtctl commit 1 /dev/vda
write 69632 /dev/vda
is "a write marks its granule" "$(get /dev/vda dirty)" 65536
ok "get of all disks" sh -c 'cbtctl get | grep -q name=vda'
fails "the module is in use" "unavailable" rmmod blkcbt
ok "detach" cbtctl detach /dev/vda
ok "the module unloads" rmmod blkcbt
done_testing
