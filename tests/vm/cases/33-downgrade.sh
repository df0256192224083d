# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: budget exhausted, a preserve read that fails or hangs, passthrough, a disk pulled, an agent killed: writers go on, nothing is lost, the point is not offered.
# VM: disks=16M,16M,16M,16M modules="dm_mod dm_delay sd_mod +scsi_debug" timeout=300 kernels=all
# VM: tools="fio dmsetup cmp" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

SCSI=/sys/bus/pseudo/drivers/scsi_debug

put() { dd if=/dev/urandom of="$1" bs=4k count="${3:-1}" seek="$2" oflag=direct conv=notrunc 2>/dev/null; }
listen() {
	cbtctl events 600 >/tmp/events 2>&1 &
	events=$!
	wait_for 10 grep -q listening /tmp/events
}

# lost NAME WORD DISK...: what a downgraded epoch of these disks is like
lost() {
	name=$1 word=$2
	shift 2
	for disk; do
		is "$name: $disk is fuzzy" "$(get $disk mode)" 0
		ok "$name: $disk says why" eval 'get $disk downgrade_reason | grep -i "$word"'
		fails "$name: the image of $disk gives errors" "Input/output error" cbtctl imgread $disk 0 4096
		ok "$name: $disk can still be enumerated" cbtctl extents $disk
	done
	ok "$name: an event says so" wait_for 30 grep -qx event=6 /tmp/events
	ok "$name: and why" wait_for 30 grep -qi "downgrade_reason=.*$word" /tmp/events
	kill $events
}

# whole NAME SOURCE TARGET: a fuzzy copy, then a consistent one without load, are all there is
whole() {
	ok "$1: the epoch is copied and committed" eval "cbtctl copy $2 $3 && cbtctl commit $N $2"
	is "$1: nothing is held any more" "$(get $2 preserved)" 0
	ok "$1: the next one is consistent" eval "point consistent $2 && cbtctl copy $2 $3 --image && [ \$(get $2 mode) = 1 ] && cbtctl commit \$N $2"
	echo 3 >/proc/sys/vm/drop_caches
	ok "$1: equal" cmp $2 $3
}

ok "the module loads" insmod /lib/modules/blkcbt.ko
modprobe scsi_debug dev_size_mb=16 max_queue=32
wait_for 20 test -b /dev/sda
for disk in /dev/vda /dev/vdb /dev/sda; do ok "$disk: attach" cbtctl attach $disk; done

# Who must not wait, where somebody has to.
point consistent /dev/vda
fails "a write that must not wait for a preserve" "Resource temporarily unavailable" cbtctl nowait /dev/vda 81920
put /dev/vda 20
ok "it may when that is done" cbtctl nowait /dev/vda 81920
is "neither is a downgrade" "$(get /dev/vda mode) $(get /dev/vda downgrades)" "1 0"
cbtctl abort $N /dev/vda

# Budget: of all disks of the cut together.
listen
ok "budget: cut of two disks" cbtctl cut $((N + 1)) /dev/vda /dev/vdb --mode consistent --budget 256k
N=$((N + 1))
is "budget: it is what was asked for" "$(get /dev/vda budget)" 262144
put /dev/vda 100 20 && put /dev/vdb 100 20
is "budget: in it" "$(get /dev/vda preserved) $(get /dev/vdb preserved) $(get /dev/vda mode)" "81920 81920 1"
ok "budget: a writer beyond it goes on" put /dev/vda 200 64
lost budget budget /dev/vda /dev/vdb
is "budget: counted on each" "$(get /dev/vda downgrades) $(get /dev/vdb downgrades)" "1 1"
cbtctl abort $N /dev/vdb
whole budget /dev/vda /dev/vdc
listen
ok "no budget at all: cut" cbtctl cut $((N + 1)) /dev/vda --mode snapshot --budget 4k
N=$((N + 1))
ok "no budget at all: a writer goes on" put /dev/vda 5
lost "no budget at all" budget /dev/vda
cbtctl commit $N /dev/vda

# A read that fails. The disk takes writes there, and gives medium errors to readers.
point consistent /dev/sda
listen
echo 2 >$SCSI/opts
ok "read error: a writer elsewhere" put /dev/sda 10
is "read error: that is preserved" "$(get /dev/sda mode) $(get /dev/sda preserved)" "1 4096"
ok "read error: the writer goes on" put /dev/sda 582
echo 0 >$SCSI/opts
lost "read error" read /dev/sda
whole "read error" /dev/sda /dev/vdc

