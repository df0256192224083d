# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: after each of 20 incremental rounds, each under another kind of load, source and target are equal byte for byte.
# VM: disks=192M,192M,64M modules="dm_mod ext4 +null_blk" timeout=900 long=1800 kernels=all mem=640 env="ROUNDS"
# VM: tools="fio sfdisk blkdiscard mkswap swapon swapoff cmp lvm mkfs.ext4"
. /lib/tap.sh

rounds=${ROUNDS:-20}
epoch=0

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }
io() { exec fio --output-format=terse --eta=never --time_based --runtime=600 "$@" >/dev/null 2>&1; }

# One epoch: cut, copied while whatever runs goes on, committed.
replicate() { # SOURCE TARGET
	epoch=$((epoch + 1))
	cbtctl cut $epoch "$1" && cbtctl copy "$1" "$2" && cbtctl commit $epoch "$1"
}
written() { [ "$(get "$1" dirty)" -ge 65536 ]; }

# A load for each round; it runs until it is killed, the shell's own loops until /tmp/stop is there.
load() { # KIND
	case $1 in
	plugged) io --name=w --filename=/dev/vda1 --rw=randwrite --bs=4k --ioengine=psync --fsync=256 --rate_iops=800 ;;
	uring) io --name=w --filename=/dev/vda1 --rw=randwrite --bs=4k --ioengine=io_uring --direct=1 --iodepth=32 --rate_iops=400 ;;
	mixed) io --name=w --filename=/dev/vda1 --rw=randwrite --bsrange=512-256k --blockalign=512 --ioengine=libaio --direct=1 --iodepth=8 --rate_iops=50 ;;
	flush) io --name=w --filename=/dev/vda1 --rw=randwrite --bs=4k --ioengine=psync --direct=1 --sync=dsync --name=f --filename=/dev/vda1 --rw=randwrite --bs=8k --ioengine=psync --fdatasync=1 --rate_iops=100 ;;
	large) io --name=w --filename=/dev/vda1 --rw=write --bs=16m --ioengine=psync --direct=1 --rate_iops=2 ;;
	discard) io --name=w --filename=/dev/vda1 --rw=randtrim --bs=64k --ioengine=psync --direct=1 --rate_iops=50 --name=u --filename=/dev/vda1 --rw=randwrite --bs=16k --ioengine=psync --direct=1 --rate_iops=50 ;;
	zeroes) i=0; while [ ! -e /tmp/stop ]; do blkdiscard -f -z -o $((i % 60 * 1048576)) -l 1048576 /dev/vda1; i=$((i + 7)); dd if=/dev/urandom of=/dev/vda1 bs=64k count=1 seek=$((i % 900)) oflag=direct conv=notrunc; done ;;
	lvm) io --name=w --filename=/dev/vg/lv --rw=randwrite --bsrange=4k-64k --ioengine=io_uring --direct=1 --iodepth=8 --rate_iops=100 ;;
	ext4) io --name=w --directory=/mnt --size=8m --rw=randwrite --bs=4k --ioengine=psync --fsync=8 --rate_iops=200 ;;
	swap) i=0; while [ ! -e /tmp/stop ]; do dd if=/dev/urandom of=/fill/f$((i % 600)) bs=1M count=4; i=$((i + 1)); done ;;
	esac
}

kinds="plugged uring mixed flush large discard zeroes lvm ext4 swap"
pick() { # N: the N-th word of $kinds, going round
	echo "$kinds" | cut -d' ' -f$((($1 - 1) % 10 + 1))
}

printf '2048,131072\n133120,131072\n264192,124928\n' | sfdisk -q /dev/vda
wait_for 10 test -b /dev/vda3
mkdir -p /mnt /fill /etc/lvm
mkswap /dev/vda3 >/dev/null
lvm pvcreate -qq -y /dev/vda2 && lvm vgcreate -qq vg /dev/vda2 && lvm lvcreate -qq -y -Zn -Wn -L 24M -n lv vg && lvm lvcreate -qq -y -Zn -Wn -L 24M -n fs vg
lvm vgmknodes -qq
ok "LVM on the disk" test -b /dev/vg/lv || done_testing
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vg/fs && mount /dev/vg/fs /mnt
ok "the module loads" insmod /lib/modules/blkcbt.ko
ok "attach" cbtctl attach /dev/vda
ok "first copy" replicate /dev/vda /dev/vdb

n=1
while [ $n -le "$rounds" ]; do
	kind=$(pick $n)
	if [ "$kind" = swap ]; then
		mount -t tmpfs -o size=95% fill /fill && swapon /dev/vda3
	fi
	load "$kind" >/dev/null 2>&1 &
	pid=$!
	wait_for 120 written /dev/vda || diag "round $n ($kind): nothing was written"
	replicate /dev/vda /dev/vdb || diag "round $n ($kind): no epoch"
	wait_for 120 written /dev/vda || diag "round $n ($kind): nothing more was written"
	touch /tmp/stop
	case $kind in zeroes | swap) ;; *) kill $pid ;; esac
	wait $pid 2>/dev/null
	rm /tmp/stop
	if [ "$kind" = swap ]; then
		if ! umount /fill || ! swapoff /dev/vda3; then diag "round $n: swap is still on"; fi
	fi
	sync
	replicate /dev/vda /dev/vdb
	echo 3 >/proc/sys/vm/drop_caches
	ok "round $n: equal after $kind" cmp /dev/vda /dev/vdb
	n=$((n + 1))
done
is "no write escaped the gate" "$(get /dev/vda escapes)" 0
umount /mnt
cbtctl detach /dev/vda

# Polled I/O needs a disk that polls.
modprobe null_blk memory_backed=1 gb=1 poll_queues=1
head -c 64M /dev/zero >/dev/vdc
# Written before it polls: null_blk sleeps for memory, also where polling must not.
dd if=/dev/zero of=/dev/nullb0 bs=1M count=64 oflag=direct
cbtctl attach /dev/nullb0
io --name=w --filename=/dev/nullb0 --size=64m --rw=randwrite --bs=4k --ioengine=io_uring --hipri --direct=1 --iodepth=8 --rate_iops=400 &
pid=$!
polled() {
	epoch=$((epoch + 1))
	cbtctl cut $epoch /dev/nullb0 && cbtctl extents /dev/nullb0 >/tmp/extents || return 1
	while read -r offset length; do
		[ "$offset" -lt 67108864 ] || break
		[ "$((offset + length))" -le 67108864 ] || length=$((67108864 - offset))
		dd if=/dev/nullb0 of=/dev/vdc bs=4k skip=$((offset / 4096)) seek=$((offset / 4096)) count=$((length / 4096)) iflag=direct oflag=direct conv=notrunc || return 1
	done </tmp/extents
	cbtctl commit $epoch /dev/nullb0
}
ok "polled: first copy" polled
wait_for 60 written /dev/nullb0
ok "polled: an epoch under load" polled
kill $pid; wait $pid 2>/dev/null
ok "polled: last epoch" polled
ok "polled: equal" cmp -n 67108864 /dev/nullb0 /dev/vdc
is "polled: no write escaped the gate" "$(get /dev/nullb0 escapes)" 0
cbtctl detach /dev/nullb0
ok "the module unloads" rmmod blkcbt
done_testing
