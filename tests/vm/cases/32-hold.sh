# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: a hold makes writes wait and nothing else, ends by release, deadline or the death of its owner; a cut within is exact.
# VM: disks=16M,16M,16M,16M modules="dm_mod +null_blk" timeout=300 kernels=all
# VM: tools="fio dmsetup cmp" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

mkfifo /tmp/go

# hold MS DISK...: held from here on; its number is $id
hold() {
	rm -f /tmp/hold
	cbtctl hold-writers "$@" </tmp/go >/tmp/hold 2>&1 &
	holder=$!
	exec 9>/tmp/go
	wait_for 10 grep -q hold_id= /tmp/hold || return 1
	id=$(sed -n 's/^hold_id=//p' /tmp/hold)
}
# let_go: by its owner, who says "released" in /tmp/hold. What the writers inherit must not keep its stdin open.
let_go() {
	exec 9>&-
	wait $holder
}

# write DISK GRANULE: in the background, $writer
write() {
	dd if=/dev/urandom of="$1" bs=4k count=1 seek="$2" oflag=direct conv=notrunc 2>/dev/null 9>&- &
	writer=$!
}
waits() { # that it goes on waiting; half a second
	usleep 500000
	kill -0 $writer 2>/dev/null
}
ended() { ! kill -0 $writer 2>/dev/null; }
milliseconds() { awk '{ print int($1 * 1000) }' /proc/uptime; }

one() { # DISK
	ok "$1: hold" hold 5000 $1
	write $1 3
	ok "$1: a write waits" waits
	write $1 4
	ok "$1: and another" waits
	ok "$1: reads go on" dd if=$1 of=/dev/null bs=4k count=100 iflag=direct
	fails "$1: who must not wait is told so" "Resource temporarily unavailable" cbtctl nowait $1 40960
	fails "$1: a second hold" "errno 16" cbtctl hold-writers 100 $1
	fails "$1: a cut without its number" "errno 16" cbtctl cut $((N + 1)) $1
	ok "$1: a cut of it" cbtctl cut $((N + 1)) $1 --mode consistent --hold "$id"
	N=$((N + 1))
	ok "$1: the hold goes on" waits
	is "$1: nothing is dirty after the cut" "$(get $1 dirty)" 0
	ok "$1: release" let_go
	ok "$1: said so" grep -q released /tmp/hold
	ok "$1: the writes end" wait_for 10 ended
	is "$1: they belong to the next epoch" "$(get $1 dirty)" 8192
	ok "$1: two writes were held" [ "$(get $1 held)" -ge 2 ]
	ok "$1: for half a second and more" [ "$(get $1 held_max_ns)" -ge 500000000 ]
	ok "$1: now nobody is told to come again" cbtctl nowait $1 40960
	cbtctl commit $N $1

	ok "$1: a hold of 700 ms" hold 700 $1
	_from=$(milliseconds)
	write $1 5
	ok "$1: it ends by itself" wait_for 10 ended
	_took=$(($(milliseconds) - _from))
	ok "$1: in time ($_took ms)" [ $_took -lt $((3000 * ${VM_SLOW:-1})) ]
	fails "$1: a cut of it comes too late" "errno 110" cbtctl cut $((N + 1)) $1 --hold "$id"
	fails "$1: so does a release" "errno 110" cbtctl release "$id"
	fails "$1: its owner is told" "errno 110" eval 'let_go; cat /tmp/hold; false'
	ok "$1: a cut without it" clean $1

	ok "$1: a hold whose owner is killed" hold 5000 $1
	write $1 6
	ok "$1: a write waits" waits
	_from=$(milliseconds)
	kill -KILL $holder
	ok "$1: it ends at once" wait_for 20 ended
	_took=$(($(milliseconds) - _from))
	ok "$1: not by the deadline ($_took ms)" [ $_took -lt $((3000 * ${VM_SLOW:-1})) ]
	exec 9>&-
	wait $holder 2>/dev/null
	ok "$1: held again" hold 5000 $1
	ok "$1: released by another" cbtctl release "$id"
	write $1 7
	ok "$1: and nothing waits" wait_for 20 ended
	let_go
}

