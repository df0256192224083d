#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Early boot without booting: reprotect-early where no module can be loaded, the initramfs script with
# programs that fail in every way, and the list that the agent keeps. Prints TAP. The same in a real boot,
# and the hook: tests/boot.
# shellcheck disable=SC2016  # what eval gets is expanded there
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

EARLY=${EARLY:-build/test/reprotect-early-asan}
AGENT=${AGENT:-build/test/reprotect-agent-asan}
CLI=${CLI:-build/test/reprotect-asan}
[ -n "${NO_BUILD:-}" ] || make -s "$EARLY" "$AGENT" "$CLI" >/dev/null || exit 1

T=$(mktemp -d "${TMPDIR:-/tmp}/early-e2e.XXXXXX")
A_PID=''
cleanup() {
	[ -z "$A_PID" ] || kill -9 "$A_PID" 2>/dev/null
	# A program that hangs and that a broken script did not end.
	if [ -s "$T/pids" ]; then
		while read -r p; do ! grep -qaF "$T/program" "/proc/$p/cmdline" 2>/dev/null || kill -9 "$p"; done <"$T/pids"
	fi
	if [ -n "${KEEP:-}" ]; then echo "# kept $T"; else rm -rf "$T"; fi
}
trap cleanup EXIT

# shellcheck source=tests/e2e/lib/tap.sh
. tests/e2e/lib/tap.sh
LOGS=("$T/run/early.json" "$T/kmsg" "$T/agent.log")
report() { jq -e "$1" "$T/run/early.json"; }
now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# ---- the program --------------------------------------------------------------------------
mkdir -p "$T/run"
printf '[early]\nmodule = %s/none.ko\n[disk root]\ndevice = /dev/null\n' "$T" >"$T/early.conf"
early() { "$EARLY" --config "$T/early.conf" --report "$T/run/early.json" "$@"; }
ends_with() { local want=$1 rc; shift; "$@"; rc=$?; echo "exit status $rc"; [ "$rc" = "$want" ]; }
check "no module: exit status 1" ends_with 1 early
check "no module: the report says so, and what to do" report '.finished and (.error.message | test("none.ko")) and (.error.remedy | length > 0)'
printf 'junk\n' >"$T/early.conf"
check "garbage for a list: exit status 1" ends_with 1 early
check "garbage for a list: the report names file and line" report '.finished and (.error.message | test("early.conf:1"))'
check "wrong usage: exit status 2" ends_with 2 early --limit 0
check "help and version" eval '"$EARLY" --help | grep -- --report >/dev/null && "$EARLY" --version | grep -q "^reprotect-early [0-9]"'
mkfifo "$T/fifo" # opening it hangs
check "what hangs is ended by the alarm" ends_with 142 "$EARLY" --config "$T/fifo" --report "$T/run/early.json" --limit 1

