# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: each allocation of each command, of loading, of a write, fails once: done or cleanly refused, nothing leaks, the next try works.
# VM: disks=16M,16M modules="dm_mod" timeout=200 long=1200 kernels="debug-kasan" env="NTH_STEP NTH_FIRST"
# VM: tools="dmsetup"
. /lib/tap.sh

# Loading the module has many hundreds of allocations, most of them the kernel's own: every
# so many of them, from that one on. NTH_STEP=1 is the long run.
: "${NTH_STEP:=10}"
: "${NTH_FIRST:=5}"

LEAKS=/sys/kernel/debug/kmemleak

# What 6.1 itself leaks where it fails, seen here because the module calls it: the name of an
# object that sysfs would not take. What else leaked is printed; all of it is then forgotten, or
# the rig would find it again at the end.
leaked() {
	end=$(($(cut -d. -f1 /proc/uptime) + 6))
	echo scan >$LEAKS
	while [ "$(cut -d. -f1 /proc/uptime)" -lt $end ]; do usleep 200000; done
	echo scan >$LEAKS
	awk '
		function end() { if (held != "" && !(named && kernels)) printf "%s", held; held = ""; named = kernels = 0 }
		/^unreferenced object/ { end() }
		{ held = held $0 "\n" }
		/ kobject_set_name_vargs\+/ { named = 1 }
		/ (sysfs_slab_add|__class_register)\+/ { kernels = 1 }
		END { end() }' $LEAKS
	echo clear >$LEAKS
}

if ! [ -e /proc/self/fail-nth ] || ! [ -e /sys/kernel/debug/failslab ]; then
	skip_all "this kernel injects no faults"
fi
echo 0 32768 linear /dev/vdb 0 | dmsetup create lin
ok "each allocation of each command fails once" failnth commands /dev/vda /dev/mapper/lin /lib/modules/blkcbt.ko
diag "$(cat /tmp/tap.out)"
ok "one in $NTH_STEP of loading and unloading" failnth module /dev/vda /dev/mapper/lin /lib/modules/blkcbt.ko \
	"$NTH_STEP" "$NTH_FIRST"
diag "$(cat /tmp/tap.out)"
is "nothing has leaked" "$(leaked)" ""
ok "the module loads" insmod /lib/modules/blkcbt.ko
ok "attach" cbtctl attach /dev/vda
ok "a whole epoch" sh -c "cbtctl cut 1 /dev/vda && cbtctl extents /dev/vda && cbtctl commit 1 /dev/vda"
ok "detach" cbtctl detach /dev/vda
ok "the module unloads" rmmod blkcbt
done_testing
