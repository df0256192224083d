#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Recovery points on loopback: master target with a retention volume (ext4 on a loop device), wirepeer in the place of a process
# server, and for what a rollback is to an agent, agent and process server. Content is compared with what was
# written down when an epoch was acknowledged. Prints TAP; needs root and loop devices. KILLS: how often an epoch is
# killed (default 3). SEED: of everything that is random (default 1). ONLY: names of parts.
# shellcheck disable=SC2119
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

KILLS=${KILLS:-3}
SEED=${SEED:-1}
RANDOM=$((SEED % 32768))
MT=${MT:-build/test/reprotect-master-target-asan}
VIA=ps NAME=retention-e2e MOUNTS=() PEER=''
WIREPEER=build/e2e-tools/wirepeer
PLUGIN=build/lib/nbdkit-reprotect-plugin.so
[ -n "${NO_BUILD:-}" ] || make -s "$WIREPEER" "$PLUGIN" >/dev/null || exit 1
# shellcheck source=tests/e2e/lib/agent.sh
. tests/e2e/lib/agent.sh

cleanup() {
	local m f
	for f in "$T"/exports/*.pid; do [ ! -e "$f" ] || kill -9 "$(cat "$f")" 2>/dev/null; done
	[ -z "$PEER" ] || { kill -CONT "$PEER"; kill -9 "$PEER"; } 2>/dev/null
	kill -9 ${M_PID:+"$M_PID"} 2>/dev/null
	for m in ${MOUNTS[@]+"${MOUNTS[@]}"}; do umount -l "$m" 2>/dev/null; done
	end_all
}
trap cleanup EXIT

# ---- tools ----------------------------------------------------------------------------

# volume NAME SIZE [TYPE]: a file system of its own at $T/NAME
volume() {
	truncate -s "$2" "$T/$1.vol" && mkdir -p "$T/$1" || return 1
	case ${3:-ext4} in
	ext4) mkfs.ext4 -q -F -m 0 -J size=4 -E lazy_itable_init=0,lazy_journal_init=0 "$T/$1.vol" ;;
	*) "mkfs.$3" "$T/$1.vol" >/dev/null ;;
	esac
	mount -o loop "$T/$1.vol" "$T/$1" || return 1
	MOUNTS+=("$T/$1")
}
# policy VOLUME LINE...: of the configuration
policy() {
	cp "$T/mt.base" "$T/mt.conf"
	printf 'retention = %s\n' "$1" >>"$T/mt.conf"
	shift
	for line in "$@"; do echo "$line"; done >>"$T/mt.conf"
}
stop_mt() {
	[ -n "$M_PID" ] || return 0
	kill -TERM "$M_PID" && wait "$M_PID"
	local rc=$?
	M_PID=''
	return $rc
}
kill_mt() { kill -9 "$M_PID"; wait "$M_PID" 2>/dev/null; M_PID=''; }
# fresh VOLUME LINE...: as if nothing had been there before
fresh() {
	stop_mt
	cat "$T/mt.log" >>"$T/mt.all"
	: >"$T/mt.log"
	rm -rf "$T/mt-state" "$T/targets"
	mkdir "$T/targets"
	rm -rf "$1"/*-*-* "$T"/src-*
	ID=() SUM=() AT=()
	policy "$@"
	start_mt
}
# In the background it is stopped and killed: its process id is the peer's own.
peer_exec() { exec "$WIREPEER" agent --connect "127.0.0.1:$M_PORT" "${DISKS_ARE[@]}" --image "$T/src-" --seed $RANDOM "$@"; }
peer() { (peer_exec "$@"); }
mt() { "$CLI" "$@" --socket "$T/mt.sock"; }
points() { mt points list testvm --json | jq -c ".[0] | $1"; }
# names: of all points, oldest first
names() { points '[.points[].name] | join(" ")' | tr -d '"'; }
retention() { build/bin/reprotect status --json --socket "$T/mt.sock" | jq -r '."reprotect-master-target".retention | '"$1"; }
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >"$T/until" 2>&1; do
		[ $SECONDS -lt $end ] || { echo "never: $*"; cat "$T/until"; return 1; }
		sleep 0.05
	done
}
ask() { # JSON: an answer of the control socket
	perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
		print $s "$ARGV[1]\n"; $s->flush; print scalar <$s>;' "$T/mt.sock" "$1"
}
sum() { cat "$@" | sha256sum | cut -d' ' -f1; }
sources() { local d f=(); for d in "${ON[@]}"; do f+=("$T/src-$d.img"); done; sum "${f[@]}"; }
targets() { local d f=(); for d in "${ON[@]}"; do f+=("$T/targets/testvm/$d.img"); done; sum "${f[@]}"; }
# disks NAME:SIZE...: of the machine from now on
disks() {
	DISKS_ARE=() ON=()
	local d
	for d in "$@"; do DISKS_ARE+=(--disk "$d"); ON+=("${d%%:*}"); done
}
declare -A ID SUM AT
# epoch LABEL ARGUMENT...: one more; what the disks are then is written down
epoch() {
	local label=$1
	shift
	peer --epochs 1 "$@" >"$T/peer" 2>&1 || { cat "$T/peer"; return 1; }
	SUM[$label]=$(sources)
	ID[$label]=$(points '.present')
	AT[$label]=$(date +%s.%3N)
	[ "$(targets)" = "${SUM[$label]}" ]
}
tagged() { epoch "$2" --tag "$1:$2" "${@:3}"; }
as() { [ "$(targets)" = "${SUM[$1]}" ] || { echo "the disks are not as they were at $1"; return 1; }; }
rollback() { mt points rollback testvm "$@" --yes; }
# chosen SELECTOR...: the id of the point (what is not pinned is not unpinned by this)
chosen() { mt points unpin testvm "$@" --json | jq .id; }
# fails NAME PATTERN COMMAND...: it does, and says so
fails() {
	local name=$1 pattern=$2
	shift 2
	if "$@" >"$T/out" 2>&1; then not_ok "$name: it succeeds"; else says "$name" "$pattern"; fi
}
# uris POINT: export its disks
E=(--exports "$T/exports")
X=("${E[@]}" --plugin "$PWD/$PLUGIN")
uris() { mt points export testvm "$1" --json "${X[@]}" | jq -r '.[].uri'; }
applied() { point .last_applied; }
layers() { point .points.layers; }
whole() { [ "$(point '[.points.in_between, .rollback.state] | map(tostring) | join(" ")')" = "false ${1:-idle}" ]; }
part() {
	[ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $1 "* ]] || return 1
	echo "# ---- $1 ($SECONDS s)"
}

# hunt PID SECONDS PATTERN FRACTION JSON: ask for JSON again and again; once the answer matches, and done_bytes are that part of
# total_bytes (or of expected_bytes), kill -9 PID at once. For what is over in a fraction of a second.
cat >"$T/hunt" <<'END'
use strict; use IO::Socket::UNIX; use Time::HiRes qw(time sleep);
my ($socket, $pid, $seconds, $pattern, $part, $json) = @ARGV;
my $end = time + $seconds;
while (time < $end) {
	my $s = IO::Socket::UNIX->new(Peer => $socket) or next;
	print $s "$json\n"; $s->flush;
	my $answer = <$s> // next;
	next unless $answer =~ /$pattern/;
	my ($done) = $answer =~ /"(?:done_bytes|bytes)": ?(\d+)/ or next;
	my ($total) = $answer =~ /"(?:total_bytes|expected_bytes)": ?([1-9]\d*)/ or next;
	next if $done < $part * $total;
	kill 9, $pid;
	printf "# killed at %.0f %%\n", 100 * $done / $total;
	exit 0;
}
print "never: $pattern\n";
exit 1;
END
hunt() { perl "$T/hunt" "$T/mt.sock" "$M_PID" "$@"; }
# merging SECONDS [PID]: stop the child that merges, in the middle of it: it has its file open; prints its process id. PID: one that
# is stopped, to be killed first, so that the next one does not get away.
cat >"$T/merging" <<'END'
use strict; use Time::HiRes qw(time);
my ($pid, $seconds, $old) = @ARGV;
my $end = time + $seconds;
sub writes { grep { (readlink($_) // '') =~ /[.]undo[.]tmp$/ } glob("/proc/$_[0]/fd/*") }
kill 'KILL', $old if $old;
while (time < $end) {
	open my $list, '<', "/proc/$pid/task/$pid/children" or exit 1;
	for my $child (split ' ', <$list> // '') {
		next unless writes($child);
		kill 'STOP', $child or next;
		if (writes($child)) { print "$child\n"; exit 0 }
		kill 'CONT', $child;
	}
}
exit 1;
END
merging() { perl "$T/merging" "$M_PID" "$@" >"$T/child"; }

if [ "$(id -u)" -ne 0 ] || ! volume main 1G 2>"$T/out"; then
	skip "retention" "needs root and loop devices"
	done_testing
	exit
fi
for program in nbdkit nbdcopy jq; do
	command -v $program >/dev/null || { not_ok "there is no $program (scripts/install-deps test)"; done_testing; exit; }
done
echo "# seed $SEED"
cp "$T/mt.conf" "$T/mt.base"
: >"$T/mt.all"
LOGS=("$T/mt.log")

# ---- points, and how they are chosen -----------------------------------------------------
next_second() { local now=$EPOCHSECONDS; until [ "$EPOCHSECONDS" -gt "$now" ]; do sleep 0.02; done; }
if part points; then
disks root:12M data:5M
check "starts with a retention volume" fresh "$T/main"
check "an initial epoch" epoch initial --initial --epoch-bytes 8M
check "no point in an initial sync" test "$(points '.points | length')" = 0
mt points list testvm >"$T/out" 2>&1
says "and it says why" 'none comes before the initial sync'
fails "nothing to choose from" 'there is no.* recovery point' chosen latest
check "a consistent epoch" epoch first --consistent
check "is a point" test "$(names)" = epoch-2
check "an app tag" tagged app deploy
check "a crash tag" tagged crash c1
next_second
check "a crash tag, a second later" tagged crash c2
next_second
clock=$(date '+%F %T')
for label in twin1 twin2; do epoch $label --tag crash:twin >"$T/out" 2>&1 || not_ok "$label"; done
check "a fuzzy epoch" epoch fuzzy --fuzzy
check "another app tag" tagged app a2
check "a fuzzy epoch" epoch fuzzy2 --fuzzy
check "and the last" tagged crash last
check "a point for each that was consistent, in order" test "$(names)" = "epoch-2 deploy c1 c2 twin twin a2 last"
is "what a list has of them" "$(points '[.points[] | .kind[0:1] + (.disks | length | tostring) + if .complete and .consistent then "" else "?" end] | join(" ")')" \
	'"c2 a2 c2 c2 c2 c2 a2 c2"'
is "one is what the disks are" "$(points '[.points[] | select(.present) | .name] | join(" ")')" '"last"'
is "ids grow" "$(points '[.points[].id] | . == (sort | unique)')" true
mt points list testvm >"$T/out" 2>&1
says "the list for people" "^ +${ID[deploy]}  20[0-9-]+ [0-9:]+ .* app +deploy "
says "its summary" '8 points, 2 of them app-consistent; from 20'
is "status counts them" "$(point .points.count)" 8
is "by name" "$(chosen deploy)" "${ID[deploy]}"
is "by number" "$(chosen "#${ID[c1]}")" "${ID[c1]}"
is "by number alone" "$(chosen "${ID[c1]}")" "${ID[c1]}"
is "latest" "$(chosen latest)" "${ID[last]}"
is "latest-app" "$(chosen latest-app)" "${ID[a2]}"
is "by time: the newest not later than it" "$(chosen "@${AT[c1]}")" "${ID[c1]}"
is "by time of day" "$(chosen "$clock")" "${ID[c2]}"
is "in two words" "$(chosen "${clock% *}" "${clock#* }")" "${ID[c2]}"
fails "an ambiguous name" 'ambig|2 points have that name: #[0-9]+' chosen twin
says "says which there are" "#${ID[twin1]} .*#${ID[twin2]} "
fails "an unknown name" 'no point has that name' chosen nobody
fails "an unknown number" "no recovery point has that number; before it #${ID[last]}" chosen 4711
fails "a fuzzy epoch is no point" "no recovery point has that number" chosen "${ID[fuzzy]}"
fails "before the first" "no point goes back to .*the oldest is #${ID[first]}" chosen "2020-01-01 00:00"
fails "a time to come" 'has not come yet' chosen "2090-01-01 00:00"
fails "an unknown machine" 'machine nobody: not known' mt points unpin nobody latest
fails "rollback needs an answer" 'say --yes' mt points rollback testvm deploy
check "nothing has changed by all that" as last

# ---- rollback ---------------------------------------------------------------------
check "rollback by name" rollback deploy
says "it says what to do next" 'reprotect points discard testvm --newer-than'
check "the disks are as they were" as deploy
is "newer points are still there" "$(points '[.points[] | select(.copy_of == 0) | .name] | join(" ")')" '"epoch-2 deploy c1 c2 twin twin a2 last"'
is "status says so" "$(point .status)" rolled-back
build/bin/reprotect status --socket "$T/mt.sock" >"$T/out" 2>&1
says "for people, too" 'rolled.back'
fails "the same again: refused" 'in that state already' rollback "#$(points .present)"
refused_epoch() { # the source stays as it is
	mkdir -p "$T/aside" && cp "$T"/src-*.img "$T/aside/"
	peer --epochs 1 --timeout 8 >"$T/out" 2>&1
	cp "$T"/aside/src-*.img "$T/"
}
refused_epoch
says "an epoch is refused" '^error rolled-back: machine testvm: .*remedy: .*reprotect points rollback'
check "and has written nothing" as deploy
check "to an older point, from there" rollback "@${AT[first]}"
check "the disks are as they were" as first
check "to a newer one, by number" rollback "#${ID[twin2]}"
check "the disks are as they were" as twin2
fails "there is none to stop" 'no rollback is under way' mt points rollback testvm --stop
check "taken back" rollback undo
check "the disks are as before it" as first
check "and to the latest" rollback latest
check "the disks are as they were" as last
is "replication goes on" "$(point .status)" replicating
check "with the next epoch" tagged crash after
check "a point chosen again" rollback deploy
check "the disks are as they were" as deploy
check "kill -9 of a master target at rest" kill_mt
check "it starts again" start_mt
check "the disks are as they were" as deploy
is "it knows that they are rolled back" "$(point .status)" rolled-back
check "taken back" rollback undo
check "the disks are as they were" as after
check "and it goes on" tagged crash after2

# ---- export, while epochs go on ------------------------------------------------------------
mapfile -t one < <(uris c1)
mapfile -t two < <(uris a2)
is "two points exported, two disks each" "${#one[@]} ${#two[@]}" "2 2"
copied() { # URI...
	local uri n=0
	for uri in "$@"; do n=$((n + 1)); nbdcopy "$uri" "$T/copy$n" || return 1; done
	sum "$T/copy1" "$T/copy2"
}
peer_exec --epochs 1000 --tag crash:busy --epoch-bytes 2M --timeout 90 >"$T/peer" 2>&1 &
PEER=$!
before=$(applied) right=0
went_on() { [ "$(applied)" -gt "$before" ]; }
for n in 1 2 3; do
	until_true 20 went_on
	before=$(applied)
	[ "$(copied "${one[@]}")" != "${SUM[c1]}" ] || right=$((right + 1))
	[ "$(copied "${two[@]}")" != "${SUM[a2]}" ] || right=$((right + 1))
done
is "copies made while epochs go on are exact" $right 6
check "and epochs went on meanwhile" until_true 20 went_on
kill "$PEER"; wait "$PEER" 2>/dev/null; PEER=''
unconnected() { [ "$(point .connected)" = null ]; }
check "the master target has noticed" until_true 20 unconnected
fails "an exported machine is not forgotten" 'is exported' mt target forget testvm --yes
fails "nor is its point discarded" 'in use' mt points discard testvm c1 --yes
check "ended" mt points unexport --all "${E[@]}"
check "then it is" mt points discard testvm c1 --yes
fails "and is no longer there" 'no point has that name' chosen c1
fi

# ---- what a rollback is to agent and process server -----------------------------------------
if part agent; then
truncate -s 12M "$T/d1"; truncate -s 5M "$T/d2"
dd if=/dev/urandom of="$T/d1" bs=1M count=9 conv=notrunc status=none
check "starts" fresh "$T/main"
configure
check "agent and process server start" eval 'start && start_ps'
check "an agent's epochs are points" consistent
vm1() { sum "$T/targets/vm1/root.img" "$T/targets/vm1/data.img"; }
same() { cmp "$T/d1" "$T/targets/vm1/root.img" && cmp "$T/d2" "$T/targets/vm1/data.img"; }
w d1 4096 65536
w d2 8192 8192
check "a tag" cli tag crash --name good --timeout 30s
good=$(vm1)
is "its time is the cut's" "$(mt points list vm1 --json | jq '.[0].points[] | select(.name == "good") | .time_ms / 1000 > now - 30')" true
w d1 4096 262144
w d2 0 65536
check "another" cli tag crash --name bad --timeout 30s
epoch_bad=$(field .epochs.applied)
check "rollback while agent and process server are there" mt points rollback vm1 good --yes
is "the disks are as they were" "$(vm1)" "$good"
w d1 1048576 131072
check "the agent says why it waits" until_field 20 '[.. | .message? // empty] | any(test("rolled back"))'
cli status >"$T/out" 2>&1
says "and what to do" 'reprotect points rollback'
build/bin/reprotect status --socket "$T/ps.sock" >"$T/out" 2>&1
says "so does the process server" 'rolled back'
is "the disks stay as they were" "$(vm1)" "$good"
resyncs=$(grep -cE 'resync|initial sync' "$T/agent.log")
check "back to the latest" mt points rollback vm1 latest --yes
check "agent and process server go on" consistent
check "with what has changed meanwhile" until_true 40 same
is "without a resync" "$(grep -cE 'resync|initial sync' "$T/agent.log")" "$resyncs"
is "with the next epoch" "$(field ".epochs.applied > $epoch_bad")" true
check "the agent ends" stop
kill "$P_PID"; wait "$P_PID" 2>/dev/null; P_PID=''
fi

# ---- kill -9 ------------------------------------------------------------------------------
if part kill; then
disks root:112M
check "starts" fresh "$T/main" "retention_reserve = 16M"
whole_disk() { tagged crash "$1" --epoch-bytes 105M --frame-bytes 1M --fixed --zero-percent 0; }
for label in k1 k2; do check "an epoch of nearly all of the disk" whole_disk $label; done
for n in $(seq "$KILLS"); do
	old=$(sources)
	peer_exec --epochs 1 --tag "crash:n$n" --epoch-bytes 40M --frame-bytes 256K --timeout 90 >"$T/peer" 2>&1 &
	PEER=$!
	check "kill $n of an epoch" hunt 30 '"in_between": ?true' "0.$((RANDOM % 9))" '{"command":"status"}'
	grep '^#' "$T/out"
	kill -STOP "$PEER"
	wait "$M_PID" 2>/dev/null
	M_PID=''
	check "kill $n: starts again" start_mt
	check "kill $n: it is whole before anybody connects" until_true 20 whole
	is "kill $n: the disk is as of the epoch before, or of this one" "$([[ " $old $(sources) " == *" $(targets) "* ]] && echo so)" so
	kill -CONT "$PEER"
	wait "$PEER" || not_ok "kill $n: the epoch arrives" "$T/peer"
	PEER=''
	SUM[n$n]=$(sources)
	check "kill $n: the epoch arrives" as "n$n"
done
ask '{"command":"rollback","machine":"testvm","point":"k1"}' >/dev/null
for part in 0.02 0.3 0.7; do
	check "kill of a rollback, $part of it done" hunt 30 '"state": ?"restoring"' $part '{"command":"rollback-status","machine":"testvm"}'
	grep '^#' "$T/out"
	wait "$M_PID" 2>/dev/null
	M_PID=''
	check "starts again" start_mt
done
check "the rollback goes on by itself" until_true 60 whole "done"
check "to its end" as k1
is "status says so" "$(point .status)" rolled-back
check "it can be taken back" rollback undo
check "the disk is as it was" as "n$KILLS"
check "to a point between" rollback k2
check "the disk is as it was" as k2
check "and to the latest" rollback latest
check "the disk is as it was" as "n$KILLS"
check "and it goes on" tagged crash on
is "no layer is left open, no file half made" "$(find "$T/main" -name '*.tmp' | wc -l)" 0
fi

# ---- thinning ------------------------------------------------------------------------------
if part thinning; then
disks root:8M
check "starts" fresh "$T/main"
epoch initial --initial --epoch-bytes 8M --zero-percent 0 >"$T/out" 2>&1 || not_ok "an initial epoch"
for label in c1 c2 t1 c3 c4 c5 c6 keep c7 c8 t2 c9 c10 c11 now; do
	kind=crash
	case $label in t1 | t2 | now) kind=app ;; esac
	tagged $kind $label --epoch-bytes 6M --frame-bytes 64K --zero-percent 0 >"$T/out" 2>&1 || not_ok "$label"
done
check "pinned" mt points pin testvm keep
held=$(uris c4)
before=$(layers) bytes=$(point .points.retention_bytes)
echo "# $before layers, $((bytes / 1024)) KiB: $(names)"
stop_mt
policy "$T/main" "keep_all = 0" "keep_hourly = 0" "keep_app = 1h"
check "starts with a short policy" start_mt
check "layers are being merged" merging 20
check "kill -9 of the child that does it: it is begun anew" merging 20 "$(cat "$T/child")"
check "kill -9 of the master target meanwhile" kill_mt
gone() { ! grep -q '^State:[[:space:]]*[^Z]' "/proc/$(cat "$T/child")/status"; }
check "the child goes with it" until_true 5 gone
check "starts again" start_mt
# c3 may be joined with what is in use, or wait for its end
thinned() { [ "$(names | sed 's/ c3 / /')" = "$*" ]; }
check "old points go; what is exported, pinned or of an application stays" until_true 40 thinned t1 c4 keep t2 now
echo "# $(layers) layers, $(($(point .points.retention_bytes) / 1024)) KiB: $(names)"
nbdcopy "$held" "$T/copy1"
is "what was exported all the time is exact" "$(sum "$T/copy1")" "${SUM[c4]}"
check "its export ends" mt points unexport --all "${E[@]}"
merged() { [ "$(names)" = "t1 keep t2 now" ] && [ "$(layers)" = 3 ]; }
check "then it goes as well, and all between two points is one layer" until_true 30 merged
check "space comes back" test "$(point .points.retention_bytes)" -lt $((bytes / 2))
used() { [ "$(du -sk "$T/main" | cut -f1)" -le $((($(point .points.retention_bytes) >> 10) + 1024)) ]; }
check "the files take what the status says" until_true 10 used
for label in t1 keep t2 now; do
	check "rollback to $label" rollback $label
	check "$label is exact" as $label
done
check "and it goes on" tagged crash on
check "unpinned" mt points unpin testvm keep
unpinned() { [[ " $(names) " != *" keep "* ]]; }
check "it goes" until_true 30 unpinned
check "t1 is exact still" eval 'rollback t1 && as t1 && rollback latest && as on'
is "no file is left half made" "$(find "$T/main" -name '*.tmp' | wc -l)" 0

# Time passes for points only as epochs come: a source that is silent loses none.
stop_mt
policy "$T/main" "keep_all = 3s" "keep_hourly = 0" "keep_app = 0"
check "starts with a policy of seconds" start_mt
n=0
check "a point" tagged crash first
past() { n=$((n + 1)); tagged crash "s$n" --epoch-bytes 64K && [[ " $(names) " != *" first "* ]]; }
check "it goes as others come" until_true 60 past
silent() { [ "$(points '.points[-1].age_ms > 12000')" = true ]; }
check "for a while nothing comes" until_true 30 silent
check "the points of the seconds before that are there" test "$(points '.points | length')" -gt 3
fi

# ---- the volume is full ----------------------------------------------------------------------
if part full; then
disks root:24M
volume small 48M || not_ok "a small volume"
fill=(--epoch-bytes 5M --zero-percent 0)
check "starts on a small volume" fresh "$T/small" "retention_reserve = 0"
for n in $(seq 14); do tagged crash "f$n" "${fill[@]}" >"$T/out" 2>&1 || { not_ok "epoch $n"; break; }; done
check "all epochs arrive, more than it holds" as f14
check "the oldest points have gone" test "$(chosen f1 2>/dev/null)" = ""
check "and not all" test "$(points '.points | length')" -ge 5
is "status counts them" "$(retention '.dropped_for_space > 0')" true
is "status alerts" "$(retention '.alert | test("(full|short): the oldest recovery points are given up")')" true
build/bin/reprotect status --socket "$T/mt.sock" >"$T/out" 2>&1
says "for people, too" '(full|short): the oldest recovery points are given up'
says "the log alerts, and says what to do" 'full: the oldest recovery points are given up .*enlarge the retention volume' "$T/mt.log"
oldest=$(points '.points[0].name' | tr -d '"')
nbdcopy "$(uris "$oldest")" "$T/copy1"
is "the oldest that is left ($oldest) is exact" "$(sum "$T/copy1")" "${SUM[$oldest]}"
mt points unexport --all "${E[@]}"
unread() { ! ls "$T"/small/*/use/[0-9]* 2>/dev/null; }
check "what a reader has left is cleared away" until_true 20 unread

