# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: the image shows a granule as it was at the cut, or gives an error; a snapshot shows the whole disk, and mounts.
# VM: disks=16M,320M modules="dm_mod +null_blk ext4 xfs" timeout=400 kernels=all
# VM: tools="fio dmsetup cmp blkdiscard blockdev mkfs.ext4 mkfs.xfs mount umount fsfreeze sha256sum" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

# put GRANULE [COUNT]: random content, past the page cache, in one write
put() { dd if=/dev/urandom of=$disk bs=$((G * ${2:-1})) count=1 seek=$(($1 * G)) oflag=direct,seek_bytes conv=notrunc 2>/dev/null; }

# was OFFSET LENGTH: the image shows what /tmp/was, the disk at the cut, has
was() {
	cbtctl imgread $disk "$1" "$2" >/tmp/got || return 1
	dd if=/tmp/was of=/tmp/want bs=512 skip=$(($1 / 512)) count=$(($2 / 512)) 2>/dev/null
	cmp /tmp/got /tmp/want
}
granule() { was $(($1 * G)) $((G * ${2:-1})); }
no_granule() { fails "$1" "Input/output error" cbtctl imgread $disk $(($2 * G)) $((${3:-1} * G)); }
remember() { dd if=$disk of=/tmp/was bs=1M iflag=direct 2>/dev/null; }

# Granules 10 to 13, 20, 30 and 32 to 39 are in the epoch.
semantics() { # DISK GRANULE
	disk=$1 G=$2 name="$1, $2"
	N=0
	ok "$name: attach" cbtctl attach $disk $G
	image=/dev/blkcbt_image$(get $disk index)
	dd if=/dev/urandom of=$disk bs=1M count=16 oflag=direct 2>/dev/null
	clean $disk
	fails "$name: no image before the first such cut" "No such file" cat $image
	put 10 4 && put 20 && put 30 && put 32 8
	remember
	ok "$name: cut" point consistent $disk
	is "$name: its mode" "$(get $disk mode) $(get $disk budget)" "1 67108864"
	ok "$name: the image is as large as the disk" [ "$(blockdev --getsize64 $image)" = "$(blockdev --getsize64 $disk)" ]
	ok "$name: in the epoch, unchanged" granule 10
	is "$name: nothing is preserved" "$(get $disk preserved)" 0
	put 11
	ok "$name: overwritten: as it was" granule 11
	is "$name: one granule is preserved" "$(get $disk preserved) $(get $disk preserves)" "$G 1"
	put 11
	is "$name: once" "$(get $disk preserved) $(get $disk preserves)" "$G 1"
	ok "$name: the disk has the new" eval '! cbtctl imgread $disk $((11 * G)) $G | dd of=/tmp/got 2>/dev/null || ! dd if=$disk bs=$G skip=11 count=1 iflag=direct 2>/dev/null | cmp - /tmp/got'
	ok "$name: not in the epoch, unchanged" granule 100
	put 101
	no_granule "$name: not in the epoch, changed" 101
	is "$name: that is not preserved" "$(get $disk preserves)" 1
	ok "$name: a sector of a preserved granule" was $((11 * G + 512)) 512
	ok "$name: a sector of a live granule" was $((10 * G + 1024)) 512
	ok "$name: from the middle of a live to the middle of a preserved granule" was $((10 * G + G / 2)) $G
	ok "$name: live, preserved and live" granule 10 4
	ok "$name: from before the epoch into it" granule 8 4
	no_granule "$name: a changed granule among good ones" 98 8
	dd if=/dev/zero of=$disk bs=512 count=1 seek=$(((13 * G + 1536) / 512)) oflag=direct conv=notrunc 2>/dev/null
	ok "$name: one sector of it overwritten" granule 13
	put 28 8
	ok "$name: one write over granules in the epoch and not: in it" granule 30
	ok "$name: in it, behind a gap" granule 32 4
	no_granule "$name: not in it" 28
	no_granule "$name: the gap" 31
	blkdiscard -f -o $((36 * G)) -l $G $disk
	ok "$name: discarded" granule 36
	blkdiscard -f -z -o $((37 * G)) -l $G $disk
	ok "$name: zeroed" granule 37
	ok "$name: all of the epoch, in one read" granule 32 8
	ok "$name: a write of half a granule to each of two" dd if=/dev/urandom of=$disk bs=$G count=1 seek=$((38 * G + G / 2)) oflag=direct,seek_bytes conv=notrunc
	ok "$name: both are as they were" granule 38 2
	ok "$name: released, unchanged" eval 'cbtctl release $disk $((12 * G)) $G && granule 12'
	put 12
	no_granule "$name: released, then changed" 12
	_preserved=$(get $disk preserved)
	ok "$name: release of a preserved granule" cbtctl release $disk $((11 * G)) $G
	no_granule "$name: released after it was changed" 11
	is "$name: its memory is free" "$(get $disk preserved)" $((_preserved - G))
	ok "$name: release of part of a granule" cbtctl release $disk $((20 * G)) $((G / 2))
	put 20
	ok "$name: it is still preserved" granule 20
	fails "$name: release beyond the disk" "Invalid argument" cbtctl release $disk $((1 << 40)) $G
	fails "$name: release of nothing" "Invalid argument" cbtctl release $disk 0 0
	fails "$name: the image cannot be written" "" dd if=/dev/zero of=$image bs=$G count=1 seek=10 oflag=direct conv=notrunc
	ok "$name: and was not" granule 10
	is "$name: still consistent" "$(get $disk mode) $(get $disk downgrades)" "1 0"

	# The next epoch.
	cbtctl commit $N $disk
	is "$name: commit frees all" "$(get $disk preserved)" 0
	fails "$name: no epoch is open: no image" "" cbtctl imgread $disk $((10 * G)) $G
	put 10
	remember
	ok "$name: next cut" point consistent $disk
	ok "$name: it shows the new content" granule 8 40
	put 11
	ok "$name: as it was at the second cut" granule 11
	put 10 3
	ok "$name: and so three of them" granule 10 3
	cbtctl abort $N $disk
	is "$name: abort frees all" "$(get $disk preserved)" 0
	ok "$name: after an abort it is in the next epoch" eval 'remember; point consistent $disk && granule 11'
	cbtctl abort $N $disk
	point fuzzy $disk
	fails "$name: a fuzzy epoch has no image" "" cbtctl imgread $disk $((10 * G)) $G
	is "$name: and no mode" "$(get $disk mode)" 0
	cbtctl commit $N $disk
}

