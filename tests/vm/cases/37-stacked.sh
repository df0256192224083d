# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: consistent epochs of a disk and of the one below it at once, of a loop device and its file's disk, of a disk that is swapped to: exact, and nothing locks up.
# VM: disks=16M,128M,16M,16M,16M modules="dm_mod loop ext4 +null_blk" mem=512 timeout=300 long=14400 kernels=all env="EPOCHS"
# VM: tools="dmsetup losetup mkfs.ext4 mkswap swapon swapoff sha256sum" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

: "${EPOCHS:=3}"

# What is written above is judged by the copies of both.
stacked() {
	point consistent $disks && copy_all && consistent && cbtctl commit $N $disks &&
		judge /dev/vdc /dev/vdd && judge /dev/vdc /dev/vde && goes_on 100
}
epochs() { # COMMAND
	_epochs=0
	while [ $_epochs -lt "$EPOCHS" ]; do
		_epochs=$((_epochs + 1))
		"$@" || { cat /tmp/copy?; cbtctl get; return 1; }
	done
}

ok "null_blk" null_disk 0 16
ok "the module loads" insmod /lib/modules/blkcbt.ko
echo 0 32768 linear /dev/vda 0 | dmsetup create lin
disks="/dev/nullb0 /dev/mapper/lin /dev/vda" copies="/dev/vdc /dev/vdd /dev/vde"
for disk in $disks; do cbtctl attach $disk; done
ok "dm: the load runs" load /dev/nullb0 /dev/mapper/lin
ok "dm: $EPOCHS epochs of both" epochs stacked
end_load
is "dm: nothing escaped, nothing is under way" "$(get /dev/mapper/lin escapes) $(get /dev/vda escapes) $(get /dev/mapper/lin inflight)" "0 0 0"
ok "dm: preserved above" [ "$(get /dev/mapper/lin preserves)" -gt 0 ]
ok "dm: preserved below" [ "$(get /dev/vda preserves)" -gt 0 ]
cbtctl detach /dev/mapper/lin
dmsetup remove lin

mkfs.ext4 -q /dev/vda && mkdir -p /mnt/fs && mount /dev/vda /mnt/fs && dd if=/dev/zero of=/mnt/fs/file bs=1M count=10 conv=fsync
ok "loop: a disk in a file" losetup --direct-io=on /dev/loop0 /mnt/fs/file
cbtctl attach /dev/loop0
for copy in /dev/vdc /dev/vdd; do dd if=/dev/zero of=$copy bs=1M count=16 oflag=direct 2>/dev/null; done
dd if=/dev/zero of=/dev/nullb0 bs=1M count=16 oflag=direct 2>/dev/null
disks="/dev/nullb0 /dev/loop0 /dev/vda"
ok "loop: the load runs" load --region 1027 /dev/nullb0 /dev/loop0
looped() {
	point consistent $disks && copy_all && consistent && cbtctl commit $N $disks && judge /dev/vdc /dev/vdd && goes_on 100
}
ok "loop: $EPOCHS epochs of both" epochs looped
end_load
cbtctl detach /dev/loop0
losetup -d /dev/loop0
umount /mnt/fs
cbtctl detach /dev/vda
cbtctl detach /dev/nullb0

# Memory that is needed to make memory: each page that goes out overwrites a granule of the snapshot.
cbtctl attach /dev/vdb
mkswap /dev/vdb >/dev/null && swapon /dev/vdb
N=0
mkdir -p /mnt/fill
mount -t tmpfs -o size=95% fill /mnt/fill
pages() { sed -n 's/^pswpout //p' /proc/vmstat; }
fill() { # BUDGET
	BUDGET=$1
	point snapshot /dev/vdb || return 1
	i=0 out=$(pages)
	while [ $i -lt 150 ] && [ "$(pages)" -lt $((out + 2000)) ]; do
		dd if=/dev/urandom of=/mnt/fill/$i bs=1M count=4 2>/dev/null || return 1
		sha256sum </mnt/fill/$i >>/tmp/sums
		i=$((i + 1))
	done
	[ "$(pages)" -ge $((out + 2000)) ] || return 1
	diag "$i files, $(($(pages) - out)) pages went out; mode $(get /dev/vdb mode), $(get /dev/vdb preserves) preserved so far, $(get /dev/vdb downgrade_reason)"
	j=0
	while [ $j -lt $i ]; do
		sha256sum </mnt/fill/$j
		j=$((j + 1))
	done >/tmp/again
	cmp /tmp/sums /tmp/again && rm /tmp/sums /mnt/fill/* && cbtctl abort $N /dev/vdb
}
ok "swap: a snapshot with a small budget, and memory is full" fill 1M
ok "swap: a snapshot with more budget than there is memory" fill 1G
is "swap: nothing is held, nothing escaped" "$(get /dev/vdb preserved) $(get /dev/vdb escapes)" "0 0"
umount /mnt/fill
ok "swap off" swapoff /dev/vdb
cbtctl detach /dev/vdb
ok "the module unloads" rmmod blkcbt
done_testing