stop_mt
policy "$T/small" "retention_reserve = 30M"
check "starts with a reserve" start_mt
roomy() { [ "$(retention '.bytes_free >= 30 * 1048576')" = true ]; }
check "points go until that is free" until_true 20 roomy

check "starts with retention_full = pause" fresh "$T/small" "retention_reserve = 0" "retention_full = pause"
tagged crash p0 "${fill[@]}" || not_ok "p0"
peer_exec --epochs 14 --tag crash:p "${fill[@]}" --timeout 90 >"$T/peer" 2>&1 &
PEER=$!
check "it stops" until_true 40 grep -q '^error ' "$T/peer"
says "with the cause and what to do" '^error no-space: .*remedy: ..*' "$T/peer"
is "status alerts" "$(retention '.alert | test("(full|short): replication of testvm is paused")')" true
build/bin/reprotect status --socket "$T/mt.sock" >"$T/out" 2>&1
says "for people, too" 'replication of testvm is paused'
at=$(applied)
check "no point was given up" test "$(points '.points[0].name')" = '"p0"'
echo "# paused behind epoch $at with $(points '.points | length') points"
for id in $(points '.points[:5][].id'); do check "discarded: #$id" mt points discard testvm "#$id" --yes; done
over() { ! kill -0 "$PEER" 2>/dev/null; }
check "then replication goes on" until_true 60 over
wait "$PEER"
is "to its end" $? 0
PEER=''
check "the disk is the source's" test "$(targets)" = "$(sources)"

