# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: the judge of 30-consistent sees a cut that is 1 ms late on one disk and a preserve skipped once in 1,000, and nothing when there is nothing.
# VM: disks=8M,8M,8M modules="dm_mod +null_blk" timeout=400 kernels=all env="TRIES"
# VM: tools="dmsetup cmp" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

# Epochs in which a seeded fault must be seen at least once.
: "${TRIES:=60}"
# The faster a write, the shorter what goes unseen.
disks="/dev/nullb0 /dev/nullb1 /dev/nullb2" copies="/dev/vda /dev/vdb /dev/vdc"
fault() { echo "$2" >"/sys/module/blkcbt/parameters/fault_$1"; }

# seen: epochs until the judge finds something
seen() {
	violations=0 fuzzy=0 _tries=0
	while [ $violations = 0 ]; do
		_tries=$((_tries + 1))
		[ $_tries -le "$TRIES" ] || return 1
		epoch >/tmp/epoch
		goes_on 300 || return 1
	done
	diag "seen in epoch $_tries: $(grep -m 1 violation: /tmp/epoch)"
}

# unseen COUNT: after a fault the copies may hold anything: all is copied again first
unseen() {
	for disk in $disks; do cbtctl mark $disk; done
	epoch >/tmp/epoch
	violations=0 fuzzy=0 _tries=0
	while [ $_tries -lt "$1" ]; do
		_tries=$((_tries + 1))
		epoch || return 1
		goes_on 300 || return 1
	done
}

[ -e /lib/modules/blkcbt-faults.ko ] || skip_all "no fault-injection build of the module"
ok "the fault-injection build loads" insmod /lib/modules/blkcbt-faults.ko
for i in 0 1 2; do null_disk $i 8 && cbtctl attach /dev/nullb$i; done
ok "the load runs" load --threads 6 --region 1027 $disks
ok "without a fault nothing is seen" unseen 5
fault cut_late 1
ok "a cut that is 1 ms late is seen" seen
fault cut_late 0
ok "without a fault nothing is seen" unseen 3
fault preserve_skip 1000
ok "a preserve skipped once in 1,000 is seen" seen
fault preserve_skip 0
ok "without a fault nothing is seen" unseen 3
fault preserve_read 200
violations=0 fuzzy=0
for i in 1 2 3 4 5 6; do epoch >/tmp/epoch; goes_on 300; done
ok "a preserve read that fails: epochs become fuzzy" [ $fuzzy -gt 0 ]
is "a preserve read that fails: and are not offered" $violations 0
fault preserve_read 0
ok "without a fault nothing is seen" unseen 3
end_load
for disk in $disks; do cbtctl detach $disk; done
ok "the module unloads" rmmod blkcbt
done_testing
