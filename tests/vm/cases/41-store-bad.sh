# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: a store that is foreign, torn, cut short, on a file system that moves blocks, failing or hanging: writes go on, the reason is told, nothing is believed.
# VM: disks=64M,64M,8M modules="dm_mod dm_flakey" timeout=300 kernels=all
# VM: tools="fio dmsetup cmp blockdev" files="tests/vm/store.sh:/lib/store.sh"
. /lib/tap.sh
. /lib/store.sh

state_is() { [ "$(get store_state)" = "$1" ]; }
flush() { blockdev --flushbufs /dev/vdc; }
told() { get store_reason | grep -qF -e "$1"; }

# A store that was saved, to be damaged in ways of its own.
fresh() {
	cbtctl store-format /dev/vda --store /dev/vdc --identity disk-a --extent 1M &&
		cbtctl attach /dev/vda --store /dev/vdc --identity disk-a >/dev/null && N=$((N + 1)) &&
		cbtctl cut $N /dev/vda && cbtctl commit $N /dev/vda && cbtctl detach /dev/vda
}
overwrite() { # BLOCK: 100 bytes in the middle of this block of the store
	dd if=/dev/urandom of=/dev/vdc bs=1 seek=$(($1 * 4096 + 2000)) count=100 conv=notrunc,fsync
}
# The disk is attached whatever its store is like; then everything is dirty.
refused() { # NAME REASON [DEVICE [IDENTITY]]
	flush
	ok "$1: attached all the same" cbtctl attach /dev/vda --store "${3:-/dev/vdc}" --identity "${4:-disk-a}"
	is "$1: everything is dirty" "$(get dirty)" "$(get size)"
	is "$1: not trusted" "$(get store_trusted)" ""
	ok "$1: the reason is told" told "$2"
	diag "$(get store_reason)"
	ok "$1: a write goes on" put 3
	cbtctl detach /dev/vda
}

ok "the module loads" insmod /lib/modules/blkcbt.ko store_tick_ms=200
ok "a store" fresh
cbtctl attach /dev/vda --store /dev/vdc --identity disk-a >/dev/null
is "it is good before it is damaged" "$(get store_trusted) $(get dirty)" "1 0"
cbtctl detach /dev/vda

refused "another disk's" "it is the store of another disk" /dev/vdc disk-b
fresh
overwrite 0
flush
cbtctl attach /dev/vda --store /dev/vdc --identity disk-a >/dev/null
is "one superblock torn: the other one counts" "$(get store_trusted) $(get dirty)" "1 0"
cbtctl detach /dev/vda
fresh
overwrite 0
overwrite 1
refused "both superblocks torn" "no copy of the superblock is whole"
fresh
# the only intent page, both slots: what it covers is dirty
overwrite 2
overwrite 3
flush
cbtctl attach /dev/vda --store /dev/vdc --identity disk-a >/dev/null
is "no intent page is whole: everything is dirty" "$(get dirty)" "$(get size)"
cbtctl detach /dev/vda
dd if=/dev/zero of=/dev/vdc bs=4k count=2 conv=fsync
refused "no store" "there is no store in it"
fresh
echo 0 16 linear /dev/vdc 0 | dmsetup create short
refused "cut short" "blocks of 4096 bytes and needs" /dev/mapper/short
dmsetup remove short
fresh
ok "the granule is another one" cbtctl attach /dev/vda 64k --store /dev/vdc --identity disk-a
ok "and it says so" told "granules of"
cbtctl detach /dev/vda
dd if=/dev/zero of=/tmp/file bs=1M count=1
fails "a file on tmpfs" "cannot be a store" cbtctl store-format /dev/vda --store /tmp/file --identity disk-a
fails "no identity" "no identity" cbtctl store-format /dev/vda --store /dev/vdc
fails "no disk" "not tracked" cbtctl store-add /dev/vda --store /dev/vdc --identity disk-a
ok "attached without one" cbtctl attach /dev/vda
fails "a store comes too late" "attach it with the store" cbtctl store-add /dev/vda --store /dev/vdc --identity disk-a
cbtctl detach /dev/vda

# The device fails while it is in use.
echo 0 16384 linear /dev/vdc 0 | dmsetup create st
ok "a store on a device that is going to fail" cbtctl store-format /dev/vda --store /dev/mapper/st --identity disk-a --extent 1M
cbtctl attach /dev/vda --store /dev/mapper/st --identity disk-a >/dev/null
ok "first copy" round
cbtctl events 600 >/tmp/events 2>&1 &
events=$!
wait_for 10 grep -q listening /tmp/events
table() { dmsetup suspend --noflush st && echo "$1" | dmsetup load st && dmsetup resume st; }
ok "it fails" table "0 16384 error"
ok "a write goes on" put 5000
ok "the store is given up" wait_for 20 state_is 3
ok "an event says so" wait_for 20 grep -qx event=7 /tmp/events
ok "and the reason" told "the store cannot be written"
is "a power cut would cost everything" "$(get store_risk)" "$(get size)"
ok "writes go on" put 6000
ok "tracking goes on" round
ok "equal" equal
ok "the device is back" table "0 16384 linear /dev/vdc 0"
is_invalid() { dd if=/dev/mapper/st bs=4k count=1 iflag=direct 2>/dev/null | grep -qa "cannot be written"; }
ok "it is made invalid" wait_for 30 is_invalid
ok "detach" cbtctl detach /dev/vda
refused "a store that was given up" "the store was given up" /dev/mapper/st
# Given up, it starts again once everything was copied.
cbtctl attach /dev/vda --store /dev/mapper/st --identity disk-a >/dev/null
is "it is kept again" "$(get store_state)" 2
ok "copied" round
# It hangs: nobody waits longer than is said.
dmsetup suspend --noflush st
before=$(cut -d. -f1 /proc/uptime)
ok "a write into a cold extent goes on though the store hangs" put 9000
took=$(($(cut -d. -f1 /proc/uptime) - before))
ok "within the bound" test $took -le $((13 * VM_SLOW))
ok "the store is given up again" wait_for 20 state_is 3
ok "the reason" told "longer than 10 s"
dmsetup resume st
ok "equal once more" eval 'round && equal'
kill $events
# A new one for a disk that is tracked: it begins with what is dirty, not with everything.
ok "it is dropped" cbtctl store-drop /dev/vda
is "there is none" "$(get store_state)" 0
# Nothing is retired before it is looked at.
echo 60000 >/sys/module/blkcbt/parameters/store_tick_ms
put 12000
ok "a new one" cbtctl store-format /dev/vda --store /dev/mapper/st --identity disk-a --extent 1M
ok "is added while the disk is tracked" cbtctl store-add /dev/vda --store /dev/mapper/st --identity disk-a
is "it is kept, and no more is dirty than before" "$(get store_state) $(get store_reason) $(get dirty)" "2  4096"
is "a power cut would cost one extent" "$(get store_risk)" 1048576
# What is marked by command is in the store as well.
ok "marked by command" cbtctl mark /dev/vda 33554432 33558528
is "no doubt comes of it" "$(get store_reason)" ""
ok "detached and attached again" eval 'cbtctl detach /dev/vda && cbtctl attach /dev/vda --store /dev/mapper/st --identity disk-a'
is "it is believed, and exact" "$(get store_trusted) $(get dirty)" "1 8192"
ok "equal after that" eval 'round && equal'
ok "detach" cbtctl detach /dev/vda
dmsetup remove st
ok "the module unloads" rmmod blkcbt
done_testing
