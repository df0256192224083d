# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: a write that hangs for longer than the store waits: nothing is retired under it, a detach does not wait for it and saves nothing, and the disk is freed once it has come back.
# VM: disks=64M,64M,8M modules="dm_mod" timeout=200 kernels=all
# VM: tools="dmsetup cmp" files="tests/vm/store.sh:/lib/store.sh"
# shellcheck disable=SC2034  # for store.sh
DISK=/dev/mapper/t
. /lib/tap.sh
. /lib/store.sh

under_way() { [ "$(get inflight)" -gt 0 ]; }
store_hangs() { cat /proc/[0-9]*/stack 2>/dev/null | grep -q blkcbt_store_batch_end; }
hang() {
	dmsetup suspend --noflush t
	put "$1" &
	hung=$!
	wait_for 10 under_way
}
released() {
	dmsetup resume t
	wait "$hung"
}

echo 0 131072 linear /dev/vda 0 | dmsetup create t
echo 0 16384 linear /dev/vdc 0 | dmsetup create s
# dm does not count its writes by default on 6.1
ok "writes are counted" sh -c "echo 1 >/sys/block/dm-0/queue/iostats"
ok "the module loads" insmod /lib/modules/blkcbt.ko store_tick_ms=200
ok "a store" cbtctl store-format /dev/mapper/t --store /dev/mapper/s --identity a --extent 1M
ok "attach" cbtctl attach /dev/mapper/t --store /dev/mapper/s --identity a
ok "first copy" round
ok "at rest" wait_for 20 retired
seen() { while cbtctl get $DISK | sed -n 's/^store_hot=//p; s/^store_risk=//p' | xargs >>/tmp/seen; do usleep 50000; done; }
taken_back() { cut -d ' ' -f 1 /tmp/seen | uniq | tr '\n' ' ' | grep -q "1 0 1"; }
ok "a write hangs" hang 100
seen &
seen=$!
ok "its extent is to be retired, and is in use again, for the write has not come back" wait_for 40 taken_back ||
	diag "extents in use and bytes at risk: $(uniq /tmp/seen | tr '\n' ';')"
kill $seen
wait $seen
is "a power cut would cost it all the time" "$(sed -n '/^[01] / { s/.* //; p; }' /tmp/seen | sort -u | xargs)" 1048576
is "the store is kept" "$(get store_state)" 2
ok "the write comes back" released
ok "then it is retired" wait_for 20 hot_is 0
is "its granule is dirty" "$(get dirty)" 4096
ok "a power cut would cost no more" wait_for 20 risk_is 4096
ok "equal" eval 'round && equal'

# The store's own disk hangs when it is told that an extent is not in use any more.
echo 5000 >/sys/module/blkcbt/parameters/store_tick_ms
put 9000
is "an extent is in use" "$(get store_hot)" 1
dmsetup suspend --noflush s
echo 200 >/sys/module/blkcbt/parameters/store_tick_ms
ok "what the store says of it is under way, and hangs" wait_for 40 store_hangs
is "it is not in use any more, and a power cut would cost it" "$(get store_hot) $(get store_risk)" "0 1048576"
dmsetup resume s
ok "once it is written, what is dirty" wait_for 20 risk_is 4096
ok "equal after it" eval 'round && equal'

# into an extent in use: nothing but its count keeps the disk
echo 60000 >/sys/module/blkcbt/parameters/store_tick_ms
put 5001
ok "a write hangs again" hang 5000
ok "a detach does not wait for it" cbtctl detach /dev/mapper/t
ok "the log says that nothing is saved" sh -c 'dmesg | grep "its store is not saved: writes are under way"'
rmmod blkcbt &
unload=$!
waits_for_disk() { grep -q blkcbt_disks_wait "/proc/$unload/stack"; }
ok "the disk stays until the write has come back, and the module with it" wait_for 20 waits_for_disk
ok "it comes back" released
ok "the disk is freed, and the module goes" wait "$unload"
ok "the module loads" insmod /lib/modules/blkcbt.ko store_tick_ms=200
ok "attached again" cbtctl attach /dev/mapper/t --store /dev/mapper/s --identity a
is "the store is not believed" "$(get store_trusted) $(get dirty)" " 67108864"
ok "the reason" sh -c 'cbtctl get /dev/mapper/t | grep "^store_reason=the disk was written while it was not tracked"'
ok "equal again" eval 'round && equal'
ok "detach" cbtctl detach /dev/mapper/t
ok "the module unloads" rmmod blkcbt
dmsetup remove t
dmsetup remove s
done_testing
