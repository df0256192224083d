# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: a store in a file on the tracked, mounted disk itself: it is pinned, survives a power cut under load, and leaves the file system alone.
# VM: disks=256M,256M,320M modules="ext4 xfs dm_mod" timeout=400 kernels=all boots=2
# VM: tools="fio cmp mkfs.ext4 mkfs.xfs e2fsck sha256sum sfdisk truncate fallocate" files="tests/vm/store.sh:/lib/store.sh"
. /lib/tap.sh
. /lib/store.sh

at_rest_equal() { umount /mnt && round && equal; }
nothing_dirty() { round && [ "$(get dirty)" = 0 ]; }
load() {
	exec fio --directory=/mnt --size=16m --output-format=terse --time_based --runtime=600 \
		--name=db --ioengine=psync --rw=randwrite --bs=8k --fsync=4 --rate_iops=100 \
		--name=files --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=8 --rate_iops=100 >/dev/null 2>&1
}
file() { dd if=/dev/zero of="$1" bs=1M count=2 conv=fsync 2>/dev/null; }

# A file on such a file system.
on_fs() { # TYPE
	mkfs."$1" -q -f /dev/vdc && mount -t "$1" /dev/vdc /fs && file /fs/store
}

ok "boot $BOOT: the module loads" insmod /lib/modules/blkcbt.ko store_tick_ms=200
mkdir -p /mnt /fs
case $BOOT in
1)
	ok "xfs" on_fs xfs
	ok "xfs: a store" cbtctl store-format /dev/vda --store /fs/store --identity a --extent 1M
	ok "xfs: attach" cbtctl attach /dev/vda --store /fs/store --identity a
	is "xfs: it is kept" "$(get store_state)" 2
	fails "xfs: it cannot be removed" "Operation not permitted" rm -f /fs/store
	ok "xfs: drop" cbtctl store-drop /dev/vda
	ok "xfs: and then it can" rm /fs/store
	cbtctl detach /dev/vda
	truncate -s 2M /fs/store
	fails "a hole" "a hole or unwritten blocks" cbtctl store-format /dev/vda --store /fs/store --identity a
	fallocate -l 2M /fs/other
	fails "allocated, not written" "a hole or unwritten blocks" cbtctl store-format /dev/vda --store /fs/other --identity a
	umount /fs

	printf '2048,\n' | sfdisk -q /dev/vda
	wait_for 10 test -b /dev/vda1
	mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda1 && mount /dev/vda1 /mnt
	head -c 8M /dev/urandom >/mnt/keep
	sha256sum /mnt/keep >/mnt/sum
	file /mnt/store
	ok "a store in a file on the disk itself" cbtctl store-format /dev/vda --store /mnt/store --identity a --extent 1M
	ok "attach" cbtctl attach /dev/vda --store /mnt/store --identity a
	fails "it cannot be truncated" "Text file busy" truncate -s 1M /mnt/store
	fails "nor written" "Text file busy" dd if=/dev/zero of=/mnt/store bs=4k count=1 conv=notrunc
	fails "nor removed" "Operation not permitted" rm -f /mnt/store
	fails "nor given to another disk" "in use" cbtctl store-format /dev/vdb --store /mnt/store --identity b
	ok "first copy" round
	load &
	fio=$!
	for _ in 1 2 3; do
		ok "an epoch under load" eval 'wait_for 60 written && round'
	done
	kill $fio
	wait $fio 2>/dev/null
	sync
	ok "epochs come to an end: the store makes no work for the next" wait_for 60 nothing_dirty
	load &
	ok "it is written" wait_for 60 written
	next_boot cut
	;;
2)
	# attached before the journal is replayed; the file is found once it is
	ok "attached, awaiting its store" cbtctl attach /dev/vda --await
	mount /dev/vda1 /mnt
	ok "the store comes" cbtctl store-add /dev/vda --store /mnt/store --identity a
	is "after a power cut: trusted" "$(get store_trusted) $(get store_reason)" "1 "
	diag "dirty $(get dirty) of $(get size)"
	ok "no full resync" test "$(get dirty)" -lt "$(($(get size) * 3 / 4))"
	ok "the file system is whole" sh -c 'cd /mnt && sha256sum -c /mnt/sum'
	ok "catch-up" round
	cbtctl store-drop /dev/vda
	ok "equal" at_rest_equal
	ok "e2fsck has nothing to say" e2fsck -fn /dev/vda1
	cbtctl detach /dev/vda
	ok "the module unloads" rmmod blkcbt
	;;
esac
done_testing
