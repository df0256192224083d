#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# End-to-end test of the process server on loopback, with wirepeer as agent and as master target.
# TAP on stdout; works from the top of the tree or anywhere, leaves nothing behind.
#
#	PS=program WIREPEER=program KILLS=10 SEED=1 tests/e2e/process-server.sh [name of one test ...]
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
PS=${PS:-$top/build/bin/reprotect-process-server}
WIREPEER=${WIREPEER:-$top/build/e2e-tools/wirepeer}
KILLS=${KILLS:-10}
if ! [ -x "$PS" ] || ! [ -x "$WIREPEER" ]; then
	make -s -C "$top" build/bin/reprotect-process-server build/e2e-tools/wirepeer || exit 1
fi
only=("$@")

work=$(mktemp -d "${TMPDIR:-/tmp}/reprotect-ps.XXXXXX")
declare -A pids=()
count=0 failed=0
A=00000000-0000-4000-8000-00000000000a
B=00000000-0000-4000-8000-00000000000b

# ---- processes: each is ended by its own id -------------------------------------------------
start() { # name command...
	local name=$1
	shift
	"$@" >"$dir/$name.out" 2>"$dir/$name.err" &
	pids[$name]=$!
}
stop() { # name [signal]
	[ -n "${pids[$1]:-}" ] || return 0
	kill "-${2:-TERM}" "${pids[$1]}" 2>/dev/null
	wait "${pids[$1]}" 2>/dev/null
	status=$?
	unset "pids[$1]"
	return 0
}
stop_all() { for name in "${!pids[@]}"; do stop "$name"; done; }
cleanup() {
	for name in "${!pids[@]}"; do stop "$name" KILL; done
	[ -d "$work/mnt" ] && umount "$work/mnt" 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT

until_true() { # seconds command...
	local end=$((SECONDS + $1))
	shift
	until "$@" 2>/dev/null; do
		[ $SECONDS -ge $end ] && return 1
		sleep 0.1
	done
}

port=$((20000 + RANDOM % 300 * 40)) # 40 for each run, below the ephemeral ports
RANDOM=$((${SEED:-1} % 32768))
mt_up() { start mt "$WIREPEER" mt --listen "127.0.0.1:$((port + 1))" --dir "$dir/mt" "$@"; until_true 5 grep -q listening "$dir/mt.out"; }
mt_down() { stop mt "$@"; cat "$dir/mt.out" >>"$dir/mt.all"; }
ps_up() {
	start ps "$PS" --listen "127.0.0.1:$port" --master-target "127.0.0.1:$((port + 1))" --spool "${spool:-$dir/spool}" \
		--control "$dir/ps.sock" --spool-bytes "${quota:-256M}"
	until_true 20 grep -q "listens on" "$dir/ps.err" && return 0
	cat "$dir/ps.err"
	return 1
}
ps_down() { stop ps "$@"; cat "$dir/ps.err" >>"$dir/ps.all"; }
# agent_exec: for a background job that is killed, whose process id is then the agent's own
agent_exec() { exec timeout 120 "$WIREPEER" agent --connect "127.0.0.1:$port" "$@"; }
agent() { (agent_exec "$@"); }
images() { grep -h ^image "$@" | sort -u; }
ask() { # command: an answer of the control socket
	perl -MIO::Socket::UNIX -e 'alarm 5;
		my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
		print $s "{\"command\":\"$ARGV[1]\"}\n"; $s->flush; print scalar <$s>;' "$dir/ps.sock" "$1"
}

check() { # text command...
	local text=$1
	shift
	"$@" >>"$dir/log" 2>&1 && return 0
	echo "# failed: $text ($*)"
	bad=1
}
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }
# Source and target are alike: wirepeer mt prints its images when it ends.
same_images() { mt_down; same "$(images "$dir"/agent*.out)" "$(images "$dir/mt.out")"; }

