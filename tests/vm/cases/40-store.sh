# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: with a store, what is dirty survives unload, reboot (exactly) and power cut (extents in use besides): an incremental catch-up gives equality.
# VM: disks=256M,256M,8M,1M modules="dm_mod" timeout=400 kernels=all boots=5
# VM: tools="fio cmp" files="tests/vm/store.sh:/lib/store.sh"
. /lib/tap.sh
. /lib/store.sh

attach() { cbtctl attach /dev/vda --store /dev/vdc --identity disk-a "$@"; }
load() {
	exec fio --filename=/dev/vda --output-format=terse --time_based --runtime=600 \
		--name=hot --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=16 --size=32m --rate_iops=300 \
		--name=mixed --ioengine=libaio --direct=1 --rw=randrw --bsrange=512-128k --blockalign=512 --iodepth=8 --rate_iops=60 \
		--name=buffered --ioengine=psync --rw=randwrite --bs=8k --fsync=32 --offset=128m --size=64m --rate_iops=60 \
		--name=trim --ioengine=libaio --direct=1 --rw=randtrim --bs=64k --rate_iops=10 \
		>/dev/null 2>/tmp/fio.err
}
hot_over() { [ "$(get store_hot)" -gt "$1" ]; }
risk_below() { [ "$(get store_risk)" -lt "$1" ]; }

# What is dirty now, to this file; not in a subshell, for the epoch is counted
list() { # FILE
	N=$((N + 1))
	cbtctl cut $N /dev/vda >/dev/null && cbtctl extents /dev/vda >"$1" && cbtctl abort $N /dev/vda
}
catch_up() { # NAME
	is "$1: the store is trusted" "$(get store_trusted) $(get store_reason)" "1 "
	diag "$1: dirty $(get dirty) of $(get size), hot $(get store_hot), generation $(get store_generation)"
	ok "$1: it is no full resync" test "$(get dirty)" -lt "$(($(get size) / 2))"
	ok "$1: catch-up" round
	ok "$1: equal" equal
}
# Writes, then some epochs, all under a load that is still there in the end.
under_load() {
	load &
	fio=$!
	i=0
	while [ $i -lt 4 ]; do
		wait_for 60 written && round || return 1
		i=$((i + 1))
	done
	wait_for 60 written && hot_over 0 && kill -0 $fio
}

module=/lib/modules/blkcbt.ko
[ "$BOOT" != 4 ] || [ ! -e /lib/modules/blkcbt-faults.ko ] || module=/lib/modules/blkcbt-faults.ko
# how soon what is not written any more is retired
pace() { echo "$1" >/sys/module/blkcbt/parameters/store_tick_ms; }

