#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The master target on loopback, driven by wirepeer in the place of a process server: what it
# applies, what it refuses and how it says so, and that a kill at any moment loses nothing.
# Prints TAP. KILLS: how often it is killed while epochs stream (default 10). SEED: of everything
# that is random (default 1).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

KILLS=${KILLS:-10}
SEED=${SEED:-1}
RANDOM=$((SEED % 32768))
PROGRAM=${PROGRAM:-build/bin/reprotect-master-target}
WIREPEER=build/e2e-tools/wirepeer
[ -n "${NO_BUILD:-}" ] || make -s "$PROGRAM" "$WIREPEER" >/dev/null || exit 1

T=$(mktemp -d "${TMPDIR:-/tmp}/mt-e2e.XXXXXX")
PORT=0 PID='' LOOPS=() MOUNTS=()

cleanup() {
	[ -z "$PID" ] || kill -9 "$PID" 2>/dev/null
	fsfreeze --unfreeze "$T/under" 2>/dev/null
	for m in ${MOUNTS[@]+"${MOUNTS[@]}"}; do umount "$m" 2>/dev/null; done
	for l in ${LOOPS[@]+"${LOOPS[@]}"}; do losetup -d "$l" 2>/dev/null; done
	umount "$T/under" 2>/dev/null # a loop device was on it
	rm -rf "$T"
}
trap cleanup EXIT

# shellcheck source=tests/e2e/lib/tap.sh
. tests/e2e/lib/tap.sh
LOGS=("$T/log")
# check NAME COMMAND...
check() { local name=$1; shift; if "$@" >"$T/check" 2>&1; then ok "$name"; else not_ok "$name" "$T/check"; fi; }
# ended NAME WANTED [LOG]: $status is as wanted
ended() { if [ "$status" -eq "$2" ]; then ok "$1"; else not_ok "$1" "${3:-$T/out}"; fi; }
# says NAME TEXT FILE...: TEXT is in one of the files
says() { if grep -qE -- "$2" "${@:3}"; then ok "$1"; else not_ok "$1" "$3"; fi; }

# until_true COMMAND...: comes true within ten seconds
until_true() {
	for _ in $(seq 100); do
		"$@" 2>/dev/null && return 0
		sleep 0.1
	done
	return 1
}

