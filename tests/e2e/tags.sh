#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Consistent epochs, crash and application tags, and snapshots, on loopback without the kernel
# module: agent (--test-tracker, which can preserve, and fail to on demand) and master target, and the process
# server between them. Freezing is tried on real ext4 on loop devices. Prints TAP. SECONDS_EXACT: how
# long dependent writes are checked (default 12).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

SECONDS_EXACT=${SECONDS_EXACT:-12}
VIA=ps NAME=tags-e2e W_PID='' LOOPS=() MOUNTS=()
# shellcheck source=tests/e2e/lib/agent.sh
. tests/e2e/lib/agent.sh

cleanup() {
	[ -z "$W_PID" ] || kill -9 "$W_PID" 2>/dev/null
	for m in ${MOUNTS[@]+"${MOUNTS[@]}"}; do fsfreeze -u "$m" 2>/dev/null; done
	for m in ${MOUNTS[@]+"${MOUNTS[@]}"}; do umount "$m" 2>/dev/null; done
	for l in ${LOOPS[@]+"${LOOPS[@]}"}; do losetup -d "$l" 2>/dev/null; done
	umount "$T/under" 2>/dev/null # a loop device was on it
	end_all
}
trap cleanup EXIT

ms() { date +%s%3N; }
same() { cmp "$T/d1" "$T/targets/vm1/root.img" && cmp "$T/d2" "$T/targets/vm1/data.img"; }
synced_and_same() { synced "${1:-30}" && same; }

truncate -s 48M "$T/d1"; truncate -s 16M "$T/d2"
dd if=/dev/urandom of="$T/d1" bs=1M count=40 conv=notrunc status=none
dd if=/dev/urandom of="$T/d2" bs=1M count=9 conv=notrunc status=none

# ---- consistent epochs --------------------------------------------------------------
configure slice_bytes=16M
start && start_mt && start_ps || exit 1
check "after the initial sync epochs are consistent" consistent
says "and the log says when" 'is fuzzy: initial sync' "$T/agent.log"
says "that it changed" 'epochs are consistent from epoch' "$T/agent.log"
w d1 4096 8192
check "a crash tag with every consistent epoch" until_point 10 '.points.last_crash.epoch == .points.consistent_epoch and .points.consistent_epoch == .last_applied'
is "its time is the wall clock's, to the millisecond" "$(point '.points.last_crash.time | test("^20[0-9-]+T[0-9:]+[.][0-9]{3}Z$")')" true
check "the agent knows that it is applied" until_field 5 '.tags.crash.epoch == .epochs.applied'
check "and it is the source's content" synced_and_same
cli status >"$T/out"
says "status: consistency" 'consistency +epoch [0-9]+ is consistent' "$T/out"
says "status: last tags" 'tags +crash: crash-[0-9]+ \(epoch [0-9]+\), .* ago; app: none yet' "$T/out"
says "status: holds" 'holds +3: median up to .*, p99 up to .*, longest 40 us' "$T/out"
says "status: preserve budget" 'preserve +0 B held of 64.* 0 epochs downgraded' "$T/out"
"$CLI" status --socket "$T/mt.sock" >"$T/out"
says "status of the master target" 'point +consistent as of epoch [0-9]+' "$T/out"

stop; configure slice_bytes=64M; start
mark d1 0 4096; mark d2 0 4096
for d in d1 d2; do printf '%-4096d' 0 | dd of="$T/$d" conv=notrunc status=none; mark $d 0 4096; done
synced >"$T/out" 2>&1
# Log first, then data, each marked and written under the tracker's lock: a cut is before or behind it. Read
# from the live disks, data would be newer than its log: 40 MiB lie between, more than is read at once.
perl -MFcntl=:flock,:seek -e '
	my ($t, $n) = ($ARGV[0], 0);
	open my $lock, "+<", "$t/tracker/lock" or die; open my $one, "+<", "$t/d1" or die; open my $two, "+<", "$t/d2" or die;
	sub put { my ($disk, $fh, $more) = @_;
		flock $lock, LOCK_EX;
		open my $dirty, ">>", "$t/tracker/$disk.dirty"; print $dirty "0 4096\n$more"; close $dirty;
		sysseek $fh, 0, SEEK_SET; syswrite $fh, sprintf("%-4096d", $n);
		flock $lock, LOCK_UN }
	while (1) { $n++; put("d1", $one, $n % 50 ? "" : "1048576 41943040\n"); put("d2", $two, ""); select undef, undef, undef, 0.0005 }