# A read that never ends, or not soon enough.
echo "0 32768 delay /dev/vdd 0 60000 /dev/vdd 0 0" | dmsetup create slow
cbtctl attach /dev/mapper/slow
point consistent /dev/mapper/slow
listen
from=$(awk '{ print int($1) }' /proc/uptime)
ok "read hangs: the writer goes on" put /dev/mapper/slow 10
took=$(($(awk '{ print int($1) }' /proc/uptime) - from))
ok "read hangs: within its bound ($took s)" [ $took -le $((8 * ${VM_SLOW:-1})) ]
ok "read hangs: the next one at once" put /dev/mapper/slow 11
lost "read hangs" "read" /dev/mapper/slow
ok "read hangs: abort" cbtctl abort $N /dev/mapper/slow
dmsetup suspend --noflush slow && echo "0 32768 linear /dev/vdd 0" | dmsetup load slow && dmsetup resume slow
ok "read hangs: detach" cbtctl detach /dev/mapper/slow
ok "read hangs: the disk can be removed" wait_for $((70 * ${VM_SLOW:-1})) dmsetup remove slow

# Past the gate.
point consistent /dev/sda
listen
cbtctl sg /dev/sda 120000002400 in 36
is "SG_IO that reads: nothing" "$(get /dev/sda mode)" 1
ok "SG_IO that writes" cbtctl sg /dev/sda 2a000000400000000800 out 4096
lost "SG_IO" "SG_IO" /dev/sda
whole "SG_IO" /dev/sda /dev/vdc

# An agent that dies at some step. The next one finds the epoch open, and aborts it.
disks="/dev/vda /dev/vdb" copies="/dev/vdc /dev/vdd"
for disk in $disks $copies; do dd if=/dev/zero of=$disk bs=1M count=16 oflag=direct 2>/dev/null; done
load $disks
died() { # that nothing is left behind, and the next epoch is good
	[ "$(get /dev/vda state)" = 1 ] && cbtctl abort $N $disks &&
		[ "$(get /dev/vda preserved) $(get /dev/vdb preserved)" = "0 0" ] && epoch
}
point consistent $disks
goes_on 100
ok "killed after the cut" died
point consistent $disks
goes_on 100
copy_all --stop-after 20
ok "killed while copying" died
point consistent $disks
goes_on 100
copy_all
ok "killed before the commit" died
point consistent $disks
copy_all --no-release
is "killed before the commit, nothing released" "$(get /dev/vda mode)" 1
ok "and aborted" died
is "violations" $violations 0
end_load
epoch
echo 3 >/proc/sys/vm/drop_caches
ok "equal at the end" eval 'cmp /dev/vda /dev/vdc && cmp /dev/vdb /dev/vdd'

# A disk pulled out of an open epoch of two.
cbtctl detach /dev/sda
cbtctl attach /dev/sda
dev=$(cat /sys/block/sda/dev)
fio --output=/tmp/fio.out --name=a --filename=/dev/sda --size=8m --direct=1 --rw=randwrite --bs=4k --rate_iops=200 --time_based --runtime=300 \
	--name=b --filename=/dev/vda --direct=1 --rw=randwrite --bs=4k --rate_iops=200 --time_based --runtime=300 --continue_on_error=all >/dev/null 2>&1 &
fio=$!
cbtctl mark /dev/vda
point consistent /dev/vda /dev/sda
ok "pulled: granules are preserved" wait_for 30 eval '[ "$(get /dev/sda preserved)" -gt 0 ] && [ "$(get /dev/vda preserved)" -gt 0 ]'
echo 1 >/sys/block/sda/device/delete
ok "pulled: it is gone" wait_for 20 eval '! [ -e /sys/block/sda ]'
fails "pulled: its image gives errors" "" cbtctl imgread "$dev" 12582912 4096
dirty=$(get /dev/vda dirty)
ok "pulled: writers of the other go on" wait_for 30 eval '[ "$(get /dev/vda dirty)" -gt "$dirty" ]'
ok "pulled: abort" cbtctl abort $N /dev/vda "$dev"
is "pulled: nothing is left" "$(get /dev/vda preserved) $(get "$dev" preserved)" "0 0"
ok "pulled: detach" cbtctl detach "$dev"
ok "pulled: the other is cut" point consistent /dev/vda
kill -TERM $fio
wait $fio
cbtctl commit $N /dev/vda
for disk in /dev/vda /dev/vdb; do cbtctl detach $disk; done
ok "the module unloads" rmmod blkcbt
done_testing
