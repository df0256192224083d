# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034  # the caller's
#
# agent.sh - agent (--test-tracker: changes are tracked in files), process server and master target on
# loopback, and how results are told. Sourced by ../agent.sh and ../tags.sh from the top of the tree, with
# NAME set (of the temporary folder) and VIA: empty leaves out the process server between them.
#
#   $T                            the temporary folder; end_all, for the caller's trap, removes it (not with KEEP=1)
#   configure KEY=VALUE...        the agent's configuration: $DEFAULTS (KEY=VALUE, between spaces) unless named, and
#                                 a section for each NAME:PATH of $DISKS
#   start, start_ps, start_mt     a daemon, until it answers; $A_PID, $P_PID, $M_PID
#   stop                          the agent, by SIGTERM; its exit status
#   killed PID                    by SIGKILL
#   cli ARGUMENT...               reprotect, to the agent
#   field FILTER                  jq's, of the agent's status
#   until_ SECONDS COMMAND...     until it prints true; until_field SECONDS FILTER; synced [SECONDS]
#   point, until_point            the same of the master target's status; consistent: both say so, and nothing is dirty
#   script NAME <BODY             of an application, in its folder; $LOG is for it
#   w DISK OFFSET BYTES           a write to $T/DISK, as the kernel would track it; mark: only that
#   no_reports                    before done_testing

AGENT=${AGENT:-build/test/reprotect-agent-asan}
CLI=${CLI:-build/test/reprotect-asan}
MT=${MT:-build/bin/reprotect-master-target}
PS=${PS:-build/bin/reprotect-process-server}
[ -n "${NO_BUILD:-}" ] || make -s "$AGENT" "$CLI" "$MT" ${VIA:+"$PS"} build/bin/reprotect >/dev/null || exit 1

T=$(mktemp -d "${TMPDIR:-/tmp}/$NAME.XXXXXX")
A_PID='' M_PID='' P_PID=''
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1}

end_all() {
	local pid
	for pid in $A_PID $P_PID $M_PID; do kill -CONT "$pid" 2>/dev/null; kill -9 "$pid" 2>/dev/null; done
	if [ -n "${KEEP:-}" ]; then echo "# kept $T"; else rm -rf "$T"; fi
}

# shellcheck source=tests/e2e/lib/tap.sh
. tests/e2e/lib/tap.sh
LOGS=("$T/agent.log" "$T/mt.log")
# none PATTERN FILE: no line of it matches; those that do are shown
none() { ! grep -E "$1" "$2"; }
# For the end: the agent's own complaints.
no_reports() { check "no sanitizer report" none 'ERROR: |runtime error|LeakSanitizer' "$T/agent.log"; }

M_PORT=$(free_port) P_PORT=$(free_port)
cat >"$T/mt.conf" <<END
[master-target]
listen = 127.0.0.1:$M_PORT
state = $T/mt-state
control = $T/mt.sock
target_dir = $T/targets
create = yes
END
cat >"$T/ps.conf" <<END
[process-server]
listen = 127.0.0.1:$P_PORT
master_target = 127.0.0.1:$M_PORT
spool = $T/spool
spool_bytes = 512M
control = $T/ps.sock
END
mkdir "$T/tracker" "$T/targets" "$T/app.d"
: >"$T/agent.log"
: >"$T/mt.log"

DISKS="root:$T/d1 data:$T/d2" DEFAULTS="state_dir=$T/state epoch_interval=200ms app_dir=$T/app.d app_tag_interval=0"
configure() {
	local to=$P_PORT line disk
	[ -n "$VIA" ] || to=$M_PORT
	{
		printf '[agent]\nprocess_server = 127.0.0.1:%s\ncontrol = %s\nhost = vm1\n' "$to" "$T/agent.sock"
		for line in $DEFAULTS; do
			case " $* " in *" ${line%%=*}="*) ;; *) echo "${line/=/ = }" ;; esac
		done
		for line in "$@"; do echo "${line/=/ = }"; done
		for disk in $DISKS; do printf '[disk %s]\ndevice = %s\n' "${disk%%:*}" "${disk#*:}"; done
	} >"$T/agent.conf"
}

wait_socket() {
	for _ in $(seq 200); do
		[ -S "$1" ] && perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Peer => $ARGV[0])' "$1" && return 0
		sleep 0.05
	done
	echo "no $1" && return 1
}
start_mt() { "$MT" --config "$T/mt.conf" 2>>"$T/mt.log" & M_PID=$!; wait_socket "$T/mt.sock"; }
start_ps() { [ -z "$VIA" ] || { "$PS" --config "$T/ps.conf" 2>>"$T/ps.log" & P_PID=$!; wait_socket "$T/ps.sock"; }; }
start() {
	"$AGENT" --config "$T/agent.conf" --test-tracker "$T/tracker" 2>>"$T/agent.log" &
	A_PID=$!
	echo $A_PID >"$T/agent.pid"
	wait_socket "$T/agent.sock"
}
stop() { kill -TERM "$A_PID" && wait "$A_PID"; local rc=$?; A_PID=''; return $rc; }
killed() { kill -9 "$1"; wait "$1" 2>/dev/null; true; }

cli() { "$CLI" "$@" --socket "$T/agent.sock"; }
field() { cli status --json 2>/dev/null | jq -r '."reprotect-agent" | '"$1" 2>/dev/null; }
until_() {
	local end=$((SECONDS + $1))
	shift
	while [ $SECONDS -lt $end ]; do
		[ "$("$@")" = true ] && return 0
		sleep 0.1
	done
	echo "never: $*"; cli status; "$CLI" status --socket "$T/mt.sock"; return 1
}
until_field() { until_ "$1" field "$2"; }
# point FILTER: of what the master target says of the machine
point() { build/bin/reprotect status --json --socket "$T/mt.sock" 2>/dev/null | jq -r '."reprotect-master-target".machines[0] | '"$1" 2>/dev/null; }
until_point() { until_ "$1" point "$2"; }
consistent() { until_point 40 '.points.consistency == "consistent"' && until_field 10 '.points.mode == "consistent" and .dirty_bytes == 0'; }
synced() { until_field "${1:-30}" '.state == "replicating" and .synced and .lag_ms == 0 and .dirty_bytes == 0'; }

mark() { flock "$T/tracker/lock" sh -c "echo '$2 $3' >>'$T/tracker/$1.dirty'"; }
# Marked before the write and at its completion: it may be in flight across a cut.
w() {
	mark "$@"
	head -c "$3" /dev/urandom | dd of="$T/$1" bs="$3" seek="$2" oflag=seek_bytes conv=notrunc iflag=fullblock status=none
	mark "$@"
}

script() {
	{ echo '#!/bin/bash'; echo "LOG=$T/scripts.log"; cat; } >"$T/app.d/$1"
	chmod 755 "$T/app.d/$1"
}