' "$T" & W_PID=$!
epochs=0 wrong=0 last=0 end=$((SECONDS + SECONDS_EXACT)) latest=$((SECONDS + SECONDS_EXACT + 60))
while [ $SECONDS -lt $end ] || { [ "$epochs" -lt 5 ] && [ $SECONDS -lt $latest ]; }; do
	read -r before word < <(point '"\(.last_applied) \(if .points.in_between then "in-between" else .points.consistency end)"')
	log=$(head -c 12 "$T/targets/vm1/root.img") data=$(head -c 12 "$T/targets/vm1/data.img")
	read -r after busy < <(point '"\(.last_applied) \(.points.in_between)"')
	[ "$word/$busy/$before" = "consistent/false/$after" ] || continue
	[ "$before" != "$last" ] || continue
	last=$before epochs=$((epochs + 1))
	if [ "$data" -gt "$log" ] || [ "$log" -gt $((data + 1)) ]; then
		wrong=$((wrong + 1))
		echo "# epoch $before: log $log, data $data"
	fi
done
check "what is written again and again is read first" until_field 20 '.points.hot_bytes > 0'
kill "$W_PID"; wait "$W_PID" 2>/dev/null; W_PID=''
echo "# $epochs epochs looked at"
check "dependent writes on two disks: epochs were caught" test "$epochs" -ge 5
is "no effect without its cause, and nothing older than that" "$wrong" 0
check "and all of it arrives" synced_and_same

stop; configure slice_bytes=16M; start
check "in sync" synced

# ---- not consistent ------------------------------------------------------------------
echo "budget exhausted, says the test" >"$T/tracker/downgrade"
w d1 65536 65536
check "a downgraded epoch goes on as fuzzy" until_point 10 '.points.consistency == "not-consistent"'
check "nothing of it is lost" synced_and_same
check "it is counted" until_field 5 '.points.downgrades > 0'
cli status >"$T/out"
says "status says why" 'FUZZY: disk (root|data): could not be preserved .*: budget exhausted, says the test' "$T/out"
says "and what to do" 'to do: .*raise preserve_budget' "$T/out"
says "the log, too" 'is fuzzy: .*budget exhausted, says the test .*raise preserve_budget' "$T/agent.log"
"$CLI" status --socket "$T/mt.sock" >"$T/out"
says "the master target: not consistent since" 'NOT CONSISTENT since epoch [0-9]+' "$T/out"
is "no tag for it" "$(point '.points.last_crash.epoch == .points.consistent_epoch')" true
w d1 131072 4096
cli tag crash --name doomed --timeout 3s >"$T/out" 2>&1
is "a tag asked for meanwhile fails" $? 1
says "and says why" 'budget exhausted, says the test.*raise preserve_budget' "$T/out"
rm "$T/tracker/downgrade"
check "consistent again by itself, although nothing is dirty" consistent

before=$(field .points.downgrades)
touch "$T/tracker/tiny-budget"
w d1 8388608 1048576
w d2 1048576 65536
check "images that fail in the middle: read from the disks" until_field 10 ".points.downgrades > $before"
check "and nothing is lost" synced_and_same
rm "$T/tracker/tiny-budget"
check "consistent after it" consistent

touch "$T/tracker/degraded"
w d1 8388608 65536
check "a tracker that cannot: fuzzy" until_point 15 '.points.consistency == "not-consistent"'
cli status >"$T/out"
says "and says so" 'FUZZY: the kernel module (cannot preserve|refused)' "$T/out"
check "and it arrives" synced_and_same
rm "$T/tracker/degraded"
check "consistent when it can" consistent