# configure [EXTRA LINES]: a fresh configuration; the state stays
configure() {
	cat >"$T/conf" <<-END
	[master-target]
	listen = 127.0.0.1:$PORT
	state = $T/state
	control = $T/control.sock
	target_dir = $T/targets
	create = yes
	${1:-}
	END
}
start() {
	"$PROGRAM" --config "$T/conf" 2>>"$T/log" &
	PID=$!
	answers
}
answers() {
	for _ in $(seq 100); do
		PORT_NOW=$(grep -aoE 'listening on 127.0.0.1:[0-9]+' "$T/log" | tail -n 1 | sed 's/.*://')
		[ -S "$T/control.sock" ] && [ -n "$PORT_NOW" ] && PORT=$PORT_NOW &&
			(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && return 0
		kill -0 "$PID" 2>/dev/null || return 1
		sleep 0.05
	done
	return 1
}
stop() { # a regular end
	kill -TERM "$PID" && wait "$PID"
	local status=$?
	PID=''
	! grep -q 'Sanitizer\|runtime error' "$T/log" || not_ok "no sanitizer report" "$T/log"
	return $status
}
murder() { kill -9 "$PID"; wait "$PID" 2>/dev/null; PID=''; }
# peer_exec UUID ARGUMENTS...: for the background, where the job's process id is then the peer's own:
# a kill of the job ends the peer, which would otherwise live on and connect to the next daemon
peer_exec() {
	local uuid=$1
	shift
	exec timeout 150 "$WIREPEER" agent --connect "127.0.0.1:$PORT" --machine "$uuid" --seed "$SEED" "$@"
}
peer() { (peer_exec "$@"); }
control() { # control JSON
	perl -MIO::Socket::UNIX -e '
		my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
		print $s "$ARGV[1]\n"; $s->flush; print scalar <$s>;' "$T/control.sock" "$1"
}
# fresh: a new state and new targets
fresh() { [ -z "$PID" ] || stop; rm -rf "$T/state" "$T/targets"; : >"$T/log"; }
target() { echo "$T/targets/testvm/$1.img"; }
# a hello alone, to see what is refused: refused NAME TEXT UUID ARGUMENTS...
refused() {
	local name=$1 text=$2
	shift 2
	peer "$@" --epochs 0 --timeout 8 >"$T/out" 2>&1
	if grep -q '^error target-refused' "$T/out" && grep -qE -- "$text" "$T/out" &&
		grep -q 'remedy: [a-z]' "$T/out"; then
		ok "$name"
	else
		not_ok "$name"
	fi
}

echo "# seed $SEED"
PORT=$(free_port)

# ---- command line -------------------------------------------------------------
check "--version" sh -c "$PROGRAM --version | grep -q '^reprotect-master-target [0-9]'"
check "--help" sh -c "$PROGRAM --help | grep -q check-config"
configure
check "--check-config: good" "$PROGRAM" --check-config --config "$T/conf"
check "--check-config: the sample" "$PROGRAM" --check-config --config userspace/master-target/master-target.conf
echo "colour = blue" >>"$T/conf"
"$PROGRAM" --check-config --config "$T/conf" >"$T/out" 2>&1
status=$?
ended "--check-config: an unknown key exits 78" 78
says "--check-config names it" 'colour' "$T/out"

# ---- applying -----------------------------------------------------------------
configure
start || { not_ok "starts" "$T/log"; exit 1; }
ok "starts"
peer m1 --disk root:64M --disk data:33M --epochs 4 --image "$T/m1-" >"$T/out" 2>&1
check "epochs are acknowledged" grep -q '^epoch 4 done' "$T/out"
check "the first disk is the source's" cmp "$T/m1-root.img" "$(target root)"
check "the second disk is the source's" cmp "$T/m1-data.img" "$(target data)"
"$PROGRAM" --config "$T/conf" >"$T/out" 2>&1
says "a second instance is refused" 'another master target uses it' "$T/out"

control '{"command":"status"}' >"$T/out"
says "status: machine, status, disks" '"status": *"replicating".*"path"' "$T/out"
says "status: memory and limits" '"rss_bytes": *[0-9]+.*"max_machines"' "$T/out"
control '{"command":"version"}' >"$T/out"
says "version over the control socket" '"ok": *true.*"version"' "$T/out"

stop
status=$?
ended "SIGTERM ends it cleanly" 0 "$T/log"
start
peer m1 --disk root:64M --disk data:33M --epochs 3 --image "$T/m1-" --frame-bytes 4K >"$T/out" 2>&1
check "after a restart the chain goes on, small frames" cmp "$T/m1-root.img" "$(target root)"

# ---- misbehaviour ---------------------------------------------------------------
for kind in garbage version header-crc bad-crc truncated vanish bad-seq bad-digest bad-attempt no-begin \
	order hello-garbage hello-json; do
	peer m1 --disk root:64M --disk data:33M --epochs 1 --image "$T/m1-" --zero-percent 0 --misbehave $kind --timeout 15 >"$T/out" 2>&1
	case $kind in
	truncated | vanish) want='' ;;
	version) want='^error version: ' ;;
	order) want='^error resync-needed: .*remedy: reprotect resync' ;;
	*) want='^error bad-frame: .*remedy: ' ;;
	esac
	if kill -0 "$PID" 2>/dev/null && ! grep -q '^ack' "$T/out" && { [ -z "$want" ] || grep -qE "$want" "$T/out"; }; then
		ok "misbehaving peer: $kind"
	else
		not_ok "misbehaving peer: $kind"
	fi
done
peer m1 --disk root:64M --disk data:33M --epochs 2 --image "$T/m1-" >"$T/out" 2>&1
check "and the chain goes on after all that" grep -q 'done' "$T/out"
peer m1 --disk root:128M --disk data:33M --epochs 1 --initial --timeout 10 >"$T/out" 2>&1
check "an image file that was created here grows with its source" test "$(stat -c %s "$(target root)")" = 134217728

