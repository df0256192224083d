# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2154
# What: a tracepoint missing: nothing is lost, what cannot be tracked is refused, and all of it is said.
# VM: disks=32M,32M,32M,16M modules="dm_mod loop sd_mod +scsi_debug" timeout=400 kernels=all
# VM: tools="fio dmsetup cmp losetup" files="tests/vm/degraded.sh:/lib/degraded.sh"
. /lib/tap.sh
. /lib/degraded.sh

# without TRACEPOINTS MODE OBSERVERS REASON
without() {
	ok "no $1: the module loads" insmod /lib/modules/blkcbt-faults.ko fault_no_tracepoint="$1"
	ok "no $1: the log says so" says "DEGRADED ($2): no tracepoint $4"
	is "no $1: the observers" "$(info observers)" "$3"
	ok "no $1: the reason" sh -c "cbtctl info | grep -qF 'no tracepoint $4'"
}

degraded() { echo $(($(get "$1" flags) & 16)); }

if ! [ -e /lib/modules/blkcbt-faults.ko ]; then
	skip_all "no fault-injection build of the module"
fi
slow_disk /dev/vdd
echo 0 65536 linear /dev/vdc 0 | dmsetup create lin
modprobe scsi_debug dev_size_mb=8
wait_for 20 test -b /dev/sda

# Nothing checks the gate.
without block_rq_issue unaudited 13 "block_rq_issue: a write that goes round the gate is marked, not counted"
is "unaudited: the mode" "$(info gate_mode)" 2
under_way "unaudited"
equal "unaudited" /dev/vda /dev/vdb
cbtctl attach /dev/vda
is "unaudited: a disk with requests is degraded" "$(degraded /dev/vda)" 16
clean /dev/vda
echo 1 >/sys/module/blkcbt/parameters/fault_gate_skip
dd if=/dev/zero of=/dev/vda bs=4k seek=7 count=1 oflag=direct
echo 0 >/sys/module/blkcbt/parameters/fault_gate_skip
is "unaudited: a write that goes round the gate is marked" "$(get /dev/vda dirty) $(get /dev/vda escapes)" "4096 0"
cbtctl detach /dev/vda
cbtctl attach /dev/sda
clean /dev/sda
ok "unaudited: SG_IO writes" cbtctl sg /dev/sda 2a000000080000000800 out 4096
is "unaudited: it is marked, and counted once" "$(get /dev/sda dirty) $(get /dev/sda passthrough)" "4096 1"
cbtctl detach /dev/sda
cbtctl attach /dev/mapper/lin
is "unaudited: a disk without requests is not degraded" "$(degraded /dev/mapper/lin)" 0
cbtctl detach /dev/mapper/lin
ok "the module unloads" rmmod blkcbt

# One kind of disk cannot be tracked.
without block_rq_complete partial 11 "block_rq_complete: disks with requests (virtio, SCSI, NVMe) are refused"
is "no block_rq_complete: the mode" "$(info gate_mode)" 3
fails "no block_rq_complete: a disk with requests is refused" "needs the tracepoint block_rq_complete" cbtctl attach /dev/vda
equal "no block_rq_complete: dm" /dev/mapper/lin /dev/vdb
ok "the module unloads" rmmod blkcbt

without block_bio_complete partial 7 "block_bio_complete: disks without requests (dm, md) are refused"
is "no block_bio_complete: the mode" "$(info gate_mode)" 3
fails "no block_bio_complete: a disk without requests is refused" "needs the tracepoint block_bio_complete" cbtctl attach /dev/mapper/lin
under_way "no block_bio_complete"
cbtctl attach /dev/vda
is "no block_bio_complete: a disk with requests is not degraded" "$(degraded /dev/vda)" 0
cbtctl detach /dev/vda
ok "the module unloads" rmmod blkcbt

# Several: each is named.
without block_rq_issue,block_bio_complete unaudited 5 "block_bio_complete: disks without requests (dm, md) are refused; no tracepoint block_rq_issue"
ok "the module unloads" rmmod blkcbt

# Nothing that could be tracked.
refuses() {
	fails "no $1: the module does not load" "not supported" insmod /lib/modules/blkcbt-faults.ko fault_no_tracepoint="$1"
	ok "no $1: the log says why" says "cannot load: nothing could be tracked safely: no tracepoint block_rq_"
	ok "no $1: it is not there" sh -c '! grep -q ^blkcbt /proc/modules'
}
refuses block_rq_complete,block_bio_complete
refuses block_rq_issue,block_rq_complete,block_bio_complete
if echo 0 >/proc/sys/kernel/ftrace_enabled; then
	for tracepoint in block_rq_issue block_rq_complete; do
		refuses $tracepoint
		ok "no gate either: the log says that too" says "no gate, ftrace is switched off"
	done
	echo 1 >/proc/sys/kernel/ftrace_enabled
else
	skip "ftrace cannot be switched off on this kernel"
fi
ok "the module loads with all of them" insmod /lib/modules/blkcbt-faults.ko
is "and is whole" "$(info gate_mode) $(info observers)" "0 15"
ok "the module unloads" rmmod blkcbt
done_testing