echo d2 >"$T/tracker/gone"
w d1 8388608 65536
check "a disk that is gone: not consistent" until_point 15 '.points.consistency == "not-consistent"'
cli status >"$T/out"
says "and says which" 'FUZZY: disk data is not tracked' "$T/out"
says "and what to do" 'to do: bring it back, or.*reprotect disk detach' "$T/out"
cli tag crash --name without-it --timeout 3s >"$T/out" 2>&1
says "no point is offered" 'disk data is not tracked' "$T/out"
check "the other one goes on" until_field 15 '.dirty_bytes == 0'
check "detached" cli disk detach data
check "consistent without it" consistent
rm "$T/tracker/gone"
check "attached again" cli disk attach "$T/d2" --name data
check "consistent with it" consistent
check "and nothing is lost" synced_and_same

mark d1 0 41943040
check "more than fits into one epoch: fuzzy to catch up" until_field 10 '.points.fuzzy_epochs > 3 and .dirty_bytes == 0'
says "which the log says" 'more than fits into one epoch' "$T/agent.log"
check "then consistent" consistent

# ---- named crash tags, what outlives whom ------------------------------------------------
check "tag crash --name" cli tag crash --name before-update
is "is on the master target" "$(point '.points.last_crash.name')" before-update
killed "$M_PID"; start_mt
is "where kill -9 does not lose it" "$(point '.points.last_crash.name')" before-update
stop; start
check "after a restart of the agent consistent, too" consistent
cli tag crash --name 'no spaces' >"$T/out" 2>&1
says "a name that cannot be used" 'this name cannot be used' "$T/out"
killed "$P_PID"
cli tag crash --timeout 2s >"$T/out" 2>&1
is "no tag without a connection" $? 1
says "and it says so" 'not begun within 2 s: there is no connection' "$T/out"
start_ps
check "consistent when it is back" consistent

# ---- application tags: scripts ---------------------------------------------------------------
script 10-first <<'END'
echo "first $1 $REPROTECT_TAG_NAME $REPROTECT_PHASE $REPROTECT_HOLD_SECONDS $REPROTECT_RUN_DIR" >>"$LOG"
echo "first says $1"
END
script 20-second <<'END'
echo "second $1" >>"$LOG"
END
cp "$T/app.d/20-second" "$T/app.d/README-not-run"
printf 'exit 1\n' >"$T/app.d/30-not-executable"
: >"$T/scripts.log"
check "tag app" cli tag app --name nightly
says "says where it is" 'tag nightly \(app\): epoch [0-9]+ is on the master target$' "$T/out"
is "scripts: pre in order, post in reverse" "$(cut -d' ' -f1,2 "$T/scripts.log" | paste -sd,)" "first pre,second pre,second post,first post"
says "their environment" "^first pre nightly pre [0-9]+ $T\$" "$T/scripts.log"
is "the tag is on the master target" "$(point '.points.last_app.name')" nightly
is "with exit status and output of the scripts" "$(point '[.points.last_app.scripts[] | "\(.path | split("/")[-1]) \(.phase) \(.exit) \(.output | rtrimstr("\n"))"] | join(",")')" \
	"10-first pre 0 first says pre,20-second pre 0 ,20-second post 0 ,10-first post 0 first says post"
check "the agent's status knows it" until_field 5 '.tags.app.name == "nightly"'