# ---- tags ---------------------------------------------------------------------------
fresh
start
points() { control '{"command":"status"}' | jq -c '.machines[0].points | '"$1"; }
# points_are NAME CONSISTENCY EPOCH NAME-OF-LAST-CRASH NAME-OF-LAST-APP
points_are() {
	points '[.consistency, .consistent_epoch, .last_crash.name, .last_app.name]' >"$T/out"
	says "$1" "^\\[\"$2\",$3,$4,$5\\]\$" "$T/out"
}
tagged() { peer t1 --disk root:8M --epoch-bytes 1M --image "$T/t1-" --epochs 1 "$@" >"$T/out" 2>&1; }
tagged --initial
points_are "nothing is promised during the initial sync" syncing 0 null null
tagged
points_are "nor until a consistent epoch has come" syncing 0 null null
tagged --tag crash:first
points_are "a tag is recorded with its epoch" consistent 3 '"first"' null
tagged --tag app:nightly
points_are "an app tag beside it" consistent 4 '"first"' '"nightly"'
says "with what its scripts said" '"output":"said"' <(points .last_app)
murder; start
points_are "kill -9 keeps them" consistent 4 '"first"' '"nightly"'
tagged --fuzzy
points_are "a fuzzy epoch after it: not consistent since" not-consistent 4 '"first"' '"nightly"'
for kind in tag-unclaimed tag-twice tag-early; do
	tagged --tag crash:bad --misbehave $kind --timeout 15
	says "misbehaving peer: $kind" '^error bad-frame: .*remedy: ' "$T/out"
done
tagged --tag-json '{"kind":"wish"}' --timeout 5
says "a tag that makes no sense is refused" '^error bad-frame: .*TAG: its kind is neither' "$T/out"
tagged --fuzzy --consistent --timeout 5
says "an epoch that began as fuzzy cannot end as consistent" '^error bad-frame: .*began as fuzzy' "$T/out"
points_are "and nothing of that is recorded" not-consistent 4 '"first"' '"nightly"'
tagged --tag crash:again
points_are "the next consistent epoch makes it whole" consistent '[0-9]+' '"again"' '"nightly"'

# ---- two connections, two engines ----------------------------------------------------
fresh
configure "engine = libaio"
start
peer_exec n1 --disk root:16M --epochs 40 --pause-ms 50 --timeout 60 --image "$T/n1-" >"$T/k1" 2>&1 &
one=$!
check "the first connection is at work" until_true grep -q '^ack' "$T/k1"
peer n1 --disk root:16M --epochs 0 >"$T/out" 2>&1
says "a newer connection is served" '^hello-ack' "$T/out"
wait $one; status=$?
says "and the older one told so" '^error busy: a newer connection' "$T/k1"
ended "which comes back and ends its work" 0 "$T/k1"
check "libaio: the target is the source's" cmp "$T/n1-root.img" "$(target root)"
says "libaio: was used" 'disk I/O by libaio' "$T/log"

# ---- killed at any moment ---------------------------------------------------------
fresh
configure
start
peer_exec k1 --disk root:96M --epochs $((KILLS * 2 + 6)) --epoch-bytes 40M --frame-bytes 1M --image "$T/k1-" \
	--pause-ms 100 --timeout 140 >"$T/k1" 2>&1 &
one=$!
timeout 150 "$WIREPEER" agent --connect "127.0.0.1:$PORT" --machine k2 --disk data:40M --seed $((SEED + 1)) \
	--epochs $((KILLS * 2 + 6)) --epoch-bytes 6M --frame-bytes 4K --image "$T/k2-" --pause-ms 100 \
	--timeout 140 >"$T/k2" 2>&1 &
two=$!
killed=0
for _ in $(seq "$KILLS"); do
	sleep "0.$((RANDOM % 500 + 100))"
	kill -0 $one 2>/dev/null || kill -0 $two 2>/dev/null || break
	murder
	killed=$((killed + 1))
	configure
	start || { not_ok "starts again after kill -9" "$T/log"; break; }
done
wait $one; status=$?
ended "all epochs arrive through $killed kills, large frames" 0 "$T/k1"
wait $two; status=$?
ended "all epochs arrive through $killed kills, small frames" 0 "$T/k2"
check "the target equals the source, large frames" cmp "$T/k1-root.img" "$(target root)"
check "the target equals the source, small frames" cmp "$T/k2-data.img" "$(target data)"

# ---- the final epoch ---------------------------------------------------------------
fresh
start
peer f1 --disk root:70M --epochs 2 --final --image "$T/f1-" >"$T/out" 2>&1
says "a final epoch that is verified releases the targets" '^ack [0-9]+ applied\|released' "$T/out"
check "the released target is the source's" cmp "$T/f1-root.img" "$(target root)"
check "released: the target is not locked any more" flock -n "$(target root)" true
peer f1 --disk root:70M --epochs 1 --image "$T/f1-" --timeout 8 >"$T/out" 2>&1
says "another epoch after that is refused" '^error released: .*remedy: .*reprotect target forget' "$T/out"
control '{"command":"status"}' >"$T/out"
says "status: released" '"status": *"released"' "$T/out"
control '{"command":"forget","machine":"f1"}' >"$T/out"
says "forget" '"ok": *true' "$T/out"
control '{"command":"forget","machine":"f1"}' >"$T/out"
says "forgetting what is not known is an error" '"ok": *false.*remedy' "$T/out"
peer_exec f2 --disk root:4M --epochs 400 --pause-ms 100 --timeout 30 >"$T/k1" 2>&1 &
one=$!
check "a machine is connected" until_true grep -q '^hello-ack' "$T/k1"
control '{"command":"forget","machine":"f2"}' >"$T/out"
says "forgetting a connected machine is refused" '"ok": *false.*connected' "$T/out"
kill $one; wait $one 2>/dev/null

