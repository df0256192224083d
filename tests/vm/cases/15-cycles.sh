# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: attaching, detaching, loading and unloading again and again under load.
# VM: disks=64M,64M,64M modules="dm_mod" timeout=600 long=7200 kernels=all env="CYCLES"
# VM: tools="fio dmsetup cmp"
. /lib/tap.sh

# attach/detach cycles, and a tenth as many of load/unload; CYCLES=1000 for the long run
: "${CYCLES:=30}"

load() {
	exec fio --filename="$1" --output-format=terse --time_based --runtime=36000 \
		--name=uring --ioengine=io_uring --direct=1 --rw=randrw --bs=4k --iodepth=16 \
		--name=large --ioengine=psync --direct=1 --rw=randwrite --bs=1m --rate_iops=5 >/dev/null 2>&1
}

cycle() { # EPOCH
	for disk in /dev/vda /dev/mapper/lin; do
		cbtctl attach $disk && cbtctl cut "$1" $disk || return 1
	done
	cbtctl abort "$1" /dev/vda && cbtctl detach /dev/vda && cbtctl detach /dev/mapper/lin --force
}

cycles() { # COUNT
	i=1
	while [ $i -le "$1" ]; do
		cycle $i || return 1
		i=$((i + 1))
	done
}

reload() {
	reloads=0
	while [ $reloads -lt $((CYCLES / 10 + 1)) ]; do
		insmod /lib/modules/blkcbt.ko && cycles 1 && rmmod blkcbt || return 1
		reloads=$((reloads + 1))
	done
}

echo 0 131072 linear /dev/vdb 0 | dmsetup create lin
load /dev/vda &
fio1=$!
load /dev/mapper/lin &
fio2=$!
ok "the module loads" insmod /lib/modules/blkcbt.ko
ok "$CYCLES times attach, cut, detach under load" cycles "$CYCLES"
ok "the module unloads under load" rmmod blkcbt
ok "$((CYCLES / 10 + 1)) times load and unload under load" reload
ok "the load on virtio-blk lives" kill -0 $fio1
ok "the load on dm lives" kill -0 $fio2

# After all that no mark is lost: epochs under load, then equal.
replicate() { # EPOCH SOURCE
	cbtctl cut "$1" "$2" && cbtctl copy "$2" /dev/vdc && cbtctl commit "$1" "$2"
}
ok "the module loads once more" insmod /lib/modules/blkcbt.ko
for disk in /dev/vda /dev/mapper/lin; do
	ok "$disk: attach" cbtctl attach $disk
	ok "$disk: three epochs under load" eval "replicate 1 $disk && replicate 2 $disk && replicate 3 $disk"
	if [ $disk = /dev/vda ]; then pid=$fio1; else pid=$fio2; fi
	kill $pid
	wait $pid
	ok "$disk: last epoch" replicate 4 $disk
	echo 3 >/proc/sys/vm/drop_caches
	ok "$disk: no mark is lost: equal" cmp $disk /dev/vdc
	ok "$disk: detach" cbtctl detach $disk
done
ok "and unloads" rmmod blkcbt
done_testing