check "starts with a reserve, too" fresh "$T/small" "retention_reserve = 30M" "retention_full = pause"
fails "stops when less than that is free, and says what to do" '^error no-space: .*remedy: ..*' tagged crash p --epochs 14 "${fill[@]}"
says "the log says why" 'space is short: replication of testvm is paused, as the policy says' "$T/mt.log"
is "no epoch was begun in vain" "$(grep -c 'undoing an epoch' "$T/mt.log")" 0
is "and there is room" "$(retention '.bytes_free >= 20 * 1048576')" true
fi

# ---- a rollback for which there is no room -----------------------------------------------------
if part room; then
disks root:24M
volume tight 64M || not_ok "a small volume" # two whole disks, not three
big=(--epoch-bytes 24M --frame-bytes 24M --zero-percent 0 --fixed)
check "starts on a volume with little room" fresh "$T/tight" "retention_reserve = 1M"
check "an initial epoch" epoch initial --initial "${big[@]}"
for label in r0 r1; do check "a point" tagged crash $label "${big[@]}"; done
check "a rollback for which there is room" rollback r0
check "the disk is as it was" as r0
fails "and back: there is none, which is told beforehand" 'WARNING: that may not be enough' rollback latest
says "and why it has failed" 'points rollback: .*No space left on device.*free space on the retention volume'
check "what it did is undone" until_true 20 whole failed
check "the disk is as before it" as r0
is "it is rolled back still" "$(point .status)" rolled-back
is "both points are there" "$(chosen r0) $(chosen r1)" "${ID[r0]} ${ID[r1]}"
fi