# ---- refusals: files -----------------------------------------------------------------
section() { printf '[target testvm/root]\npath = %s\n%s\n' "$1" "${2:-}"; }
with() { fresh; configure "$(section "$@")"; start || not_ok "starts with $1" "$T/log"; }

with "$T/none.img"
refused "target missing" 'none.img: it is missing' r1 --disk root:8M
refused "no target configured names the disk when target_dir is no answer either" 'none.img' r1 --disk root:8M
mkdir -p "$T/dir"
with "$T/dir"
refused "target is a directory" 'neither a block device nor a regular file' r1 --disk root:8M
truncate -s 4M "$T/small.img"
with "$T/small.img"
refused "target too small" 'too small: 4194304 bytes .*8388608' r1 --disk root:8M
truncate -s 8M "$T/ext4.img"
mkfs.ext4 -q -F "$T/ext4.img" 2>/dev/null
with "$T/ext4.img"
refused "first use of a target with a file system" 'it carries a signature, ext4' r1 --disk root:8M
with "$T/ext4.img" "overwrite = yes"
peer r1 --disk root:8M --epochs 1 >"$T/out" 2>&1
check "overwrite = yes allows it" grep -q '^epoch 1 done' "$T/out"
truncate -s 8M "$T/table.img"
printf 'label: gpt\n,\n' | sfdisk -q "$T/table.img" 2>/dev/null
with "$T/table.img"
refused "first use of a target with a partition table" 'partition table, gpt' r1 --disk root:8M
truncate -s 8M "$T/lock.img"
with "$T/lock.img"
flock --no-fork "$T/lock.img" sleep 20 &
one=$!
check "a process locks the target" until_true sh -c "! flock -n '$T/lock.img' true"
refused "target locked by another process" 'another process has locked it' r1 --disk root:8M
kill $one 2>/dev/null; wait $one 2>/dev/null
check "and gives it up" until_true flock -n "$T/lock.img" true
peer r1 --disk root:8M --epochs 1 >"$T/out" 2>&1
check "and accepted once that is over" grep -q '^epoch 1 done' "$T/out"
refused "a target of another machine" 'it is the target of disk testvm/root' r2 --disk root:8M
ln -sf lock.img "$T/alias.img"
stop
configure "$(printf '[target testvm/root]\npath = %s\n[target testvm/data]\npath = %s\n' "$T/lock.img" "$T/alias.img")"
start
refused "the same target for two disks, under another name" 'it is the target of disk testvm/root' r1 \
	--disk root:8M --disk data:8M
rm "$T/alias.img" && truncate -s 8M "$T/alias.img"
refused "the same disk under another number" 'its number was 1 and is 2' r1 --disk data:8M --disk root:8M
stop
cp "$T/lock.img" "$T/copy.img"
mv "$T/copy.img" "$T/lock.img"
start
refused "not the file that was used before" 'not the one that was used before: inode was' r1 --disk root:8M
control '{"command":"status"}' >"$T/out"
says "status: error with a remedy" '"status": *"error".*"remedy": *"connect the right disk' "$T/out"
configure "$(printf '[target testvm/root]\npath = %s\n' "$T/lock.img")"
stop
mkdir -p "$T/state/r9" && echo '{"format": 1' >"$T/state/r9/state.json"
start
peer r9 --disk root:8M --epochs 0 --timeout 8 >"$T/out" 2>&1
says "a damaged state is refused, not begun anew" '^error io: .*r9.*state is damaged.*remedy: restore' "$T/out"

# ---- refusals: block devices ------------------------------------------------------------
loop() { # loop FILE [ARGUMENTS]: prints the device
	losetup --find --show "${@:2}" "$1" 2>/dev/null
}
truncate -s 16M "$T/loop.img"
DEV=
[ "$(id -u)" -ne 0 ] || DEV=$(loop "$T/loop.img")
if [ -z "$DEV" ]; then
	skip "block device targets" "needs root and loop devices"
