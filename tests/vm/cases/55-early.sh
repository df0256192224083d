# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: what reprotect-early attached the agent adopts, or detaches when a command had detached it.
# VM: disks=64M,64M tools="jq sfdisk" timeout=120
. /lib/tap.sh

# The limit is for a boot: an emulated clock can run several times too fast.
early() { reprotect-early --limit 60 "$@"; }
report() { jq -e "$1" /run/reprotect/early.json; }
get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }
agent() { reprotect status --json 2>/dev/null | jq -e ".[\"reprotect-agent\"] | $1"; }
start() {
	reprotect-agent --config /tmp/agent.conf 2>>/tmp/agent.log &
	pid=$!
	ok "the agent answers ($1)" wait_for 30 reprotect status
}
stop() { kill "$pid" && wait "$pid"; }

mkdir -p /tmp/state
printf '[agent]\nprocess_server = 127.0.0.1:9\nstate_dir = /tmp/state\n[disk root]\ndevice = /dev/vda\n' >/tmp/agent.conf
echo 'label: dos
label-id: 0x0badcafe
size=8M' | sfdisk -q /dev/vda
ok "the module loads" insmod /lib/modules/blkcbt.ko
# The kernel's name is of another disk by now: it is not believed.
printf '[disk root]\ndevice = /dev/vdb\nptuuid = 0badcafe\n' >/tmp/early.conf
ok "reprotect-early attaches" early --config /tmp/early.conf
ok "the report says which disk, and how it was found" report '.finished and .disks[0].kernel_name == "vda" and .disks[0].found_by == "PTUUID=0badcafe"'
fails "the other one is not tracked" "not tracked" cbtctl get /dev/vdb
ok "again: it keeps what it reported" early --config /tmp/early.conf --when later
ok "when it was attached, too" report '.when == "later" and .disks[0].when == "by hand"'
ok "disk list without an agent says so" sh -c 'reprotect disk list | grep "vda .*since early boot"'
id=$(get /dev/vda id)

# Only what is written from here on is dirty.
ok "its map is emptied" sh -c 'cbtctl cut 1 /dev/vda && cbtctl commit 1 /dev/vda'
dd if=/dev/zero of=/dev/vda bs=4k seek=5000 count=3 oflag=direct
start "adopts"
ok "the disk is active" wait_for 30 agent '.disks[0].active'
ok "as one of early boot" agent '.disks[0].early and .early.report.disks[0].attached'
is "it is the same attachment" "$(get /dev/vda id)" "$id"
is "what was written before the agent is dirty, and only that" "$(get /dev/vda dirty)" 12288
ok "the list has the disk's lasting name" grep -qx "ptuuid = 0badcafe" /tmp/state/early.conf
ok "status says so" sh -c 'reprotect status | grep "early boot *1 of 1 disks attached"'

ok "detach" reprotect disk detach root
fails "it is not tracked any more" "not tracked" cbtctl get /dev/vda
ok "the list does not name it" sh -c '! grep -F [disk /tmp/state/early.conf'
ok "the agent ends" stop
# The initramfs has the old list still.
ok "reprotect-early attaches it" early --config /tmp/early.conf
ok "it is tracked" cbtctl get /dev/vda
start "detaches"
is_detached() { ! cbtctl get /dev/vda >/dev/null 2>&1; }
ok "the agent detaches what was detached by command" wait_for 30 is_detached
ok "and says so" grep "was attached in early boot, and is detached by command" /tmp/agent.log
ok "the agent ends again" stop

# The list of this boot was not the agent's; then it is.
start "knows its list"
ok "another list: and there is no initramfs here" agent '.early.initramfs == "missing"'
ok "attach again" reprotect disk attach /dev/vda --name root
ok "the agent ends" stop
ok "reprotect-early with the list of the agent" early --config /tmp/state/early.conf
start "knows its list"
ok "its own list" agent '.early.initramfs == "current"'
ok "the agent ends" stop
cbtctl detach /dev/vda

# With the module there and no disk: bounded, and said.
printf '[early]\nwait = 300ms\n[disk gone]\nuuid = 00000000-dead\n' >/tmp/early.conf
fails "a disk that is not there" "no disk has one of its names" early --config /tmp/early.conf
ok "the report says so" report '.finished and (.disks[0].attached | not) and .module.mode == "full"'
printf '[disk part]\ndevice = /dev/vda1\n' >/tmp/early.conf
fails "a partition is refused" "cannot attach" early --config /tmp/early.conf
ok "the module unloads" rmmod blkcbt
done_testing