# ---- volumes that are refused -----------------------------------------------------------------
if part refused; then
disks root:4M
refused() { # NAME PATTERN DIRECTORY
	fresh "$3" 2>/dev/null
	peer --epochs 1 --timeout 3 --initial >"$T/out" 2>&1
	says "$1: refused" "^error retention-refused: .*$2.*remedy: ..*"
	says "$1: the log says so at the start" "$2" "$T/mt.log"
	is "$1: status, too" "$(retention '.fit == false and (.why | length > 0) and (.remedy | length > 0)')" true
	build/bin/reprotect status --socket "$T/mt.sock" >"$T/out" 2>&1
	says "$1: for people" "$2"
	fails "$1: preflight says the same" "$2" mt preflight retention "$3"
	check "$1: nothing is left there" test -z "$(find "$3" -mindepth 1 ! -name lost+found ! -name lock 2>/dev/null)"
}
if [ "$(stat -c %d /var/tmp)" = "$(stat -c %d /)" ]; then
	plain=$(mktemp -d /var/tmp/retention-e2e.XXXXXX)
	MOUNTS+=("$plain")
	refused "on the root file system" "it is on the root file system" "$plain"
	stop_mt
	rm -rf "$plain"
else
	skip "on the root file system" "/var/tmp is not on it"
