# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2154
# What: without a gate (live patch, ftrace off, no function tracer) nothing is lost, what cannot be tracked is refused, and all of it is said.
# VM: disks=32M,32M,16M,16M modules="dm_mod loop" timeout=400 kernels=all
# VM: tools="fio dmsetup cmp losetup jq" files="tests/vm/degraded.sh:/lib/degraded.sh"
. /lib/tap.sh
. /lib/degraded.sh

PATCH=/sys/kernel/livepatch/klp_submit
patched() { [ "$(cat $PATCH/enabled)" = 1 ] && [ "$(cat $PATCH/transition)" = 0 ]; }
unpatched() { [ ! -d $PATCH ]; }
unpatch() { echo 0 >$PATCH/enabled && wait_for 60 unpatched && rmmod klp_submit; }

# refused BUILD REASON: audit only, for this reason; what that means
audit_only() {
	ok "$1: the module loads" insmod "/lib/modules/$2.ko"
	ok "$1: the log says so" says "DEGRADED (audit only): no gate, $3"
	is "$1: the mode" "$(info gate_mode)" 1
	is "$1: the observers" "$(info observers)" 14
	ok "$1: the reason" sh -c "cbtctl info | grep -qF 'gate_reason=no gate, $3'"
	fails "$1: a disk without requests is refused" "needs the gate" cbtctl attach /dev/mapper/lin
	under_way "$1"
	told "$1" audit-only /dev/vda true
}

whole() {
	ok "$1: the module loads" insmod /lib/modules/blkcbt.ko
	is "$1: the gate is whole" "$(info gate_mode) $(info observers) $(info gate_reason)" "0 15 "
}

slow_disk /dev/vdd
echo 0 32768 linear /dev/vdc 0 | dmsetup create lin

# A live patch that is there first.
if [ -e /lib/modules/klp_submit.ko ]; then
	ok "a live patch takes the function" insmod /lib/modules/klp_submit.ko
	ok "it is in force" wait_for 60 patched
	audit_only "live patch" blkcbt "a live patch holds submit_bio_noacct"
	equal "live patch" /dev/vda /dev/vdb
	ok "the module unloads" rmmod blkcbt
	ok "the live patch is taken out" unpatch
	whole "after a live patch"

	# The gate is there first.
	fails "a live patch while the gate is in: refused by the kernel" "busy" insmod /lib/modules/klp_submit.ko
	ok "the kernel's log says which function" sh -c 'dmesg | grep "livepatch: failed to register ftrace handler.*submit_bio_noacct"'
	cbtctl attach /dev/vda
	clean /dev/vda
	dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct
	is "the gate goes on" "$(get /dev/vda dirty) $(get /dev/vda escapes) $(($(get /dev/vda flags) & 16))" "4096 0 0"
	cbtctl detach /dev/vda
	ok "without the module" rmmod blkcbt
	ok "the live patch goes in" insmod /lib/modules/klp_submit.ko
	ok "and into force" wait_for 60 patched
	ok "and out again" unpatch
else
	skip "no live patch was built for this kernel"
fi

# The function tracer's switch. Since 7.x it is refused, whoever holds the function.
FTRACE=/proc/sys/kernel/ftrace_enabled
whole "ftrace"
if sh -c "echo 0 | dd of=$FTRACE" 2>&1 | grep -q "Operation not supported"; then
	ok "without the module" rmmod blkcbt
	fails "ftrace cannot be switched off on this kernel" "not supported" sh -c "echo 0 | dd of=$FTRACE"
	is "it is on" "$(cat $FTRACE)" 1
	whole "ftrace, after the attempt"
	ok "the module unloads" rmmod blkcbt
else
	fails "ftrace cannot be switched off under the gate" "busy" sh -c "echo 0 | dd of=$FTRACE"
	is "it is on" "$(cat $FTRACE)" 1
	ok "without the module" rmmod blkcbt
	ok "it can" sh -c "echo 0 >$FTRACE"
	audit_only "ftrace off" blkcbt "ftrace is switched off (sysctl kernel.ftrace_enabled=1"
	ok "the module unloads" rmmod blkcbt
	echo 1 >$FTRACE
	whole "ftrace on again"
	ok "the module unloads" rmmod blkcbt
fi

# A kernel without one.
if [ -e /lib/modules/blkcbt-nogate.ko ]; then
	audit_only "no function tracer" blkcbt-nogate "this kernel has no function tracer"
	equal "no function tracer" /dev/vda /dev/vdb
	ok "the module unloads" rmmod blkcbt
else
	skip "no build of the module without gate"
fi
done_testing