ok "boot $BOOT: the module loads" insmod $module store_tick_ms=200
case $BOOT in
1)
	ok "attached with an empty store" attach
	is "it has none, and says why" "$(get store_state) $(get store_reason)" "0 there is no store in it"
	cbtctl detach /dev/vda
	fails "a store that is too small" "it needs" cbtctl store-format /dev/vda --store /dev/vdd --identity disk-a --extent 4k
	ok "a store is made" cbtctl store-format /dev/vda --store /dev/vdc --identity disk-a --extent 1M
	ok "attached with a new store" attach
	is "it is kept" "$(get store_state)" 2
	is "it is not trusted yet" "$(get store_trusted) $(get store_reason)" " not every write was recorded: it is new"
	is "everything is dirty" "$(get dirty)" "$(get size)"
	fails "it is nobody else's" "it is in use" cbtctl store-format /dev/vda --store /dev/vdc --identity disk-a
	ok "first copy" round
	ok "what was committed is forgotten by the store" wait_for 30 risk_below 1048577
	pace 5000
	put 5
	put 30000 3
	is "two extents are in use" "$(get store_hot)" 2
	ok "two writes waited" test "$(get store_parked)" -ge 2
	is "a power cut would cost them" "$(get store_risk)" 2097152
	pace 200
	ok "they are retired" wait_for 30 hot_is 0
	ok "then it would cost what is dirty" wait_for 30 risk_is 16384
	fails "a write that must not wait into a cold extent" "temporarily unavailable" cbtctl nowait /dev/vda 67108864
	pace 5000
	put 5
	ok "the same into one in use" cbtctl nowait /dev/vda 24576
	pace 200

	list /tmp/before
	ok "unload" sh -c 'cbtctl detach /dev/vda && rmmod blkcbt'
	ok "load" insmod $module store_tick_ms=200
	attach
	is "after an unload: trusted" "$(get store_trusted) $(get store_reason)" "1 "
	list /tmp/after
	is "after an unload: exact" "$(xargs </tmp/after)" "20480 8192 122880000 12288"
	ok "after an unload: as before" cmp /tmp/before /tmp/after
	ok "after an unload: catch-up" round
	ok "after an unload: equal" equal
	cbtctl detach /dev/vda
	put 100
	attach
	is "written while not tracked: not trusted" "$(get store_trusted) $(get store_reason)" " the disk was written while it was not tracked"
	is "everything is dirty again" "$(get dirty)" "$(get size)"
	ok "copied again" round
	cbtctl detach /dev/vda
	attach --generation 1000
	is "older than it must be: not trusted" "$(get store_trusted) $(get store_reason | cut -c1-24)" " the store is an old copy"
	round

	# awaited: nothing is cut, nothing forgotten
	cbtctl detach /dev/vda
	cbtctl attach /dev/vda --await
	is "awaited" "$(get store_state) $(get dirty)" "1 0"
	put 77
	fails "nothing can be cut" "awaits its store" cbtctl cut 9000 /dev/vda
	ok "it comes" cbtctl store-add /dev/vda --store /dev/vdc --identity disk-a
	list /tmp/now
	is "it is trusted, and what was written meanwhile is marked" "$(get store_trusted) $(cat /tmp/now)" "1 315392 4096"
	fails "there is one" "it has one" cbtctl store-add /dev/vda --store /dev/vdc --identity disk-a
	put 9999 100
	put 20000
	list /tmp/now
	cat /tmp/now >/dev/vdd
	next_boot clean
	;;
2)
	attach
	is "after a clean reboot: trusted" "$(get store_trusted) $(get store_reason)" "1 "
	list /tmp/now
	is "after a clean reboot: exact" "$(xargs </tmp/now)" "315392 4096 40955904 409600 81920000 4096"
	is "after a clean reboot: as before" "$(cat /tmp/now)" "$(tr -d '\000' </dev/vdd)"
	ok "after a clean reboot: it knows what was committed" test "$(get committed)" -ge 1000
	catch_up "after a clean reboot"
	ok "load" under_load
	next_boot cut
	;;
3)
	attach
	catch_up "after a power cut"
	ok "load" under_load
	N=$((N + 1))
	ok "an epoch is open" cbtctl cut $N /dev/vda
	ok "and the next one goes on" wait_for 60 written
	next_boot cut
	;;
4)
	attach
	catch_up "after a power cut with an open epoch"
	[ $module = /lib/modules/blkcbt-faults.ko ] || skip_all "no fault-injection build of the module"
	ok "all is retired" wait_for 60 hot_is 0
	echo 1 >/sys/module/blkcbt/parameters/fault_store_skip
	put 50000 16
	next_boot cut
	;;
5)
	attach
	is "a gate that lets a write go on before its intent is durable: trusted" "$(get store_trusted)" 1
	ok "catch-up" round
	echo 3 >/proc/sys/vm/drop_caches
	fails "and it is lost: this test can tell" "differ" cmp /dev/vda /dev/vdb
	ok "the store is dropped" cbtctl store-drop /dev/vda
	is "it has none" "$(get store_state)" 0
	ok "detach" cbtctl detach /dev/vda
	ok "the module unloads" rmmod blkcbt
	;;
esac
done_testing
