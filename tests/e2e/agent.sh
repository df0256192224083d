#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The agent and the command line on loopback, without the kernel module: changes are tracked
# in files (--test-tracker, testing build), a master target applies. Initial sync in slices,
# changes under load, kills at any moment, resync, attach and detach, failback with a mounted
# ext4, and what people are told. Prints TAP. KILLS: how often agent and master target are
# killed under load (default 6). SEED: of everything random (default 1). VIA= (empty) leaves out the process server
# between them.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

KILLS=${KILLS:-6}
SEED=${SEED:-1}
RANDOM=$((SEED % 32768))
VIA=${VIA-ps} NAME=agent-e2e LOOP='' MOUNT=''
# shellcheck source=tests/e2e/lib/agent.sh
. tests/e2e/lib/agent.sh

cleanup() {
	if [ -n "$MOUNT" ]; then fsfreeze -u "$MOUNT" 2>/dev/null; umount "$MOUNT" 2>/dev/null; fi
	[ -z "$LOOP" ] || losetup -d "$LOOP" 2>/dev/null
	end_all
}
trap cleanup EXIT

# The image of a disk may end on a larger block.
same() { cmp "$T/d1" "$T/targets/vm1/root.img" && cmp -n 41943552 "$T/d2" "$T/targets/vm1/data.img"; }
synced_and_same() { synced "${1:-30}" && same; }

zero() {
	mark "$@"
	dd if=/dev/zero of="$T/$1" bs="$3" count=1 seek="$2" oflag=seek_bytes conv=notrunc status=none
	mark "$@"
}
# load N: scattered writes of many sizes on both disks
load() {
	local i disk size
	for i in $(seq "$1"); do
		[ $((RANDOM % 3)) = 0 ] && disk=d2 size=41943040 || disk=d1 size=134217728
		w $disk $(((RANDOM * 32768 + RANDOM) % (size - 300000) / 512 * 512)) $(((RANDOM % 500 + 1) * 512))
	done
}

truncate -s 128M "$T/d1" && truncate -s 41943552 "$T/d2" # not a multiple of the granule
dd if=/dev/urandom of="$T/d1" bs=1M count=50 conv=notrunc status=none
dd if=/dev/urandom of="$T/d1" bs=1M count=9 seek=90 conv=notrunc status=none
dd if=/dev/urandom of="$T/d2" bs=1M count=30 seek=5 conv=notrunc status=none
head -c 512 /dev/urandom | dd of="$T/d2" bs=512 seek=41943040 oflag=seek_bytes conv=notrunc status=none
echo "# seed $SEED${VIA:+, through the process server}"

# ---- what is told before anything runs
cli status >"$T/out" 2>&1
is "status without a daemon exits with 3" $? 3
cli disk attach /dev/vdz >"$T/out" 2>&1
is "attach without an agent exits with 3" $? 3
says "and says how to start it" 'systemctl start reprotect-agent' "$T/out"
configure slice_bytes=1 2>/dev/null
"$AGENT" --config "$T/agent.conf" --check-config >"$T/out" 2>&1
isnt "a bad value is refused" $? 0
says "with file, key and value" 'agent.conf.*slice_bytes' "$T/out"
configure slice_bytes=8M
check "a good configuration is good" "$AGENT" --config "$T/agent.conf" --check-config

# ---- initial sync
start || exit 1
check "waits for its downstream and says so" until_field 10 '.state == "connecting" and has("error")'
start_mt && start_ps || exit 1
check "initial sync in slices of 8 MiB" synced_and_same 60
"$AGENT" --config "$T/agent.conf" --test-tracker "$T/tracker" >"$T/out" 2>&1
says "a second agent is refused" 'another agent runs' "$T/out"
load 60
check "scattered writes arrive" synced_and_same
zero d1 10485760 8388608
check "zeros arrive" synced_and_same
w d2 41943040 512
check "the last, partial granule arrives" synced_and_same
sent=$(field .sent_bytes)
# written first, marked then: a cut in between would read the old content
dd if=/dev/zero of="$T/d1" bs=1M count=16 seek=20 conv=notrunc status=none
mark d1 20971520 16777216
check "zeros travel as ZERO frames" synced_and_same
check "without their bytes" test $(($(field .sent_bytes) - sent)) -lt 1048576

