# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: no memory for maps and shims loses nothing; a gate that misses writes is caught, and without the auditor they are lost.
# VM: disks=64M,64M,64M modules="dm_mod" timeout=600 kernels=all
# VM: tools="fio dmsetup cmp"
. /lib/tap.sh

: "${ROUNDS:=6}"
N=0

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }
fault() { echo "$2" >"/sys/module/blkcbt/parameters/fault_$1"; }

# written DISK: the load has written at least 64 granules since the cut
written() { [ "$(get "$1" dirty)" -ge 262144 ]; }

# rounds SOURCE TARGET: under load, then a last one without
rounds() {
	fio --filename="$1" --output-format=terse --time_based --runtime=300 \
		--name=uring --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=16 --rate_iops=300 \
		--name=mixed --ioengine=libaio --direct=1 --rw=randwrite --bsrange=512-128k --iodepth=8 --rate_iops=60 \
		--name=trim --ioengine=libaio --direct=1 --rw=randtrim --bs=64k --rate_iops=10 >/dev/null 2>&1 &
	fio=$!
	i=0
	while [ $i -lt "$ROUNDS" ]; do
		N=$((N + 1))
		cbtctl cut $N "$1" && cbtctl copy "$1" "$2" && cbtctl commit $N "$1" || return 1
		wait_for 60 written "$1" || return 1
		i=$((i + 1))
	done
	kill -0 $fio || return 1
	kill -TERM $fio
	wait $fio
	sync
	N=$((N + 1))
	cbtctl cut $N "$1" && cbtctl copy "$1" "$2" && cbtctl commit $N "$1" || return 1
	echo 3 >/proc/sys/vm/drop_caches
}

if ! [ -e /lib/modules/blkcbt-faults.ko ]; then
	skip_all "no fault-injection build of the module"
fi
ok "the fault-injection build loads" insmod /lib/modules/blkcbt-faults.ko
ok "and says so" sh -c 'cbtctl info | grep -qx faults=1 && dmesg | grep -q "FAULT INJECTION"'
echo 0 131072 linear /dev/vdc 0 | dmsetup create lin

fault page_every 2
for disk in /dev/vda /dev/mapper/lin; do
	cbtctl attach $disk
	ok "$disk, no memory for map pages: rounds" rounds $disk /dev/vdb
	ok "$disk, no memory for map pages: equal" cmp $disk /dev/vdb
	ok "$disk, no memory for map pages: counted" test "$(get $disk fallbacks)" -gt 0
	cbtctl detach $disk
done
fault page_every 0

for every in 3 1; do
	fault shim_every $every
	cbtctl attach /dev/mapper/lin
	ok "one shim in $every missing: rounds" rounds /dev/mapper/lin /dev/vdb
	ok "one shim in $every missing: equal" cmp /dev/mapper/lin /dev/vdb
	ok "one shim in $every missing: bios were parked" test "$(get /dev/mapper/lin parked)" -gt 0
	is "one shim in $every missing: nothing escaped" "$(get /dev/mapper/lin escapes)" 0
	is "one shim in $every missing: nothing is under way" "$(get /dev/mapper/lin inflight)" 0
	fault shim_every 0
	cbtctl detach /dev/mapper/lin
done

fault gate_skip 5
for disk in /dev/vda /dev/mapper/lin; do
	cbtctl attach $disk
	cbtctl events 600 >/tmp/events 2>&1 &
	events=$!
	wait_for 10 grep -q listening /tmp/events
	ok "$disk, a gate that misses writes: rounds" rounds $disk /dev/vdb
	ok "$disk, a gate that misses writes: caught" test "$(get $disk escapes)" -gt 0
	ok "$disk, a gate that misses writes: equal all the same" cmp $disk /dev/vdb
	ok "$disk, a gate that misses writes: an event says so" wait_for 30 grep -qx event=3 /tmp/events
	kill $events
	cbtctl detach $disk
done
fault audit_blind 1
cbtctl attach /dev/vda
ok "without the auditor: rounds" rounds /dev/vda /dev/vdb
fails "without the auditor they are lost: this test can tell" "differ" cmp /dev/vda /dev/vdb
cbtctl detach /dev/vda
dmsetup remove lin
ok "the module unloads" rmmod blkcbt
done_testing