fi
if volume fat 16M vfat 2>"$T/out"; then
	refused "FAT" "its file system is vfat" "$T/fat"
else
	skip "FAT" "cannot be mounted"
fi
volume ro 24M && mount -o remount,ro "$T/ro"
refused "read-only" "it is mounted read-only" "$T/ro"
refused "not there" "it does not exist" "$T/nowhere"
fresh "$T/main"
mkdir -p "$T/main/disks"
printf '[target testvm/root]\npath = %s/main/disks/root\n' "$T" >>"$T/mt.conf"
truncate -s 4M "$T/main/disks/root"
stop_mt; start_mt
peer --epochs 1 --timeout 3 --initial >"$T/out" 2>&1
says "with a target disk on it: refused" "^error retention-refused: .*it holds .*target .*/main/disks/root.*remedy: ..*"
fails "preflight says the same" "it holds .*target .*/main/disks/root" mt preflight retention "$T/main"
rm -rf "$T/main/disks"

volume gone 64M || not_ok "a volume"
check "starts" fresh "$T/gone"
epoch g0 --initial --epoch-bytes 4M || not_ok "g0"
tagged crash g1 || not_ok "g1"
tagged crash g2 || not_ok "g2"
stop_mt
umount "$T/gone"
check "starts without the volume that it had" start_mt
peer --epochs 1 --timeout 3 >"$T/out" 2>&1
says "not mounted, although there are points: no epoch is taken" "^error retention-missing: machine testvm: .*remedy: .*mount .*reprotect points discard"
check "the disk stays as it was" as g2
is "status says so" "$(point '.last_error.message | test("undo log cannot be had")')" true
fails "preflight says why" "it is on the root file system|it does not exist|REFUSED" mt preflight retention
mount -o loop "$T/gone.vol" "$T/gone"
fit() { [ "$(retention .fit)" = true ]; }
check "mounted again: it is noticed" until_true 20 fit
peer --epochs 1 --tag crash:g3 --timeout 30 >"$T/out" 2>&1
says "it goes on" '^epoch [0-9]+ done'
is "with all points" "$(names)" "g1 g2 g3"
check "which are exact" eval 'rollback g1 && as g1 && rollback latest'
stop_mt
umount "$T/gone"
check "starts without it once more" start_mt
fails "it is not taken lightly" 'say --yes' mt points discard testvm --all
check "its points are given up" mt points discard testvm --all --yes
stop_mt
policy none
check "starts without retention" start_mt
peer --epochs 1 --timeout 20 >"$T/out" 2>&1
says "and it goes on without" '^epoch [0-9]+ done'
mount -o loop "$T/gone.vol" "$T/gone"
stop_mt
policy "$T/gone"
check "starts with the volume again" start_mt
peer --epochs 1 --tag crash:h1 --timeout 20 >"$T/out" 2>&1
says "a new log is begun there" '^epoch [0-9]+ done'
is "and what was given up stays so" "$(names | tr ' ' '\n' | grep -c '^g')" 0
peer --epochs 1 --tag crash:h2 --timeout 20 >"$T/out" 2>&1
check "its points can be rolled back to" rollback h1
fi

check "the master target ends cleanly" stop_mt
cat "$T/mt.log" >>"$T/mt.all"
check "no sanitizer report" none 'ERROR: |runtime error|LeakSanitizer' "$T/mt.all"
no_reports
done_testing