if [ -n "$VIA" ]; then
	"$CLI" status --socket "$T/ps.sock" >"$T/out" 2>&1
	says "the process server's status names the machine" 'machine vm1 .*uuid' "$T/out"
	says "and where it stands" 'epochs +[1-9][0-9]* complete, [1-9][0-9]* applied' "$T/out"
fi

# ---- ends of all kinds
load 20
check "ends on SIGTERM" stop
start
says "epochs of a dead agent are found" 'tracked as' "$T/agent.log"
check "goes on after a restart, without an initial sync" synced_and_same
for i in $(seq "$KILLS"); do
	load 15 &
	LOAD=$!
	sleep 0.$((RANDOM % 9))
	if [ $((i % 3)) = 0 ]; then
		killed "$M_PID"; start_mt
	elif [ $((i % 3)) = 1 ] || [ -z "$VIA" ]; then
		killed "$A_PID"; start
	else
		killed "$P_PID"; start_ps
	fi
	wait "$LOAD"
done
check "kill -9 under load $KILLS times loses nothing" synced_and_same 60
rm -f "$T/slow"
killed "$A_PID"
for i in 1 2 3; do
	mark d1 0 134217728
	start; sleep 0.$((RANDOM % 7 + 2)); killed "$A_PID"
done
start
check "killed in the middle of large epochs" synced_and_same 60

# ---- resync
if [ -z "$VIA" ]; then
	killed "$M_PID"
	rm -rf "$T/mt-state" "$T/targets"; mkdir "$T/targets"
	start_mt
	check "a target that lost everything is resynced" synced_and_same 60
	says "and it is said why" 'resync of all disks: .*downstream holds only up to' "$T/agent.log"
fi

# ---- attach, detach
truncate -s 16M "$T/d3"; dd if=/dev/urandom of="$T/d3" bs=1M count=7 conv=notrunc status=none
check "disk attach" cli disk attach "$T/d3" --name extra
check "is replicated" synced
check "and equal" cmp "$T/d3" "$T/targets/vm1/extra.img"
cli disk attach "$T/d3" >"$T/out" 2>&1
is "attach again fails" $? 1
says "and says what to do" 'detach' "$T/out"
cli disk attach "$T/none" >"$T/out" 2>&1
says "a disk that is not there" 'none.*cannot be found: No such file' "$T/out"
check "disk list" cli disk list
says "lists it" 'extra .*d3' "$T/out"
check "disk detach" cli disk detach extra
check "disk detach of a configured disk" cli disk detach data
stop; start
check "stays detached after a restart" until_field 10 '[.disks[] | select(.name == "data") | .detached] == [true]'
check "attached again by command" cli disk attach "$T/d2" --name data
check "and in sync again" synced_and_same

# ---- engines, state directory
stop
configure io=libaio slice_bytes=4M
start
load 10
check "with libaio" synced_and_same
is "shown in status" "$(field .io_engine)" libaio
stop
configure state_dir=/proc/nowhere
start
load 5
check "without a usable state directory" synced_and_same
cli status >"$T/out" 2>&1
says "with a warning and a remedy" 'warning: state .*' "$T/out"
stop
configure
start
check "back to the usual" synced_and_same

# ---- commit on spooled
if [ -n "$VIA" ]; then
	stop; configure commit_on=spooled; start; load 20
	check "commit_on = spooled" synced_and_same
	stop; configure; start
fi

# ---- failback
(while :; do w d2 4096 4096; sleep 0.02; done) & WRITER=$!
cli failback --yes >"$T/out" 2>&1; rc=$?
kill "$WRITER"; wait "$WRITER" 2>/dev/null
is "failback fails while something writes past the freeze" $rc 1
says "and names the disk" 'still writes.*data \(' "$T/out"
check "replication goes on after it" synced_and_same
stop