# no_app NAME PATTERN: a tag app that must fail for that reason, without an app tag, with a crash point behind it
no_app() {
	local before rc
	before=$(point '.points.last_app.epoch')
	: >"$T/scripts.log"
	cli tag app --name "$1" --timeout 60s >"$T/out" 2>&1; rc=$?
	is "$1: the command fails" $rc 1
	says "$1: and says why" "$2" "$T/out"
	is "$1: no app tag is offered" "$(point '.points.last_app.epoch')" "$before"
	cli status >"$T/out"
	says "$1: status says why" "last tag job +failed: .*$2" "$T/out"
	w d1 4096 4096
	check "$1: replication goes on, consistent" consistent
}
script 20-second <<'END'
echo "second $1" >>"$LOG"
[ "$1" = post ] || { echo "the database is not there"; exit 3; }
END
script 30-third <<'END'
echo "third $1" >>"$LOG"
END
no_app pre-fails '20-second pre: exit status 3: the database is not there'
is "post runs for those that were begun, and the rest is not" "$(cut -d' ' -f1,2 "$T/scripts.log" | paste -sd,)" "first pre,second pre,second post,first post"
script 20-second <<'END'
echo "second $1" >>"$LOG"
[ "$1" = pre ] || exit 4
END
no_app post-fails '20-second post: exit status 4'
stop; configure slice_bytes=16M script_timeout=1s; start; consistent >/dev/null
script 20-second <<'END'
echo "second $1" >>"$LOG"
[ "$1" = post ] || { sleep 600 & sleep 601; }
END
no_app pre-hangs '20-second pre: not done within 1000 ms, killed'
check "it and its children are gone" none 'sleep 60[01]' <(ps -eo args)
chmod o+w "$T/app.d/10-first"
no_app foreign '10-first: may be written by others than root'
chmod o-w "$T/app.d/10-first"
rm "$T/app.d/20-second" "$T/app.d/30-third"
script 20-second <<'END'
echo "second $1" >>"$LOG"
[ "$1" = post ] || echo "budget exhausted" >"${LOG%/*}/tracker/downgrade"
END
w d1 4096 4096
no_app_before=$(point '.points.last_app.epoch')
cli tag app --name not-exact >"$T/out" 2>&1
is "a cut that does not stay consistent: the command fails" $? 1
says "and says why" 'the epoch did not stay consistent: .*budget exhausted' "$T/out"
is "no app tag is offered" "$(point '.points.last_app.epoch')" "$no_app_before"
rm "$T/tracker/downgrade" "$T/app.d/20-second"
stop; configure slice_bytes=16M app_tag_interval=2s; start
check "by schedule" until_point 20 '.points.last_app.name | test("^app-20[0-9-]+T[0-9:]+Z$")'
stop; configure slice_bytes=16M consistent=no; start
cli tag app >"$T/out" 2>&1
says "consistent = no: no tags" 'consistent = no in the configuration' "$T/out"
check "consistent = no: fuzzy, and it says so" until_field 10 '.state == "replicating"'
w d1 4096 4096
check "by its configuration" until_field 10 '.points.why == "consistent = no in the configuration"'
stop

# ---- snapshot --------------------------------------------------------------------------------
configure slice_bytes=16M; start
check "in sync" consistent
cp "$T/d1" "$T/d1.then"
image=$(cli disk snapshot root 2>"$T/out")
is "disk snapshot prints the image" "$image" "$T/tracker/d1.image"
w d1 0 1048576
sleep 1
check "which is the disk as it was" cmp "$image" "$T/d1.then"
cli status >"$T/out"
says "status: replication waits" 'snapshot +disk root open .*REPLICATION WAITS' "$T/out"
says "and how to end it" 'to do: reprotect disk snapshot --release root' "$T/out"
is "what changes is not lost" "$(field '.dirty_bytes > 1000000')" true
cli tag app >"$T/out" 2>&1
says "no tag meanwhile" 'a snapshot is open, replication waits' "$T/out"
check "release" cli disk snapshot --release root
check "replication goes on" synced_and_same
cli disk snapshot --release root >"$T/out" 2>&1
says "nothing to release" 'no snapshot of it is open' "$T/out"
kill -STOP "$P_PID"
w d1 8192 4096
check "an epoch that is not acknowledged" until_field 20 '.epochs.open.phase == "waiting"'
cli disk snapshot root --timeout 1s >"$T/out" 2>&1
says "a snapshot waits for it" 'the epoch under way is not over yet' "$T/out"
kill -CONT "$P_PID"
check "and opens behind it" until_field 20 '.snapshot.state == "open"'
check "as the disk is" cmp "$image" "$T/d1"
check "release" cli disk snapshot --release root
killed "$P_PID"
w d1 12288 4096
check "a snapshot without a connection" cli disk snapshot root
check "release" cli disk snapshot --release root
check "its epoch is over" test ! -e "$T/tracker/d1.open"
check "what was to be sent before still is" test -s "$T/tracker/d1.dirty"
start_ps
check "and is sent" synced_and_same
cli disk snapshot root >"$T/out" 2>&1
killed "$A_PID"; start
check "an agent that died with a snapshot open: the next one goes on" synced_and_same
echo "no room" >"$T/tracker/downgrade"
cli disk snapshot data >"$T/out" 2>&1
check "a snapshot that is lost says so" until_field 10 '.snapshot.state == "failed" and (.snapshot.error.message | test("no room"))'
rm "$T/tracker/downgrade"
check "and replication goes on by itself" consistent
check "ends" stop

