# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: the store file of a disk is swapped, put back from a copy, cut short, and its device fails: the agent replicates on, says what a power cut would cost, and why.
# VM: disks=48M,48M,48M,48M,48M modules="ext4 dm_mod" tools="fio cmp jq mkfs.ext4 dmsetup truncate" timeout=600 mem=1280
# VM: files="tests/vm/story.sh:/lib/story.sh"
# shellcheck disable=SC2034  # for story.sh
STORY_AGENT='[disk root]
device = /dev/vda
store = /stores/root
[disk data]
device = /dev/vdb
store = /stores/data'
. /lib/tap.sh
. /lib/story.sh

store() { agent ".disks[] | select(.name == \"$1\") | .store.$2"; } # DISK KEY
place=0
put() { dd if=/dev/urandom of="$1" bs=4k seek=$place count=9 oflag=direct conv=notrunc; }
more() {
	place=$(((place + 977) % 12000))
	put /dev/vda && put /dev/vdb
}
equal() {
	echo 3 >/proc/sys/vm/drop_caches
	cmp /dev/vda /dev/vdc && cmp /dev/vdb /dev/vdd
}
swap() { mv /stores/root /stores/x && mv /stores/data /stores/root && mv /stores/x /stores/data; }
start() { story_start root=/dev/vdc data=/dev/vdd; }
# As for a module that is exchanged: the stores are saved, and nothing is tracked.
halt() {
	ok "$1: the agent is stopped" story_stop
	ok "$1: detached" eval 'cbtctl detach /dev/vda && cbtctl detach /dev/vdb'
	rm -f "$STORY/agent.log"
}
goes_on() { # NAME
	ok "$1: in sync" story_synced 240
	ok "$1: writes" more
	ok "$1: everything is on the target" story_settled 120
	ok "$1: every block equal" equal
}
# $2 is in use, and not believed at the attachment
doubted() { # NAME DISK REASON
	is "$1: not believed" "$(store "$2" trusted)" false
	ok "$1: the log says why" grep -F -e "$3" "$STORY/agent.log" || cat "$STORY/agent.log"
	goes_on "$1"
	is "$1: it is kept again" "$(store "$2" state)" active
}
said() { reprotect status >/tmp/said && grep -F -e "$1" /tmp/said && grep -F "a power cut would cost a resync" /tmp/said; }
# $2 has none, and the operator sees it
without() { # NAME DISK REASON
	is "$1: it is not used" "$(store "$2" state)" none
	is "$1: a power cut would cost the whole disk" "$(store "$2" risk_bytes)" 50331648
	ok "$1: status says why, and what that means" said "$3" || cat /tmp/said
	goes_on "$1"
}

table() { dmsetup suspend --noflush st && echo "$1" | dmsetup load st && dmsetup resume st; }
ok "the device of the stores" eval 'echo "0 98304 linear /dev/vde 0" | dmsetup create st && dmsetup mknodes'
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/st
mkdir -p /stores
ok "their file system" mount -t ext4 /dev/mapper/st /stores
ok "the module loads" insmod /lib/modules/blkcbt.ko store_tick_ms=1000
start
goes_on "new"
is "both have a store" "$(store root state) $(store data state)" "active active"
halt "undamaged"
start
is "undamaged: believed" "$(store root trusted) $(store data trusted)" "true true"
goes_on "undamaged"
is "undamaged: no resync" "$(story_resyncs)" 0

halt "swapped"
cp /stores/root /stores/copy
ok "swapped" swap
start
without "swapped" root "it is the store of another disk"
without "swapped" data "it is the store of another disk"
halt "swapped back"
ok "swapped back" swap
start
doubted "swapped back, and written meanwhile" root "the disk was written while it was not tracked"

halt "an old copy"
ok "an old copy comes back" cp /stores/copy /stores/root
start
doubted "an old copy" root "the store is an old copy"
is "an old copy: the other disk's is believed" "$(store data trusted)" true

halt "cut short"
ok "cut short" truncate -s 4096 /stores/root
start
doubted "cut short" root "store made: /stores/root"

# In use, and its device goes.
load() { exec fio --name=load --filename=/dev/vda --offset=1m --rw=randwrite --bs=4k --rate_iops=50 --time_based --runtime=3600 --eta=never --output=/dev/null; }
resyncs=$(story_resyncs)
load &
load=$!
ok "its device fails" table "0 98304 error"
given_up() { [ "$(store root state)" = failed ] && [ "$(store root risk_bytes)" = 50331648 ]; }
ok "the store is given up, and a power cut would cost the whole disk" wait_for 90 given_up || reprotect status
ok "writes go on" kill -0 $load
kill $load
wait $load 2>/dev/null
ok "disk list says why" sh -c 'reprotect disk list | grep "given up: .*cannot be written"' || reprotect disk list
goes_on "its device fails"
is "its device fails: no resync comes of it" "$(story_resyncs)" "$resyncs"
ok "the agent is stopped" story_stop
done_testing