# ---- the script ---------------------------------------------------------------------------
# As in an initramfs, with the shell that a test has; what runs is in $T/program.
mkdir -p "$T/init-premount" "$T/local-premount" "$T/local-block" "$T/local-bottom"
for when in init-premount local-premount local-block local-bottom; do cp initramfs/scripts/reprotect "$T/$when/"; done
program() { printf '#!/bin/sh\n%s\n' "$1" >"$T/program"; chmod +x "$T/program"; }
script() { # WHEN [SHELL...]
	local when=$1
	shift
	: >"$T/kmsg"
	[ $# -gt 0 ] || set -- dash
	began=$(now_ms)
	env ${reprotect_limit:+"reprotect_limit=$reprotect_limit"} ${rootmnt:+"rootmnt=$rootmnt"} REPROTECT_RUN="$T/run" REPROTECT_EARLY="$T/program" REPROTECT_KMSG="$T/kmsg" "$@" "$T/$when/reprotect" || return
	took=$(($(now_ms) - began))
	echo "took $took ms"
}
fresh() { rm -rf "$T/run"; }
within() { local ms=$1; shift; "$@" && [ "$took" -le "$ms" ]; }

program 'echo "$*" >'"$T"'/arguments; echo "{}" >'"$T"'/run/early.json'
fresh
check "all is well: exit status 0, at once" within 3000 script init-premount
check "the program is told when and how long" grep -qx -- "--when init-premount --limit 5 --report $T/run/early.json" "$T/arguments"
check "the kernel's command line may give it longer" eval 'reprotect_limit=20 script init-premount && grep -q -- "--limit 20 " "$T/arguments"'
check "but not what is no number of seconds" eval 'reprotect_limit=1e9 script init-premount && grep -q -- "--limit 5 " "$T/arguments"'
rm -f "$T/arguments"
check "then there is no second run" eval 'script local-premount && [ ! -e "$T/arguments" ]'
program 'echo "$*" >>'"$T"'/arguments; echo "{}" >'"$T"'/run/early.json; exit 1'
fresh
check "a disk was left out: exit status 0" script init-premount
check "then there is a second run, that does not wait" eval 'script local-premount && grep -q -- "--when local-premount --limit 2 .*--no-wait" "$T/arguments"'
check "and nothing is left for later then" grep -q -- "--when local-premount .*--last" "$T/arguments"
check "and more of them while the root device is waited for" eval 'script local-block && grep -q -- "--when local-block --limit 2 .*--no-wait" "$T/arguments"'

check "which are not the last" eval '! grep -- "--when local-block .*--last" "$T/arguments"'
: >"$T/arguments"
check "without a root file system there are no stores to be added" eval 'script local-bottom && [ ! -s "$T/arguments" ]'
check "with one there are" eval 'rootmnt=/root script local-bottom && grep -q -- "--when local-bottom --limit 10 .*--stores /root" "$T/arguments"'

fresh
rm -f "$T/program"
check "program missing: exit status 0" within 3000 script init-premount
check "program missing: the report says so" report '.finished == false and (.ended | test("cannot be run"))'
check "program missing: the kernel log says so" grep -q "cannot be run" "$T/kmsg"
check "and there is no second run" eval 'script local-premount && [ ! -s "$T/kmsg" ]'

program 'kill -SEGV $$'
fresh
check "program crashes: exit status 0" within 3000 script init-premount
check "program crashes: the report says so" report '.ended == "it died with exit status 139"'

# A report that was begun is kept.
program 'printf "{\n  \"version\": 1,\n  \"finished\": false,\n  \"step\": \"attaching disk root\",\n  \"disks\": []\n}\n" >'"$T"'/run/early.json; kill -KILL $$'
fresh
check "program is killed in the middle: exit status 0" script init-premount
check "the report tells how far it came" report '.step == "attaching disk root" and (.ended | test("137"))'

program 'echo $$ >>'"$T"'/pids; trap "" TERM ALRM; while :; do sleep 60; done'
for shell in dash "busybox sh"; do
	fresh
	# shellcheck disable=SC2086
	check "program hangs ($shell): exit status 0, within 12 s" within 12000 script init-premount $shell
	check "program hangs ($shell): the report says so" report '.ended == "it hung, and was killed after 5 s"'
	check "program hangs ($shell): it is gone" eval '! kill -0 "$(cat "$T/run/early.pid")"'
done
check "and there is no second run, that hangs too" within 1000 script local-premount
echo '{}' >"$T/run/early.json"
check "adding stores hangs: exit status 0, within 20 s" eval 'rootmnt=/root; within 20000 script local-bottom'
check "a folder that cannot be made: exit status 0" env REPROTECT_RUN=/dev/null/x dash "$T/init-premount/reprotect"
check "prerequisites: none" eval '[ -z "$(dash initramfs/scripts/reprotect prereqs)" ] && [ -z "$(dash initramfs/hooks/reprotect prereqs)" ]'

# ---- the agent's list ---------------------------------------------------------------------
truncate -s 8M "$T/d1" "$T/d2"
mkdir "$T/tracker"
cat >"$T/agent.conf" <<END
[agent]
process_server = 127.0.0.1:1
control = $T/agent.sock
state_dir = $T/state
host = vm1
[disk root]
device = $T/d1
store = $T/root.store
END
cli() { "$CLI" "$@" --socket "$T/agent.sock"; }
wait_for() { local n; for n in $(seq $(($1 * 10))); do shift $((n == 1)); "$@" && return 0; sleep 0.1; done; return 1; }
list=$T/state/early.conf
"$AGENT" --config "$T/agent.conf" --test-tracker "$T/tracker" 2>"$T/agent.log" &
A_PID=$!
check "the agent writes the list" wait_for 20 test -s "$list"
check "with its disk and the disk's store" eval 'grep -qx "\[disk root\]" "$list" && grep -qx "device = $T/d1" "$list" && grep -qx "store = $T/root.store" "$list" && grep -qx "state = $T/state/disks.json" "$list" && grep -q "^identity = ." "$list"'
check "the agent says what keeps the disk from having a store, and what that costs" grep -q "store $T/root.store: cannot be made: .*a power cut would cost a resync" "$T/agent.log"
check "status says so, too" eval 'cli status | grep "a power cut would cost a resync"'
check "disk list says what a power cut would cost" eval 'cli disk list | grep "store: none in .*; after a power cut now: 8 MiB to send again"'
check "the file is as large as it has to be, and nobody else may read it" eval '[ "$(stat -c "%s %a" "$T/root.store")" = "24576 600" ]'
check "attach" cli disk attach "$T/d2" --name data --granule 64K
check "the list has it" eval 'grep -qx "\[disk data\]" "$list" && grep -qx "granule_bytes = 65536" "$list"'
before=$(stat -c %y "$list")
kill -TERM "$A_PID"; wait "$A_PID"
"$AGENT" --config "$T/agent.conf" --test-tracker "$T/tracker" 2>"$T/agent.log" &
A_PID=$!
check "the agent, started again, tracks both" wait_for 20 eval '[ "$(cli status --json 2>/dev/null | jq "[.[].disks[] | select(.active)] | length")" = 2 ]'
check "a list that is right is not written anew" [ "${before:-no list}" = "$(stat -c %y "$list")" ]
check "detach" cli disk detach data
check "the list has it no more" eval '! grep -q data "$list" && grep -q root "$list"'
check "what the agent writes, reprotect-early reads" eval '"$EARLY" --config "$list" --report "$T/run/early.json"; report ".disks[0].name == \"root\" and .disks[0].store == \"$T/root.store\" and (.error.message | test(\"module\"))"'
kill -TERM "$A_PID"; wait "$A_PID"; A_PID=''

done_testing