# ---- application tags: filesystems --------------------------------------------------------------
# loop FILE: prints the device
loop() { losetup -f --show "$1" 2>/dev/null; }
truncate -s 32M "$T/fs1"; truncate -s 32M "$T/under.img"
if [ "$(id -u)" = 0 ] && L1=$(loop "$T/fs1") && mkfs.ext4 -q -F "$L1" 2>"$T/out" && mkdir "$T/one" && mount "$L1" "$T/one"; then
	LOOPS+=("$L1") MOUNTS+=("$T/one")
	# The second one stands in a file on a third: when that is frozen, the second does not come to rest.
	mkfs.ext4 -q -F "$T/under.img" && mkdir "$T/under" "$T/two" && mount -o loop "$T/under.img" "$T/under"
	truncate -s 12M "$T/under/fs2"
	L2=$(loop "$T/under/fs2"); LOOPS+=("$L2")
	mkfs.ext4 -q -F "$L2" && mount "$L2" "$T/two" && MOUNTS=("$T/under" "${MOUNTS[@]}" "$T/two")
	umount "$T/one" && mount "$L1" "$T/one" # mounted last: frozen first
	rm -rf "$T/app.d" "$T/mt-state" "$T/state" "$T/spool" "$T/targets"; mkdir "$T/app.d" "$T/targets"
	killed "$M_PID"; killed "$P_PID"; start_mt; start_ps
	DISKS="one:$L1 two:$L2"
	configure slice_bytes=64M freeze_timeout=3s script_timeout=5s
	start
	check "two disks with filesystems" consistent
	seq 100000 >"$T/one/file"
	# The file tracker does not see what the filesystem writes.
	mark_all() { mark "$(basename "$L1")" 0 33554432; mark "$(basename "$L2")" 0 12582912; }
	script 90-mark <<-END
	[ "\$1" = post ] || for d in $(basename "$L1") $(basename "$L2"); do
		flock "$T/tracker/lock" sh -c "echo 0 33554432 >>'$T/tracker/\$d.dirty'"
	done
	END
	check "tag app freezes them" cli tag app --name frozen
	says "both" '2 filesystems were frozen for [0-9]+ ms' "$T/out"
	is "the tag names them, first mounted last" "$(point '[.points.last_app.filesystems[] | "\(.point) \(.type) \(.frozen)"] | join(",")')" \
		"$T/one ext4 true,$T/two ext4 true"
	dumpe2fs -h "$T/targets/vm1/one.img" 2>/dev/null >"$T/out"
	check "the copy needs no journal replay" none needs_recovery "$T/out"
	check "and is sound" e2fsck -fn "$T/targets/vm1/one.img"
	check "with all files" cmp <(debugfs -R "cat file" "$T/targets/vm1/one.img" 2>/dev/null) <(seq 100000)
	writable() { timeout -k 1 "${2:-2}" touch "$1/x.$RANDOM"; }
	check "they are thawed" writable "$T/one"
	check "both of them" writable "$T/two"

	# fs_no_app NAME PATTERN
	fs_no_app() {
		local rc before
		before=$(point '.points.last_app.epoch')
		cli tag app --name "$1" --timeout 60s >"$T/out" 2>&1; rc=$?
		is "$1: the command fails" $rc 1
		says "$1: and says why" "$2" "$T/out"
		is "$1: no app tag is offered" "$(point '.points.last_app.epoch')" "$before"
	}
	fsfreeze -f "$T/two"
	fs_no_app refuses "filesystem $T/two: cannot freeze: Device or resource busy"
	check "the other one is thawed" writable "$T/one"
	fsfreeze -u "$T/two"
	check "consistent after it" consistent

	# From here on the second one does not come to rest: what is under it is frozen after the caches were written back.
	script 50-hang <<-END
	if [ "\$1" = pre ]; then
		fsfreeze -f "$T/under"
		dd if=/dev/urandom of="$T/two/data" bs=64K count=4 conv=notrunc status=none
	fi
	END
	hang_is_over() { fsfreeze -u "$T/under"; }
	# Writing to it waits in the kernel.
	one_is_frozen() {
		touch "$T/one/probe" >/dev/null 2>&1 & local pid=$! # its output must not keep $(...) waiting
		sleep 0.2
		case $(ps -o state= -p $pid) in D*) echo true ;; esac
	}
	(cli tag app --name hangs --timeout 60s >"$T/hang" 2>&1; echo $? >"$T/hang.rc") & TAG=$!
	check "a filesystem that does not come to rest, another that is frozen" until_ 10 one_is_frozen
	started=$(ms)
	check "the other one is thawed in time" writable "$T/one" 8
	took=$(($(ms) - started))
	check "within freeze_timeout and a little ($took ms)" test $took -lt 5000
	sleep 1
	hang_is_over
	check "it is thawed itself when it comes to rest" writable "$T/two" 10
	wait "$TAG"
	is "the command fails" "$(cat "$T/hang.rc")" 1
	says "and says why" "filesystem $T/two: cannot freeze: it does not come to rest within|thawed after freeze_timeout" "$T/hang"
	check "consistent after it" consistent

	# The agent dies, or hangs, while one is frozen and the other is on its way.
	cli tag app --name killed >"$T/hang" 2>&1 & TAG=$!
	check "one is frozen" until_ 10 one_is_frozen
	killed "$A_PID"
	started=$(ms)
	check "kill -9 of the agent: thawed" writable "$T/one" 8
	took=$(($(ms) - started))
	check "at once, not at the deadline ($took ms)" test $took -lt 1500
	hang_is_over
	check "the other one as well, when it comes to rest" writable "$T/two" 10
	start
	wait "$TAG" 2>/dev/null
	check "the next agent goes on" consistent

	cli tag app --name stopped >"$T/hang" 2>&1 & TAG=$!
	check "one is frozen" until_ 10 one_is_frozen
	started=$(ms)
	kill -STOP "$A_PID"
	check "an agent that hangs: thawed" writable "$T/one" 8
	took=$(($(ms) - started))
	check "by the deadline of 3 s ($took ms)" test $took -lt 5000
	hang_is_over
	check "the other one as well" writable "$T/two" 10
	kill -CONT "$A_PID"
	wait "$TAG"; rc=$?
	is "no app tag" $rc 1
	says "and it says why" 'thawed after freeze_timeout|does not come to rest' "$T/hang"
	check "consistent after it" consistent
	rm "$T/app.d/50-hang"
	check "and the next tag is good" cli tag app --name last
	check "ends" stop
	for m in "$T/one" "$T/two"; do umount "$m"; done
	if command -v mkfs.vfat >/dev/null && mkfs.vfat "$L1" >/dev/null 2>&1 && mount -t vfat "$L1" "$T/one" 2>/dev/null; then
		start; consistent >/dev/null
		fs_no_app vfat "filesystem $T/one: cannot freeze: Operation not supported .*freeze_skip"
		stop; configure slice_bytes=64M "freeze_skip=/nowhere $T/one"; start; consistent >/dev/null
		check "freeze_skip leaves it out" cli tag app --name skipped
		is "and the tag says so" "$(point '.points.last_app.filesystems[0].frozen')" false
		stop
		umount "$T/one"
	else
		skip "a filesystem that cannot be frozen at all" "no vfat here"
	fi
	MOUNTS=("$T/under")
else
	skip "application tags with filesystems" "needs root and loop devices"
fi
[ -z "$A_PID" ] || stop
no_reports
done_testing
