# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: with a store, the agent goes on after a reboot and a power cut with what is dirty; where the store cannot be believed it resyncs and says why.
# VM: disks=96M,96M,96M,1M modules="ext4" tools="fio cmp jq mkfs.ext4" files="tests/vm/story.sh:/lib/story.sh" timeout=600 mem=1280 boots=6 kernels=6.1,latest
STORY=/keep/story
# shellcheck disable=SC2034  # for story.sh
STORY_AGENT='store = auto
[disk root]
device = /dev/vda'
. /lib/tap.sh
. /lib/story.sh

store() { agent ".disks[0].store.$1"; }
load() {
	fio --name=load --filename=/dev/vda --offset=4m --size=60m --rw=randwrite --bsrange=4k-64k --ioengine=io_uring \
		--direct=1 --rate=1m --time_based --runtime=36000 --eta=never --output=/tmp/fio.out &
	load=$!
}
applied() { agent .epochs.applied; }
went_on() { [ "$(applied)" -ge "$_to" ]; }
# So many more epochs are applied.
epochs() {
	_to=$(($(applied) + $1))
	wait_for 60 went_on
}
# Its list is in the initramfs, before anything is mounted; here, on a disk of its own.
keep_list() { dd if=$STORY/agent/early.conf of=/dev/vdd bs=1M conv=sync,fsync; }
early() {
	tr -d '\000' </dev/vdd >/tmp/early.conf
	reprotect-early --limit 60 --config /tmp/early.conf "$@"
}
early_says() { jq -e ".disks[0] | $1" /run/reprotect/early.json; }
equal() {
	echo 3 >/proc/sys/vm/drop_caches
	cmp /dev/vda /dev/vdb
}
# After an attachment that began with its store: nothing is compared anew, and what is dirty arrives.
goes_on() { # NAME
	story_start root=/dev/vdb
	is "$1: the store was believed" "$(store trusted) $(store state)" "true active"
	diag "$1: dirty $(agent '.disks[0].dirty_bytes') at first sight; $(agent '.disks[0].store')"
	is "$1: it is no initial sync" "$(agent '.disks[0].initial.active')" false
	ok "$1: everything is on the target" story_settled 120
	ok "$1: every block equal" equal
	is "$1: no resync" "$(story_resyncs)" 0
}

mounted() { mount -t ext4 /dev/vdc /keep && rm -f $STORY/agent.log; }
mkdir -p /keep
ok "boot $BOOT: the module loads" insmod /lib/modules/blkcbt.ko store_tick_ms=1000
case $BOOT in
1)
	mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vdc
	ok "the file system of the store is mounted" mounted
	story_start root=/dev/vdb
	ok "initial sync" story_synced 240 || done_testing
	is "it has a store" "$(store state)" active
	is "in the agent's state directory" "$(store path)" $STORY/agent/root.store
	cheap() { [ "$(store risk_bytes)" -lt 50331648 ]; }
	ok "a power cut would cost a part of the disk, and no more" wait_for 60 cheap
	ok "disk list says so" sh -c 'reprotect disk list | grep "store: active in .*root.store; after a power cut now: .* to send again"'
	ok "early boot is told where it is" grep -qx "store_device = /dev/vdc" $STORY/agent/early.conf
	ok "and whose it is" grep -qx "identity = /dev/vda" $STORY/agent/early.conf
	ok "the list of early boot is kept" keep_list
	load
	ok "epochs under load" epochs 3
	next_boot cut
	;;
2)
	ok "early boot attaches" early
	ok "the file system of the store is mounted" mounted
	ok "it had marked the store" early_says '.attached and .store_state == "awaited"'
	ok "and gives it to the disk" early --stores ""
	ok "which began with what it said" early_says '.store_state == "trusted"'
	goes_on "after a power cut"
	load
	ok "epochs under load" epochs 2
	kill $load
	wait $load 2>/dev/null
	ok "the agent is stopped" story_stop
	dd if=/dev/urandom of=/dev/vda bs=4k seek=20000 count=3 oflag=direct conv=notrunc
	next_boot clean
	;;
3)
	ok "early boot attaches" early
	ok "the file system of the store is mounted" mounted
	dd if=/dev/urandom of=/dev/vda bs=4k seek=21000 count=2 oflag=direct conv=notrunc
	goes_on "after a reboot, the store added by the agent"
	load
	ok "epochs under load" epochs 2
	next_boot cut
	;;
4)
	ok "early boot attaches" early
	ok "the file system of the store is mounted" mounted
	dd if=/dev/urandom of=/dev/vda bs=4k seek=22000 count=2 oflag=direct conv=notrunc
	# and the power goes before the store could know of it
	next_boot cut
	;;
5)
	ok "early boot attaches" early
	ok "the file system of the store is mounted" mounted
	story_start root=/dev/vdb
	is "a boot that no store knows of: it is not believed" "$(store trusted)" false
	ok "the reason" grep -q "started, and stopped again before the store was opened" $STORY/agent.log
	ok "resync" story_synced 240
	ok "everything is on the target" story_settled 120
	ok "every block equal" equal
	is "the store is kept again" "$(store state)" active
	ok "the agent is stopped" story_stop
	ok "detach" cbtctl detach /dev/vda
	ok "the module unloads" rmmod blkcbt
	ok "the store is deleted" rm $STORY/agent/root.store
	next_boot clean
	;;
6)
	ok "early boot attaches" early
	ok "the file system of the store is mounted" mounted
	ok "whatever it has found where the store was" early_says .attached
	story_start root=/dev/vdb
	ok "all of it is dirty, and synced" story_synced 240
	ok "everything is on the target" story_settled 120
	ok "every block equal" equal
	has_one() { [ "$(store state)" = active ]; }
	ok "a new store is made" wait_for 90 has_one || { reprotect disk list; story_logs; }
	is "nothing is dirty by that" "$(agent '.disks[0].initial.active')" false
	ok "detach by command" reprotect disk detach root
	ok "attach" reprotect disk attach /dev/vda --name root
	is "then the store is not believed: who detaches a disk wants it compared" "$(store trusted) $(store state)" "false active"
	ok "synced again" story_synced 240
	ok "the agent is stopped" story_stop
	;;
esac
done_testing
