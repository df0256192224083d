#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Recovery points of a real master target, which wirepeer feeds, are exported and verified while epochs go on: each equals
# what the target disks were after its epoch. The undo logs are on a file system of their own (a loop device). Prints TAP.
# SEED: of what is random (default 1).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

SEED=${SEED:-1}
CLI=${CLI:-build/test/reprotect-asan}
MT=${MT:-build/bin/reprotect-master-target}
PLUGIN=build/lib/nbdkit-reprotect-plugin.so
WIREPEER=build/e2e-tools/wirepeer
[ -n "${NO_BUILD:-}" ] || make -s "$CLI" "$MT" "$PLUGIN" "$WIREPEER" >/dev/null || exit 1

T=$(mktemp -d "${TMPDIR:-/tmp}/points-live.XXXXXX")
X=$T/exports
PIDS=()
cleanup() {
	local f
	for f in "$X"/*.pid; do [ ! -e "$f" ] || kill -9 "$(cat "$f")" 2>/dev/null; done
	[ ${#PIDS[@]} -eq 0 ] || kill -9 "${PIDS[@]}" 2>/dev/null
	wait
	umount "$T/retention" 2>/dev/null
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# shellcheck source=tests/e2e/lib/tap.sh
. tests/e2e/lib/tap.sh
LOGS=("$T/mt.log")
until_() { for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return 0; sleep 0.05; done; echo "never: $*"; return 1; }

mkdir "$T/retention"
truncate -s 400M "$T/retention.img"
mkfs.ext4 -q "$T/retention.img"
if ! mount -o loop "$T/retention.img" "$T/retention"; then
	skip "recovery points of a real master target" "cannot mount a loop device here"
	done_testing
	exit
fi
PORT=$(free_port)
cat >"$T/conf" <<END
[master-target]
listen = 127.0.0.1:$PORT
state = $T/state
control = $T/mt.sock
target_dir = $T/targets
create = yes
retention = $T/retention
END
"$MT" --config "$T/conf" 2>>"$T/mt.log" &
MT_PID=$!
PIDS+=("$MT_PID")
until_ test -S "$T/mt.sock"

points() {
	local command=$1
	shift
	case $command in
	list | discard) "$CLI" points "$command" "$@" --socket "$T/mt.sock" ;;
	exports | unexport) "$CLI" points "$command" "$@" --exports "$X" ;;
	*) "$CLI" points "$command" "$@" --socket "$T/mt.sock" --exports "$X" --plugin "$PLUGIN" ;;
	esac
}
peer() {
	"$WIREPEER" agent --connect "127.0.0.1:$PORT" --machine m1 --disk root:24M --disk data:6M --epoch-bytes 3M \
		--image "$T/peer-" --consistent --seed $((SEED + EPOCH)) "$@"
}
listed() { points list testvm --json | jq -r "$1"; }
# exported NAME: the name of its export of a disk
export_of() { points exports --json | jq -r --arg p "$1" --arg d "$2" '.[] | select(.point_name == $p and .disk_name == $d) | .uri'; }
same() { nbdcopy "$(export_of "$1" "$2")" "$T/copy" && cmp "$T/copy" "$T/$2.$1"; }

echo "# SEED=$SEED"
EPOCH=1
check "an epoch" peer --epochs 1
for name in one two three four; do
	EPOCH=$((EPOCH + 1))
	check "an epoch with a tag" peer --epochs 1 --tag "crash:$name"
	for disk in root data; do cp "$T/targets/testvm/$disk.img" "$T/$disk.$name"; done
done
isnt_same() { ! cmp -s "$T/root.one" "$T/root.four"; }
check "the disks have changed" isnt_same
for name in one two four; do check "point $name is exported" points export testvm $name; done
for name in one two four; do
	for disk in root data; do check "$name, $disk: as it was" same $name $disk; done
done
(EPOCH=10 peer --epochs 80 --pause-ms 300 >"$T/peer.out" 2>&1) &
PEER=$!
PIDS+=("$PEER")
changed() { ! cmp -s "$T/targets/testvm/root.img" "$T/root.four"; }
check "epochs go on" until_ changed
for name in one two four; do
	for disk in root data; do check "$name, $disk, while epochs go on: as it was" same $name $disk; done
done
check "they still do" kill -0 "$PEER"
pkill -P "$PEER" # in the middle of one, perhaps
wait "$PEER" 2>/dev/null
check "four: still as it was" same four root
check "three, exported now" points export testvm three root
check "three: as it was" same three root
points discard testvm two --yes >"$T/out" 2>&1
says "a point that is exported is not discarded" 'in use|is read|exported|used'
check "two: still as it was" same two root

check "a point is verified" points verify testvm two
says "its undo log is good" 'undo log +good'
is "the verdict is kept with it" "$(listed '.. | objects | select(.name? == "two") | .verified.checks[0].result')" good

check "the master target ends, exports go on" kill "$MT_PID"
wait "$MT_PID"
check "one: as it was, without the master target" same one root
check "all end" points unexport --all
is "nothing is left" "$(ls -A "$X")" ""
done_testing
