#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The agent is killed at every step of an epoch and of an application tag, on loopback without the kernel module: the
# tracker (--test-tracker) kills it at the call that is named, scripts kill it in theirs. Each time: what the target calls
# a point is one, nothing is lost, and the next agent goes on. Prints TAP.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

VIA=ps NAME=steps-e2e
# shellcheck source=tests/e2e/lib/agent.sh
. tests/e2e/lib/agent.sh
trap end_all EXIT

ended() { case $(ps -o state= -p "$A_PID") in Z | '') echo true ;; esac; }
as_before() { cmp "$T/d1.before" "$T/targets/vm1/root.img" && cmp "$T/d2.before" "$T/targets/vm1/data.img"; }
same() { cmp "$T/d1" "$T/targets/vm1/root.img" && cmp "$T/d2" "$T/targets/vm1/data.img"; }
synced_and_same() { synced "${1:-30}" && same; }
# Of one epoch or the other, or not called a point. What is in the spool may still arrive meanwhile.
honest() {
	local said rc state='"\(.last_applied) \(.points.consistency == "consistent" and (.points.in_between | not))"'
	for _ in $(seq 50); do
		said=$(point "$state")
		as_before || same
		rc=$?
		[ "$said" = "$(point "$state")" ] || continue
		[ "${said#* }" = false ] || return $rc
		return 0
	done
	echo "does not come to rest: $said"
	return 1
}
# Writes that the agent cannot cut in the middle.
changed() {
	cp "$T/d1" "$T/d1.before" && cp "$T/d2" "$T/d2.before"
	# Not while it has the tracker's lock: writers need it, too.
	flock "$T/tracker/lock" sh -c "kill -STOP $A_PID; until ps -o state= -p $A_PID | grep -q T; do sleep 0.02; done"
	w d1 4194304 3145728
	w d1 20971520 65536
	w d2 1048576 1048576
	"$@"
	kill -CONT "$A_PID"
}
# died STEP: it has; what is then there
died() {
	check "$1: killed there" until_ 20 ended
	wait "$A_PID" 2>/dev/null
	rm -f "$T/tracker/die"
	check "$1: what is called a point is one" honest
	start
	check "$1: nothing is lost" synced_and_same
	check "$1: and consistent again" consistent
}

truncate -s 48M "$T/d1"
truncate -s 16M "$T/d2"
dd if=/dev/urandom of="$T/d1" bs=1M count=40 conv=notrunc status=none
dd if=/dev/urandom of="$T/d2" bs=1M count=9 conv=notrunc status=none
configure slice_bytes=16M
start && start_mt && start_ps || exit 1
check "consistent" consistent

at() { echo "$1" >"$T/tracker/die"; }
for step in cut cut-done extents image release get commit commit-first commit-done; do
	changed at $step
	died $step
done

# END is on its way, and nobody answers.
changed kill -STOP "$P_PID"
check "not acknowledged: all of it is sent" until_field 20 '.epochs.open.phase == "waiting"'
kill -9 "$A_PID"
kill -CONT "$P_PID"
died "not acknowledged"

# The next agent's first step: it aborts what is open.
changed at get
check "abort: killed with an epoch open" until_ 20 ended
wait "$A_PID" 2>/dev/null
at abort
"$AGENT" --config "$T/agent.conf" --test-tracker "$T/tracker" 2>>"$T/agent.log" &
A_PID=$!
died abort

# ---- application tags
for phase in pre post; do
	script 10-dies <<-END
	[ "\$1" != $phase ] || kill -9 "\$(cat '$T/agent.pid')"
	END
	before=$(point '.points.last_app.epoch')
	changed true
	cli tag app --name "dies-$phase" >"$T/out" 2>&1
	isnt "tag, $phase: the command fails" $? 0
	died "tag, $phase"
	is "tag, $phase: no app tag is offered" "$(point '.points.last_app.epoch')" "$before"
done
rm "$T/app.d/10-dies"
changed at get
cli tag app --name dies-sent >"$T/out" 2>&1
isnt "tag, before it is sent: the command fails" $? 0
before=$(point '.points.last_app.epoch')
died "tag, before it is sent"
is "tag, before it is sent: no app tag is offered" "$(point '.points.last_app.epoch')" "$before"
check "and the next tag is good" cli tag app --name good
check "ends" stop
no_reports
done_testing