if LOOP=$(losetup -f --show "$T/d2" 2>/dev/null) && mkfs.ext4 -q -F "$LOOP" 2>"$T/out"; then
	mark d2 0 41943552
	mkdir "$T/mnt" && mount "$LOOP" "$T/mnt" && MOUNT=$T/mnt
	seq 100000 >"$T/mnt/file"
	configure
	sed -i "s:device = $T/d2:device = $LOOP:" "$T/agent.conf"
	start
	check "a mounted disk is replicated" synced 30
	# The file tracker does not see what the filesystem writes: mark all of it until it is frozen.
	step_is() { cli status --json 2>/dev/null | grep -E "\"step\": \"($1)\"" >/dev/null; }
	mark_until_frozen() {
		until step_is 'final|verify|failed|released'; do mark "$(basename "$LOOP")" 0 41943552; sleep 0.05; done
		mark "$(basename "$LOOP")" 0 41943552
	}
	mark_all() { while :; do mark "$(basename "$LOOP")" 0 41943552; sleep 0.05; done; }
	mark_all & MARKER=$!
	cli failback --yes --timeout 60s >"$T/out" 2>&1 & FB=$!
	for _ in $(seq 100); do step_is final && break; done
	killed "$A_PID"; kill "$MARKER"; wait "$MARKER" 2>/dev/null
	touched() { timeout -k 1 5 touch "$T/mnt/after"; }
	check "an agent killed while filesystems are frozen leaves them thawed" touched
	start
	wait $FB; rc=$?
	isnt "and the command line does not call it done" $rc 0
	check "replication goes on" until_field 30 '.state == "replicating" and .synced'
	mark_until_frozen & MARKER=$!
	cli failback --yes --timeout 60s >"$T/out" 2>&1; rc=$?
	wait "$MARKER"
	is "failback with a mounted filesystem" $rc 0
	is "state failed-back" "$(field .state)" failed-back
	(echo x >"$T/mnt/late") 2>/dev/null & LATE=$!
	# Waits in the kernel (state D) for the thaw; one that ended has no state, or Z.
	waits_for_thaw() {
		for _ in $(seq 100); do
			case $(ps -o state= -p "$LATE") in D) return 0 ;; Z | '') return 1 ;; esac
			sleep 0.05
		done
		return 1
	}
	check "the filesystem stays frozen" waits_for_thaw
	# Past the page cache: what the filesystem keeps in memory is not on the disk.
	dd if="$LOOP" iflag=direct bs=1M of="$T/disk" status=none
	check "the target is equal to the disk" cmp -n 41943552 "$T/disk" "$T/targets/vm1/data.img"
	cmp -n 41943552 "$LOOP" "$T/targets/vm1/data.img" | sed 's/^/# through the page cache: /'
	debugfs -R "icheck $(cmp -n 41943552 "$LOOP" "$T/targets/vm1/data.img" | sed 's/.*byte \([0-9]*\).*/\1/' | awk '{ print int(($1 - 1) / 1024) }')" "$T/targets/vm1/data.img" 2>/dev/null | sed 's/^/# /'
	check "whose filesystem is sound" e2fsck -fn "$T/targets/vm1/data.img"
	debugfs -R "cat file" "$T/targets/vm1/data.img" 2>/dev/null | cmp - <(seq 100000) >>"$T/out" 2>&1
	is "with all files" $? 0
	killed "$A_PID"; start
	check "an agent that starts after it does not replicate" until_field 10 '.state == "failed-back"'
	check "target forget" "$CLI" target forget vm1 --yes --socket "$T/mt.sock"
	[ -z "$VIA" ] || { killed "$P_PID"; rm -rf "$T/spool"; start_ps; }
	rm -f "$T/targets/vm1/"*.img # else refused: they carry something
	check "resume" cli resume
	check "thaws" wait $LATE
	check "and replicates again" until_field 30 '.state == "replicating"'
	# A mark that comes during the verification is a write that comes then: refused, and rightly so.
	thaw() {
		for _ in 1 2 3; do
			mark_until_frozen & MARKER=$!
			cli failback --yes --thaw --timeout 60s >"$T/thaw" 2>&1 && break
			wait "$MARKER"
			cat "$T/thaw"
			grep "was written during verification" "$T/thaw" && until_field 30 '.state == "replicating"' || return
		done
		wait "$MARKER"
		cli status --json | jq -e '.[].state == "failed-back"'
	}
	check "failback --thaw" thaw
	for _ in $(seq 50); do timeout 1 touch "$T/mnt/x" && break; sleep 0.1; done
	check "leaves it thawed" test -e "$T/mnt/x"
	check "ends" stop
	umount "$T/mnt" && MOUNT=''
else
	skip "failback with a mounted filesystem" "no loop devices here"
	start
fi
[ -z "$A_PID" ] || stop
no_reports
done_testing
