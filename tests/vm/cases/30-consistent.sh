# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: dependent writes across three disks; at every epoch the copies, read while writers overtake the reader, are of one instant.
# VM: disks=16M,16M,16M,16M,16M modules="dm_mod +null_blk" timeout=600 long=14400 kernels=all env="EPOCHS"
# VM: tools="dmsetup cmp" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

: "${EPOCHS:=12}"
# Requests, bios, requests on other queues; the order is that of the records.
disks="/dev/vda /dev/mapper/lin /dev/nullb0"
copies="/dev/vdc /dev/vdd /dev/vde"
epochs() {
	_bad=0
	while [ $N -lt "$EPOCHS" ]; do
		epoch || _bad=$((_bad + 1))
		[ $_bad -lt 5 ] || return 1
		goes_on 100 || return 1
	done
	[ $_bad = 0 ]
}

ok "null_blk" null_disk 0 16
echo 0 32768 linear /dev/vdb 0 | dmsetup create lin
ok "the module loads" insmod /lib/modules/blkcbt.ko
for disk in $disks; do ok "$disk: attach" cbtctl attach $disk; done
ok "the load runs" load $disks
ok "$EPOCHS epochs" epochs
is "violations" $violations 0
is "epochs that became fuzzy" $fuzzy 0
diag "$EPOCHS epochs, $violations violations; the last: $(cat /tmp/verdict)"
ok "the load was there all the time" kill -0 $LOAD
end_load
for disk in $disks; do
	ok "$disk: granules were preserved" test "$(get $disk preserves)" -gt 0
	is "$disk: nothing is held any more" "$(get $disk preserved)" 0
	is "$disk: no downgrade, no escape, nothing under way" "$(get $disk downgrades) $(get $disk escapes) $(get $disk inflight)" "0 0 0"
	diag "$disk: preserves $(get $disk preserves), held $(get $disk held), longest $(get $disk held_max_ns) ns"
done
is "each cut is in the histogram" "$(info holds_count)" "$N"
is "so are its sums" "$(cbtctl info | sed -n 's/^holds_buckets=//p' | tr ' ' '\n' | awk -F: '{ n += $2 } END { print n }')" "$N"
ok "its numbers fit" eval '[ "$(info holds_max_ns)" -le "$(info holds_total_ns)" ] && [ "$(info holds_p50_ns)" -le "$(info holds_p99_ns)" ]'
diag "holds: $(cbtctl info | grep holds_ | xargs)"

# What the judge says is not that all is well with everything.
point consistent $disks && copy_all && cbtctl commit $N $disks
ok "the writers have ended: all they wrote is there" depwrite check $STATE "$after" "$after" $copies
echo 3 >/proc/sys/vm/drop_caches
for pair in vda:vdc mapper/lin:vdd nullb0:vde; do ok "$pair: equal" cmp /dev/${pair%:*} /dev/${pair#*:}; done
dd if=/dev/zero of=/dev/vdd bs=4k seek=20 count=1 oflag=direct conv=notrunc
fails "a granule lost is seen" "violation: " depwrite check $STATE "$after" "$after" $copies
for disk in $disks; do ok "$disk: detach" cbtctl detach $disk; done
ok "the module unloads" rmmod blkcbt
done_testing