# A snapshot under load, equal to what the disk was; then a part released.
snapshot() { # DISK
	disk=$1 G=4096
	clean $disk
	remember
	ok "$1: snapshot" point snapshot $disk
	is "$1: its mode" "$(get $disk mode)" 2
	fio --filename=$disk --output-format=terse --time_based --runtime=300 --direct=1 \
		--name=uring --ioengine=io_uring --rw=randwrite --bs=4k --iodepth=16 --rate_iops=500 \
		--name=mixed --ioengine=libaio --rw=randrw --bsrange=512-128k --iodepth=8 --rate_iops=60 \
		--name=trim --ioengine=libaio --rw=randtrim --bs=64k --rate_iops=10 >/dev/null 2>&1 &
	fio=$!
	wait_for 60 eval '[ "$(get $disk preserved)" -gt 1000000 ]'
	sum=$(sha256sum </tmp/was)
	for i in 1 2 3; do
		is "$1: read $i: as it was" "$(dd if=$image bs=$((i * 64))k iflag=direct 2>/dev/null | sha256sum)" "$sum"
	done
	kill -0 $fio || diag "fio has ended"
	kill -TERM $fio
	wait $fio
	fails "$1: and not as it is" "differ" cmp $disk /tmp/was
	is "$1: still a snapshot" "$(get $disk mode) $(get $disk downgrades)" "2 0"
	cbtctl commit $N $disk
	ok "$1: detach" cbtctl detach $disk
	fails "$1: the image is gone" "No such file" cat $image
}

# A file system on a snapshot shows the file as it was, while the original goes on.
mounts() { # TYPE OPTIONS
	mkfs.$1 -q $3 /dev/vdb && mkdir -p /mnt/$1 /mnt/image && mount -t $1 /dev/vdb /mnt/$1 || return 1
	dd if=/dev/urandom of=/mnt/$1/file bs=1M count=8 2>/dev/null && fsfreeze -f /mnt/$1 || return 1
	sum=$(sha256sum </mnt/$1/file)
	point snapshot /dev/vdb
	_bad=$?
	fsfreeze -u /mnt/$1
	[ $_bad = 0 ] || return 1
	dd if=/dev/urandom of=/mnt/$1/file bs=1M count=8 conv=notrunc,fsync 2>/dev/null
	dd if=/dev/urandom of=/mnt/$1/more bs=1M count=8 conv=fsync 2>/dev/null
	blockdev --flushbufs $image
	mount -t $1 -o "$2" $image /mnt/image || return 1
	[ "$(sha256sum </mnt/image/file)" = "$sum" ] && ! [ -e /mnt/image/more ]
	_bad=$?
	umount /mnt/image
	umount /mnt/$1
	is "$1: still a snapshot" "$(get /dev/vdb mode)" 2
	cbtctl commit $N /dev/vdb && return $_bad
}

ok "the module loads" insmod /lib/modules/blkcbt.ko
ok "null_blk" null_disk 0 16
semantics /dev/vda 4096
snapshot /dev/vda
echo 0 32768 linear /dev/vdb 0 | dmsetup create lin
semantics /dev/mapper/lin 4096
snapshot /dev/mapper/lin
dmsetup remove lin
semantics /dev/nullb0 65536
snapshot /dev/nullb0
ok "attach" cbtctl attach /dev/vdb
N=0
clean /dev/vdb
image=/dev/blkcbt_image$(get /dev/vdb index)
ok "ext4 on a snapshot" mounts ext4 ro,noload
ok "xfs on a snapshot" mounts xfs ro,norecovery,nouuid -f
ok "detach" cbtctl detach /dev/vdb
ok "the module unloads" rmmod blkcbt
done_testing