ok "null_blk that polls" modprobe null_blk memory_backed=1 gb=1 poll_queues=1
echo 0 32768 linear /dev/vdb 0 | dmsetup create lin
ok "the module loads" insmod /lib/modules/blkcbt.ko
for disk in /dev/vda /dev/mapper/lin /dev/nullb0; do
	cbtctl attach $disk && N=0 && clean $disk
	one $disk
done

fails "a deadline of nothing" "errno 22" cbtctl hold-writers 0 /dev/vda
fails "a deadline too long" "errno 22" cbtctl hold-writers 5001 /dev/vda
fails "a disk that is not tracked" "errno 2:" cbtctl hold-writers 100 /dev/vdd
fails "no such hold" "errno 110" cbtctl release 12345
ok "hold of two" hold 5000 /dev/vda /dev/nullb0
fails "a cut of other disks" "errno 22" cbtctl cut 100 /dev/vda --hold "$id"
fails "and of more" "errno 22" cbtctl cut 100 /dev/vda /dev/nullb0 /dev/mapper/lin --hold "$id"
write /dev/mapper/lin 9
ok "a disk that is not held" wait_for 20 ended
let_go

# Polled writes: held, and complete. (Written once before: null_blk may sleep for new pages where it polls.)
dd if=/dev/zero of=/dev/nullb0 bs=1M count=1 oflag=direct
ok "polled: hold" hold 5000 /dev/nullb0
fio --name=p --filename=/dev/nullb0 --rw=randwrite --bs=4k --size=1M --ioengine=io_uring --hipri --direct=1 >/tmp/fio.out 2>&1 9>&- &
writer=$!
ok "polled: they wait" waits
let_go
ok "polled: and complete" wait $writer

# A disk and the one below it, both tracked and both held.
cbtctl attach /dev/vdb
ok "stacked: hold" hold 5000 /dev/mapper/lin /dev/vdb
write /dev/mapper/lin 10
ok "stacked: a write waits" waits
let_go
ok "stacked: it ends" wait_for 10 ended
cbtctl cut 200 /dev/mapper/lin /dev/vdb --mode consistent
_above=$(get /dev/mapper/lin preserves)
write /dev/mapper/lin 10
ok "stacked: a write to an epoch of both ends" wait_for 10 ended
is "stacked: preserved above and below" "$(get /dev/mapper/lin preserves) $(get /dev/vdb preserves)" "$((_above + 1)) 1"
cbtctl commit 200 /dev/mapper/lin /dev/vdb
cbtctl detach /dev/vdb

# Held, cut, released: one instant for the writers that were held.
N=300
disks="/dev/vda /dev/mapper/lin"
for disk in $disks; do dd if=/dev/zero of=$disk bs=1M count=16 oflag=direct 2>/dev/null; done
load $disks
two_step() {
	hold 5000 $disks || return 1
	before=$(depwrite now)
	N=$((N + 1))
	cbtctl cut $N $disks --mode consistent --hold $id >/tmp/cut || return 1
	after=$(depwrite now)
	cut_ns=$(sed -n 's/^cut_ns=//p' /tmp/cut)
	let_go || return 1
	goes_on 100 || return 1
	cbtctl copy /dev/vda /dev/vdc --image --order random && cbtctl copy /dev/mapper/lin /dev/vdd --image || return 1
	[ "$(get /dev/vda mode) $(get /dev/mapper/lin mode)" = "1 1" ] && cbtctl commit $N $disks && judge /dev/vdc /dev/vdd
}
for i in 1 2 3; do ok "hold, cut, release, $i" two_step; done
end_load
for disk in /dev/vda /dev/mapper/lin /dev/nullb0; do ok "$disk: detach" cbtctl detach $disk; done
ok "the module unloads" rmmod blkcbt
done_testing
