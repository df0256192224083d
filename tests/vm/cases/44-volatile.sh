# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: what a disk has in a volatile cache only, and the target already, is sent again after a power cut that takes it back.
# VM: disks=64M,64M,8M cached=vda tools=cmp files="tests/vm/store.sh:/lib/store.sh" timeout=200 boots=5 kernels=6.1
. /lib/tap.sh
. /lib/store.sh

attach() { cbtctl attach /dev/vda --store /dev/vdc --identity disk-a; }
# Written without a flush, copied, committed, retired; then the power goes.
unflushed() {
	put 1000 100
	ok "copied and committed" round
	ok "retired" wait_for 60 retired
	is "nothing would be sent again" "$(get store_risk)" 0
	power_cut_in 0
	while :; do sleep 60; done
}

module=/lib/modules/blkcbt.ko
[ "$BOOT" != 4 ] || module=/lib/modules/blkcbt-faults.ko
ok "boot $BOOT: the module loads" insmod $module store_tick_ms=200
case $BOOT in
1)
	ok "a store" cbtctl store-format /dev/vda --store /dev/vdc --identity disk-a --extent 256k
	ok "attach" attach
	ok "first copy" round
	ok "retired" wait_for 60 retired
	unflushed
	;;
2)
	ok "attach" attach
	is "the store is believed" "$(get store_trusted)" 1
	ok "catch-up" round
	ok "every block equal" equal
	next_boot clean
	;;
3) next_boot clean ;;
4)
	ok "attach" attach
	ok "catch-up" round
	echo 1 >/sys/module/blkcbt/parameters/fault_store_flush
	unflushed
	;;
5)
	ok "attach" attach
	ok "catch-up" round
	fails "extents retired without a flush: it is lost, this test can tell" "differ" equal
	;;
esac
done_testing
