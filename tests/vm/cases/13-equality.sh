# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: after N incremental rounds under mixed load the target equals the source, byte for byte.
# VM: disks=64M,64M,64M modules="dm_mod" timeout=600 kernels=all
# VM: tools="fio dmsetup cmp"
. /lib/tap.sh

# rounds for each kind of disk, seconds of load for each round are what the copy takes
: "${ROUNDS:=20}"

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

load() { # DISK
	exec fio --filename="$1" --output-format=terse --time_based --runtime=600 \
		--name=uring --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=16 --rate_iops=300 \
		--name=mixed --ioengine=libaio --direct=1 --rw=randrw --bsrange=512-128k --iodepth=8 --rate_iops=60 \
		--name=large --ioengine=psync --direct=1 --rw=randwrite --bs=4m --rate_iops=1 \
		--name=buffered --ioengine=psync --rw=randwrite --bs=8k --fsync=32 --rate_iops=60 \
		--name=trim --ioengine=libaio --direct=1 --rw=randtrim --bs=64k --rate_iops=10 \
		>/dev/null 2>/tmp/fio.err
}

# written DISK: the load has written at least 64 granules since the cut
written() { [ "$(get "$1" dirty)" -ge 262144 ]; }

round() { # NUMBER SOURCE TARGET
	cbtctl cut "$1" "$2" && cbtctl copy "$2" "$3" && cbtctl commit "$1" "$2"
}

equality() { # SOURCE TARGET NAME
	ok "$3: attach" cbtctl attach "$1"
	load "$1" &
	fio=$!
	n=1
	bad=0
	while [ $n -le "$ROUNDS" ]; do
		# now and then an epoch fails and is put back
		if [ $((n % 7)) = 0 ]; then
			cbtctl cut $n "$1" && cbtctl abort $n "$1" || bad=1
		else
			round $n "$1" "$2" || bad=1
		fi
		wait_for 60 written "$1" || bad=1
		n=$((n + 1))
	done
	is "$3: $ROUNDS rounds" $bad 0
	ok "$3: the load was there all the time" kill -0 $fio
	kill -TERM $fio
	wait $fio
	sync
	ok "$3: last round" round $n "$1" "$2"
	echo 3 >/proc/sys/vm/drop_caches
	ok "$3: source and target are equal" cmp "$1" "$2"
	is "$3: no write escaped" "$(get "$1" escapes)" 0
	is "$3: nothing is under way" "$(get "$1" inflight)" 0
	diag "$3: late $(get "$1" late), parked $(get "$1" parked), map $(get "$1" map)"
	ok "$3: detach" cbtctl detach "$1"
}

ok "the module loads" insmod /lib/modules/blkcbt.ko
equality /dev/vda /dev/vdb virtio-blk
echo 0 131072 linear /dev/vdc 0 | dmsetup create lin
equality /dev/mapper/lin /dev/vdb dm-linear
ok "the module unloads" rmmod blkcbt
done_testing
