#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# reprotect points export, exports, unexport and verify, against an undo log that undolog makes out of images, with undolog in the
# place of the master target: what is exported equals the images, while the disks are overwritten; damage is an error and never
# data; whatever ends in whatever way leaves nothing behind. Prints TAP. SEED: of what is random (default 1).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

SEED=${SEED:-1}
RANDOM=$((SEED % 32768))
CLI=${CLI:-build/test/reprotect-asan}
PLUGIN=build/lib/nbdkit-reprotect-plugin.so
TOOL=build/e2e-tools/undolog
[ -n "${NO_BUILD:-}" ] || make -s "$CLI" "$PLUGIN" "$TOOL" >/dev/null || exit 1
for program in nbdkit nbdcopy nbdinfo jq; do
	command -v $program >/dev/null || { echo "1..0 # SKIP no $program (scripts/install-deps test)"; exit 1; }
done

T=$(mktemp -d "${TMPDIR:-/tmp}/points-export.XXXXXX")
X=$T/exports LOG=$T/retention/log
PIDS=()
cleanup() {
	local f
	for f in "$X"/*.pid; do [ ! -e "$f" ] || kill -9 "$(cat "$f")" 2>/dev/null; done
	[ ${#PIDS[@]} -eq 0 ] || kill -9 "${PIDS[@]}" 2>/dev/null
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1}

# shellcheck source=tests/e2e/lib/tap.sh
. tests/e2e/lib/tap.sh
# fails NAME PATTERN COMMAND...: it does, and says so
fails() {
	local name=$1 pattern=$2
	shift 2
	if "$@" >"$T/out" 2>&1; then not_ok "$name: it succeeds"; else says "$name" "$pattern"; fi
}
# ended PID...: they have, though nobody may have taken note
ended() { local p; for p; do case $(ps -o state= -p "$p") in Z | '') ;; *) return 1 ;; esac; done; }
until_() { for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return 0; sleep 0.05; done; echo "never: $*"; return 1; }

cli() { "$CLI" points "$@"; }
AT=(--socket "$T/mt.sock" --exports "$X" --plugin "$PLUGIN")
export_() { cli export vm1 "$@" "${AT[@]}"; }
exports() { cli exports --exports "$X" --json; }
names() { exports | jq -r '.[].name' | xargs; }
unexport() { cli unexport "$@" --exports "$X"; }
uri() { exports | jq -r --arg n "$1" '.[] | select(.name == $n) | .uri'; }
socket() { exports | jq -r --arg n "$1" '.[] | select(.name == $n) | .socket'; }
pid() { exports | jq -r --arg n "$1" '.[] | select(.name == $n) | .pid'; }
same() { nbdcopy "$(uri "$1")" "$T/copy" && cmp "$T/copy" "$2"; }
# as many requests of any size and place at a time as nbdcopy likes
small() { nbdcopy --request-size=4096 --requests=16 "$(uri "$1")" "$T/copy" && cmp "$T/copy" "$2"; }
clean() { [ -z "$(ls -A "$X")" ] || { ls "$X"; return 1; }; }

echo "# SEED=$SEED"
# read SOCKET MODEL STEP BYTES [END]: requests of BYTES every STEP bytes, by hand, compared with the model; "good N err N bad N".
# read SOCKET hold: connects and says nothing more.
cat >"$T/read" <<'END'
#!/usr/bin/perl
use strict; use IO::Socket::UNIX;
my ($path, $model, $step, $bytes, $end) = @ARGV;
my $s = IO::Socket::UNIX->new(Peer => $path) or die "connect: $!";
sub get { my $d = ''; while (length $d < $_[0]) { sysread($s, my $b, $_[0] - length $d) or die "closed"; $d .= $b } $d }
get(18);
if ($model eq 'hold') { $| = 1; print "in\n"; sleep 600; exit }
syswrite($s, pack('N', 3) . "IHAVEOPT" . pack('NN', 1, 0)); # NBD_OPT_EXPORT_NAME
my ($size) = unpack('Q>', get(10));
open(my $m, '<:raw', $model) or die;
my ($good, $err, $bad) = (0, 0, 0);
for (my $o = 0; $o < ($end || $size); $o += $step) {
	my $n = $size - $o < $bytes ? $size - $o : $bytes;
	syswrite($s, pack('NnnQ>Q>N', 0x25609513, 0, 0, 1, $o, $n));
	if ((unpack('NN', get(16)))[1]) { $err++; next }
	my $d = get($n);
	seek($m, $o, 0); read($m, my $w, $n);
	$d eq $w ? $good++ : $bad++;
}
print "good $good err $err bad $bad\n";
exit($bad || !$good || ($err && !$end));
END
chmod 755 "$T/read"
# ---- a machine with two disks and four states
# dirty FILE: some of it is overwritten, some of that with zeros
dirty() {
	local i
	for i in $(seq 40); do
		dd if=/dev/urandom of="$1" bs=4k count=$((RANDOM % 30 + 1)) seek=$((RANDOM % 4000)) conv=notrunc status=none
		[ $((i % 4)) -ne 0 ] || dd if=/dev/zero of="$1" bs=4k count=$((RANDOM % 30 + 1)) seek=$((RANDOM % 4000)) conv=notrunc status=none
	done
}
mkdir -p "$T/retention"
head -c 16M /dev/urandom >"$T/root.1"
truncate -s 17M "$T/root.1"
head -c 2M /dev/urandom >"$T/data.1"
truncate -s 8388608 "$T/data.1"
head -c 512 /dev/urandom >>"$T/data.1" # an odd number of sectors
for i in 2 3 4; do
	for d in root data; do cp "$T/$d.$((i - 1))" "$T/$d.$i"; done
	dirty "$T/root.$i"
	dd if=/dev/urandom of="$T/data.$i" bs=4k count=3 seek=$((i * 100)) conv=notrunc status=none
	printf 'tail of %s' "$i" | dd of="$T/data.$i" bs=1 seek=8388608 conv=notrunc status=none
done
cp "$T/root.4" "$T/root" && cp "$T/data.4" "$T/data"
"$TOOL" build "$LOG" "root:$T/root.1:$T/root.2:$T/root.3:$T/root" "data:$T/data.1:$T/data.2:$T/data.3:$T/data" || exit 1
"$TOOL" serve "$LOG" "$T/mt.sock" vm1 "root:$T/root" "data:$T/data" 2>"$T/serve.log" &
PIDS+=($!)
until_ test -S "$T/mt.sock"

# ---- what is wrong is said
fails "no point of that name" 'no point 17' export_ 17
fails "no disk of that name" 'disk home: the point has no such disk .it has: root, data' export_ 2 home
fails "one socket for two disks" 'several disks' export_ 2 --listen "$T/s"
fails "a plugin that is not there" 'cannot be exported: nbdkit: cannot open plugin .*no-such' cli export vm1 2 root --socket "$T/mt.sock" --exports "$X" --plugin "$T/no-such.so"
check "nothing is left of it" clean
fails "no master target" 'does not run' cli export vm1 2 --socket "$T/none.sock" --exports "$X"
mv "$T/root" "$T/root.away"
fails "the target is gone" 'cannot be exported: .*target .*/root: cannot open' export_ 2 root
head -c 1M "$T/root.away" >"$T/root"
fails "the target is too small" 'has 1048576 bytes, the disk had 17825792' export_ 2 root
mv "$T/root.away" "$T/root"
check "nothing is left of that" clean

# ---- what is exported is what was
check "a point is exported, all its disks" export_ 2
says "it is said where" '^  uri +nbd\+unix:///\?socket='
says "and how to end it" 'reprotect points unexport vm1-root-2-1'
is "they have names" "$(names)" "vm1-data-2-1 vm1-root-2-1"
check "the first disk is as it was" same vm1-root-2-1 "$T/root.2"
check "the second disk is as it was, its last sector too" same vm1-data-2-1 "$T/data.2"
is "its size" "$(nbdinfo --size "$(uri vm1-data-2-1)")" 8389120
check "it is read-only" sh -c "nbdinfo --json '$(uri vm1-root-2-1)' | jq -e '.exports[0].is_read_only'"
check "it says what it is" sh -c "nbdinfo '$(uri vm1-root-2-1)' | grep 'disk 0 in state 2: point-2'"
check "others at the same time" sh -c "$CLI points export vm1 1 root ${AT[*]} && $CLI points export vm1 3 root ${AT[*]} && $CLI points export vm1 latest root ${AT[*]} && $CLI points export vm1 2 root ${AT[*]}"
is "they have names of their own" "$(names)" "vm1-data-2-1 vm1-root-1-1 vm1-root-2-1 vm1-root-2-2 vm1-root-3-1 vm1-root-4-1"
for i in 1 3 4; do check "state $i is as it was" same vm1-root-$i-1 "$T/root.$i"; done
check "small requests, many at a time" small vm1-root-2-2 "$T/root.2"
# Neither offset nor length at a sector.
odd() { "$T/read" "$(socket vm1-root-1-1)" "$T/root.1" 77777 51113 && "$T/read" "$(socket vm1-data-2-1)" "$T/data.2" 3333333 4099999; }
check "requests that are not aligned" odd

# ---- while the disks are overwritten
"$TOOL" churn "$LOG" "$T/root" "$SEED" >"$T/churn.log" 2>&1 &
CHURN=$!
PIDS+=("$CHURN")
changing() { ! cmp -s "$T/root" "$T/root.4"; }
check "the disk is being overwritten" until_ changing
for i in 1 2 3 4; do check "state $i is as it was while the disk changes" small "vm1-root-$i-1" "$T/root.$i"; done
check "it still is" kill -0 $CHURN
check "a state exported now" export_ 4 root
check "is as it was" same vm1-root-4-2 "$T/root.4"
kill $CHURN
check "the writer ended well" wait $CHURN
check "and after it" same vm1-root-1-1 "$T/root.1"

# ---- writable
check "a writable one" export_ 3 root --writable
patch_it() { printf 'written' >"$T/patch" && nbdcopy "$T/root.1" "$(uri vm1-root-3-2)" && same vm1-root-3-2 "$T/root.1"; }
check "takes writes" patch_it
check "and the others do not see them" same vm1-root-3-1 "$T/root.3"
check "its overlay is beside the log" test -d "$T/retention/overlay"
is "and has no name" "$(ls -A "$T/retention/overlay")" ""
check "it ends" unexport vm1-root-3-2

# ---- ending
"$T/read" "$(socket vm1-root-1-1)" hold >"$T/hold.out" &
PIDS+=($!)
until_ test -s "$T/hold.out"
old=$(pid vm1-root-1-1)
check "one with a client that says nothing ends" unexport vm1-root-1-1
check "its process is gone" ended "$old"
kill -9 "$(pid vm1-root-2-1)"
until_ ended "$(cat "$X/vm1-root-2-1.pid")"
is "one that was killed is not listed" "$(names)" "vm1-data-2-1 vm1-root-2-2 vm1-root-3-1 vm1-root-4-1 vm1-root-4-2"
check "and its files are gone" test ! -e "$X/vm1-root-2-1.pid"
# Its number is another's now: not ended, not taken for it.
kill -9 "$(pid vm1-root-2-2)"
sleep 600 &
OTHER=$!
PIDS+=("$OTHER")
jq ".pid = $OTHER" "$X/vm1-root-2-2.json" >"$T/json" && cat "$T/json" >"$X/vm1-root-2-2.json"
fails "another process with its number is not it" 'there is none of that name' unexport vm1-root-2-2
check "and lives on" kill -0 $OTHER
# Being started, by somebody else.
exec 9>"$X/vm1-root-9-1.json"
flock 9
is "one that is being started is listed" "$(exports | jq -c '.[] | select(.name == "vm1-root-9-1") | .starting')" true
fails "and is not ended" 'is being started' unexport vm1-root-9-1
exec 9>&-
is "what is left of one that was not started is removed" "$(names)" "vm1-data-2-1 vm1-root-3-1 vm1-root-4-1 vm1-root-4-2"
# Used by a device that is mounted.
jq '.used_by = {"device": "/dev/nbd9", "mount": "/x"}' "$X/vm1-root-3-1.json" >"$T/json" && cat "$T/json" >"$X/vm1-root-3-1.json"
fails "one that is mounted is not ended" 'in use by /dev/nbd9' unexport vm1-root-3-1
check "it still answers" same vm1-root-3-1 "$T/root.3"
jq '.used_by = null' "$X/vm1-root-3-1.json" >"$T/json" && cat "$T/json" >"$X/vm1-root-3-1.json"
fails "no export of that name" 'there is none of that name' unexport nothing
mapfile -t pids < <(exports | jq -r '.[].pid')
check "all end" unexport --all
check "their processes too" ended "${pids[@]}"
check "and leave nothing behind" clean
check "an own socket" export_ 1 root --listen "$T/own.sock"
is "is the one that is used" "$(socket vm1-root-1-1)" "$T/own.sock"
check "as it was" same vm1-root-1-1 "$T/root.1"
fails "a socket that is another's" 'in use' export_ 1 root --listen "$T/own.sock"
check "which it still has" same vm1-root-1-1 "$T/root.1"
check "it ends" unexport --all
check "with its socket" test ! -e "$T/own.sock"

# ---- interrupted
interrupted() {
	mkfifo "$T/pause" && printf '#!/bin/sh\nread -r x <%s\n' "$T/pause" >"$T/bin/nbdkit" && chmod 755 "$T/bin/nbdkit" || return 1
	PATH=$T/bin:$PATH "$CLI" points export vm1 1 root "${AT[@]}" &
	local running=$!
	until_ test -e "$X/vm1-root-1-1.json" || return 1
	until_ pgrep -P $running || return 1
	kill -INT $running
	wait $running
	[ $? -eq 1 ] && clean
}
mkdir "$T/bin"
check "interrupted, it undoes" interrupted

# ---- verify: here without the file systems, where the kernel has no nbd
verify() { cli verify vm1 "$@" "${AT[@]}"; }
check "a good point" verify 2
says "its undo log is good" 'all disks +undo log +good'
is "the verdict is kept with it" "$(jq -r '"\(.machine) \(.id) \(.verdict.checks[0].what) \(.verdict.checks[0].result)"' "$LOG.verdict")" \
	"11111111-2222-4333-8444-555555555555 2 undo log good"
if [ ! -e /sys/block/nbd0 ] && ! modprobe -q nbd; then
	says "file systems were not looked at, and it says why" 'file systems +warning +not looked at: the kernel.s module nbd cannot be loaded'
	is "so it is no better than a warning" "$(jq -r .verdict.result "$LOG.verdict")" warning
fi
check "with JSON" verify 2 --json
check "it is JSON" jq -e '.checks[0].result == "good"' "$T/out"

# ---- damage
"$TOOL" flip "$LOG" 2 "$(cmp -l "$T/root.2" "$T/root.3" | awk '$2 != 0 { print $1 - 1; exit }')" || exit 1
check "a state in front of the damage" export_ 1 root
check "one behind it" export_ 3 root
check "one with it" export_ 2 root
check "what does not need it is as it was" same vm1-root-3-1 "$T/root.3"
fails "what needs it is an error" 'Input/output error|EIO' nbdcopy "$(uri vm1-root-2-1)" "$T/copy"
counts() { "$T/read" "$(socket vm1-root-2-1)" "$T/root.2" 4096 4096 17825792 >"$T/counts"; cat "$T/counts"; awk '$4 > 0 && $4 <= 16 && $6 == 0' "$T/counts" | grep .; }
check "only blocks of that record are, and none is wrong" counts
check "they end" unexport --all
fails "verify finds it" 'undo log +bad' verify 2
is "and its verdict is bad" "$(jq -r .verdict.result "$LOG.verdict")" bad
check "nothing is left behind" clean
done_testing