run() { # name
	[ ${#only[@]} -gt 0 ] && [[ ! " ${only[*]} " == *" $1 "* ]] && return
	count=$((count + 1))
	port=$((port + 2))
	dir=$work/$1
	mkdir -p "$dir/mt"
	bad=0 quota=256M spool=
	"test_$1"
	stop_all
	if grep -qs "AddressSanitizer\|runtime error" "$dir"/*.err "$dir"/*.all; then
		bad=1
		grep -h -A20 "AddressSanitizer\|runtime error" "$dir"/*.err "$dir"/*.all | sed 's/^/# /'
	fi
	if [ "$bad" = 0 ]; then
		echo "ok $count - process server: $1"
	else
		failed=$((failed + 1))
		echo "not ok $count - process server: $1"
		for file in "$dir"/*.err "$dir"/*.out "$dir"/*.all; do
			[ -f "$file" ] && tail -n 12 "$file" | sed "s|^|# $(basename "$file"): |"
		done
	fi
	rm -rf "$dir"
}

# ---- the ordinary way -----------------------------------------------------------------------
test_replicates() {
	mt_up && ps_up || bad=1
	agent --epochs 6 --machine $A --disk root:64M --disk data:32M --epoch-bytes 12M >"$dir/agent.out" || bad=1
	check "status names the machine" grep -q "\"machine\": *\"$A\"" <(ask status)
	check "all applied" grep -q '"last_applied": *6' <(ask status)
	check "version" grep -q '"version"' <(ask version)
	mt_down
	check "same image" same "$(images "$dir/agent.out")" "$(images "$dir/mt.out" | grep $A)"
	ps_down
	check "ends cleanly" [ "$status" = 0 ]
}

test_many_agents() {
	mt_up && ps_up || bad=1
	local waits=() i
	for i in 1 2 3 4 5 6; do
		agent --epochs 4 --seed $i --machine 00000000-0000-4000-8000-00000000001$i --epoch-bytes 6M >"$dir/agent$i.out" &
		waits+=($!)
	done
	for i in "${waits[@]}"; do wait "$i" || bad=1; done
	check "same images" same_images
}

test_final_epoch_is_released() {
	mt_up && ps_up || bad=1
	agent --epochs 3 --final --image "$dir/src-" >"$dir/agent.out" || bad=1
	check "released" grep -q "ack 3 applied|released" "$dir/agent.out"
	# An agent that missed it is told again, also by a process server that was started anew.
	ps_down KILL
	ps_up || bad=1
	agent --epochs 0 >"$dir/again.out"
	check "same images" same_images
}

test_spools_while_target_is_away() {
	mt_up && ps_up || bad=1
	agent --epochs 1 --image "$dir/src-" >"$dir/agent0.out" || bad=1
	mt_down
	agent --epochs 5 --seed 2 --image "$dir/src-" --ack spooled >"$dir/agent.out" || bad=1
	check "status says so" grep -q downstream-unreachable <(ask status)
	ps_down KILL
	ps_up || bad=1
	mt_up || bad=1
	check "all applied" until_true 20 grep -q "applied .* 6" "$dir/mt.out"
	rm "$dir/agent0.out"
	check "same images" same_images
}

test_sends_again() {
	mt_up --vanish-every 40 && ps_up || bad=1
	agent --epochs 6 --epoch-bytes 8M >"$dir/agent.out" || bad=1
	check "same images" same_images
	check "resumed inside an epoch" grep -q "partial .* [1-9]" "$dir/mt.out"
}

test_slow_target_reads_back() {
	quota=512M
	mt_up --slow-kbps 40000 && ps_up || bad=1
	agent --epochs 4 --epoch-bytes 40M --disk root:128M --ack spooled >"$dir/agent.out" || bad=1
	check "all applied" until_true 40 grep -q "applied .* 4" "$dir/mt.out"
	check "same images" same_images
}

test_small_frames() {
	mt_up && ps_up || bad=1
	agent --epochs 3 --frame-bytes 4K --zero-percent 60 --epoch-bytes 48M >"$dir/agent.out" || bad=1
	check "same images" same_images
}

test_new_machine_needs_target() {
	ps_up || bad=1
	agent --epochs 0 --timeout 3 >"$dir/agent.out"
	check "told why" grep -q "error downstream-unreachable: .*remedy" "$dir/agent.out"
	mt_up || bad=1
	agent --epochs 2 >"$dir/agent.out" || bad=1
	check "same images" same_images
}

test_target_refuses() {
	mt_up --refuse target-refused && ps_up || bad=1
	agent --epochs 0 --timeout 3 >"$dir/agent.out"
	check "relayed" grep -q "error target-refused: .*remedy" "$dir/agent.out"
	check "in status or log" grep -q target-refused "$dir/ps.err"
}

test_resync_is_relayed() {
	mt_up && ps_up || bad=1
	agent --epochs 3 --image "$dir/src-" >/dev/null || bad=1
	mt_down
	rm "$dir"/mt/*
	mt_up || bad=1
	# shellcheck disable=SC2317  # until_true calls it
	asked() { ask status | grep "$1" >/dev/null; }
	until_true 10 asked '"master_target": *"idle"' || bad=1
	agent --epochs 1 --committed 3 --timeout 20 --image "$dir/src-" >"$dir/agent.out"
	check "told" grep -q "error resync-needed: .*remedy" "$dir/agent.out"
	check "status" grep -q resync-needed <(ask status)
	# After a resync the agent has forgotten nothing: all goes on. (The epoch covers the whole disk.)
	agent --epochs 1 --committed 0 --fixed --disk root:4M --frame-bytes 1M --epoch-bytes 32M >"$dir/agent.out" || bad=1
	check "goes on" grep -q "epoch .* done" "$dir/agent.out"
}

test_newer_agent_wins() {
	mt_up --mute && ps_up || bad=1
	agent_exec --epochs 1 --timeout 30 >"$dir/old.out" &
	local old=$!
	until_true 10 grep -q "ack 1 spooled" "$dir/old.out" || bad=1
	agent --epochs 0 >"$dir/new.out" || bad=1
	kill $old
	wait $old 2>/dev/null
	check "old one told" grep -q "error busy" "$dir/old.out"
	check "new one let in" grep -q hello-ack "$dir/new.out"
}

# ---- bad input: each ends its own connection, with a message, and harms nobody else ---------
test_bad_input() {
	mt_up && ps_up || bad=1
	agent --machine $B --epochs 30 --pause-ms 250 --seed 9 >"$dir/agentB.out" &
	local other=$! kind
	agent --machine $A --epochs 2 --image "$dir/src-" >/dev/null || bad=1
	for kind in garbage version header-crc bad-crc truncated vanish bad-seq bad-attempt no-begin order behind bad-digest \
		hello-garbage hello-json; do
		agent --machine $A --epochs 1 --misbehave $kind --timeout 20 >"$dir/bad-$kind.out" || {
			echo "# $kind: exit $?"
			bad=1
		}
	done
	for kind in garbage:bad-frame version:version header-crc:bad-frame bad-crc:bad-frame bad-seq:bad-frame \
		bad-attempt:bad-frame no-begin:bad-frame order:resync-needed behind:bad-frame bad-digest:bad-frame \
		hello-garbage:bad-frame hello-json:bad-frame; do
		check "${kind%:*} is told" grep -q "error ${kind#*:}: ..*remedy: ." "$dir/bad-${kind%:*}.out"
	done
	check "logged" grep -q "checksum" "$dir/ps.err"
	wait $other || bad=1
	agent --machine $A --epochs 2 --seed 7 --image "$dir/src-" >"$dir/agentA.out" || bad=1
	check "same images" same_images
	check "target saw nothing bad" test -z "$(grep ^bad "$dir/mt.out")"
}

test_stalled_agent_is_noticed() {
	mt_up && ps_up || bad=1
	agent_exec --machine $A --epochs 1 --misbehave stall >/dev/null &
	local stalled=$!
	agent --machine $B --epochs 2 >"$dir/agentB.out" || bad=1
	check "closed" until_true 20 grep -q "$A.*disconnected" "$dir/ps.err"
	kill $stalled
	wait $stalled 2>/dev/null
}

# ---- no room --------------------------------------------------------------------------------
test_quota() {
	quota=32M
	mt_up && ps_up || bad=1
	agent --epochs 1 --image "$dir/src-" >/dev/null || bad=1
	mt_down
	agent --epochs 8 --seed 2 --epoch-bytes 6M --ack spooled --image "$dir/src-" --timeout 100 >"$dir/agent.out" &
	local waiting=$!
	check "says so" until_true 20 grep -q "quota is reached" "$dir/ps.err"
	check "status says so" grep -q "spool_bytes is reached" <(ask status)
	check "tells the agent" until_true 20 grep -q "error no-space: .*remedy" "$dir/agent.out"
	check "keeps to it" test "$(du -sm "$dir/spool" | cut -f1)" -le 33
	mt_up || bad=1
	wait $waiting || bad=1
	check "all applied" until_true 20 grep -q "applied .* 9" "$dir/mt.out"
	check "same images" same_images
}

test_real_enospc() {
	[ "$(id -u)" = 0 ] || { echo "# not root: skipped"; return; }
	mkdir -p "$work/mnt"
	mount -t tmpfs -o size=48M tmpfs "$work/mnt" || { echo "# cannot mount: skipped"; return; }
	spool=$work/mnt/spool quota=1G
	mt_up && ps_up || bad=1
	agent --epochs 1 --image "$dir/src-" >/dev/null || bad=1
	mt_down
	agent --epochs 9 --seed 2 --epoch-bytes 8M --ack spooled --image "$dir/src-" --timeout 100 >"$dir/agent.out" &
	local waiting=$!
	check "says so" until_true 30 grep -q "No space left on device" "$dir/ps.err"
	mt_up || bad=1
	wait $waiting || bad=1
	check "all applied" until_true 20 grep -q "applied .* 10" "$dir/mt.out"
	check "same images" same_images
	ps_down
	umount "$work/mnt"
}

test_cannot_start() {
	mkdir "$dir/ro"
	touch "$dir/file"
	check "a file in the way" grep -q "spool directory .*file/spool: cannot make it: .*(" \
		<("$PS" --master-target 127.0.0.1:1 --spool "$dir/file/spool" --control "$dir/x.sock" 2>&1)
	check "unwritable" grep -q "spool directory /proc/reprotect: cannot make it" \
		<("$PS" --master-target 127.0.0.1:1 --spool /proc/reprotect --control "$dir/x.sock" 2>&1)
	check "no master target" grep -q "master_target is missing" <("$PS" --spool "$dir/s" 2>&1)
	check "not loopback" grep -q "cannot listen on 0.0.0.0:1" \
		<("$PS" --listen 0.0.0.0:1 --master-target 127.0.0.1:1 --spool "$dir/s" --control "$dir/x.sock" 2>&1)
	printf '[process-server]\nmaster_target = 127.0.0.1:1\nspool_byte = 3\n' >"$dir/bad.conf"
	check "unknown key" grep -q "bad.conf:3: .*spool_byte" <("$PS" --config "$dir/bad.conf" --check-config 2>&1)
	check "sample is good" "$PS" --config "$top/userspace/process-server/process-server.conf" --check-config
	ps_up || bad=1
	check "second instance" grep -q "another process server uses it" \
		<("$PS" --listen 127.0.0.1:0 --master-target 127.0.0.1:1 --spool "$dir/spool" --control "$dir/x.sock" 2>&1)
	check "second listener" grep -q "cannot listen on .*another program" \
		<("$PS" --listen "127.0.0.1:$port" --master-target 127.0.0.1:1 --spool "$dir/s" --control "$dir/x.sock" 2>&1)
}

# ---- kill -9 at any moment ------------------------------------------------------------------
kill_loop() { # which of "ps", "mt", "both"
	quota=128M
	mt_up --seed $RANDOM && ps_up || bad=1
	agent --epochs $((KILLS * 2 + 4)) --epoch-bytes 12M --frame-bytes 128K --pause-ms 20 --timeout 110 --ack "$2" \
		>"$dir/agent.out" &
	local waiting=$! i
	for ((i = 0; i < KILLS; i++)); do
		sleep "0.$((RANDOM % 70 + 10))"
		if [ "$1" != mt ]; then
			ps_down KILL
			ps_up || { bad=1; break; }
		fi
		if [ "$1" != ps ]; then
			mt_down KILL
			mt_up || { bad=1; break; }
		fi
	done
	wait $waiting || bad=1
	touch "$dir/mt.all"
	check "all applied" until_true 20 grep -q "applied .* $((KILLS * 2 + 4))\$" "$dir/mt.all" "$dir/mt.out"
	# So that a target that was started last knows the machine, and the process server its own state.
	agent --epochs 0 >"$dir/last.out"
	check "nothing forgotten" grep -q "\"last_complete\":$((KILLS * 2 + 4))," "$dir/last.out"
	until_true 10 grep -q ^hello "$dir/mt.out"
	check "same images" same_images
	check "never behind the target" test -z "$(grep -h "the spool ended with" "$dir/ps.all" "$dir/ps.err")"
	check "target saw nothing bad" test -z "$(grep -h "^bad\|^refused" "$dir/mt.all" "$dir/mt.out")"
	# Every epoch once and in order; one that was applied when the target was killed may come again.
	check "in order" sort -c -n <(grep -h "^applied" "$dir/mt.all" | awk '{ print $3 }')
}
test_kill_process_server() { kill_loop ps applied; }
test_kill_process_server_spooled() { kill_loop ps spooled; }
test_kill_both() { kill_loop both applied; }

for name in $(declare -F | sed -n 's/^declare -f test_//p'); do
	run "$name"
done
echo "1..$count"
[ "$failed" = 0 ]