else
	LOOPS+=("$DEV")
	with "$DEV"
	peer b1 --disk root:8M --epochs 3 --image "$T/b1-" >"$T/out" 2>&1
	check "a block device larger than its source" cmp -n 8388608 "$T/b1-root.img" "$DEV"
	with "$T/loop.img" "overwrite = yes"
	refused "an image file that is attached to a loop device" "attached to the loop device $DEV" b1 --disk root:8M
	mkfs.ext4 -q -F "$DEV" 2>/dev/null
	mkdir -p "$T/mnt"
	if mount "$DEV" "$T/mnt" 2>/dev/null; then
		MOUNTS+=("$T/mnt")
		with "$DEV" "overwrite = yes"
		refused "a mounted block device" 'mounted on .*/mnt' b1 --disk root:8M
		truncate -s 12M "$T/mnt/full.img"
		head -c 8M /dev/zero >"$T/mnt/filler"
		with "$T/mnt/full.img"
		peer b2 --disk root:12M --epochs 6 --zero-percent 0 --epoch-bytes 12M --fixed --timeout 6 >"$T/out" 2>&1
		says "a full file system under an image file" '^error no-space: .*remedy: free space' "$T/out"
		check "which the daemon survives" kill -0 "$PID"
		stop
		umount "$T/mnt"
	else
		skip "a mounted block device" "cannot mount"
	fi
	wipefs -qa "$DEV"
	RO=$(loop "$T/small.img" --read-only) && LOOPS+=("$RO")
	with "$RO"
	refused "a read-only block device" 'read-only' b1 --disk root:4M
	with "$DEV"
	peer b3 --disk root:8M --epochs 1 >"$T/out" 2>&1
	truncate -s 16M "$T/other.img"
	stop
	losetup -d "$DEV"
	if losetup "$DEV" "$T/other.img" 2>/dev/null; then
		start
		refused "another disk under the same name" 'not the one that was used before: loop_backing' b3 --disk root:8M
	else
		skip "another disk under the same name" "the loop device is taken"
	fi
	truncate -s 16M "$T/4k.img"
	FK=$(loop "$T/4k.img" --sector-size 4096) && LOOPS+=("$FK")
	with "$FK"
	peer b4 --disk root:8390144 --epochs 4 --image "$T/b4-" --epoch-bytes 8M >"$T/out" 2>&1
	check "a source whose size is no multiple of the target's sectors" cmp -n 8390144 "$T/b4-root.img" "$FK"

	# A write that the block layer has outlives the process that made it, and would overwrite what the next one writes. Here
	# it cannot end: the disk under the target is a file in a frozen file system.
	mkdir "$T/under"
	truncate -s 96M "$T/under.img"
	mkfs.ext4 -q -F "$T/under.img" && mount -o loop "$T/under.img" "$T/under" && MOUNTS=("$T/under" "${MOUNTS[@]}")
	head -c 16M /dev/zero >"$T/under/disk"
	SLOW=$(loop "$T/under/disk") && LOOPS+=("$SLOW")
	with "$SLOW"
	peer b5 --disk root:8M --epochs 1 >"$T/out" 2>&1
	sync
	fsfreeze --freeze "$T/under"
	peer_exec b5 --disk root:8M --epochs 1 --committed 1 --epoch-bytes 64K --zero-percent 0 >"$T/out" 2>&1 &
	PEER=$!
	in_flight() { awk '{ exit !($2 > 0) }' "/sys/block/${SLOW#/dev/}/inflight"; }
	check "a write that cannot end is under way" until_true in_flight
	OLD=$PID
	kill -9 "$OLD"
	ended_or_zombie() { ! grep -q '^State:[[:space:]]*[^Z]' "/proc/$OLD/status"; }
	check "its process is killed all the same" until_true ended_or_zombie
	"$PROGRAM" --config "$T/conf" 2>>"$T/log" &
	PID=$!
	waits() { grep -q "waiting for the disk writes of process $OLD" "$T/log"; }
	check "the next one waits for it" until_true waits
	fsfreeze --unfreeze "$T/under"
	wait "$OLD" 2>/dev/null
	check "and goes on when it is done" answers
	kill "$PEER" 2>/dev/null
	wait "$PEER" 2>/dev/null
fi

stop
done_testing
