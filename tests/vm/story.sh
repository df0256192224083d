# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
#
# story.sh - agent, process server and master target together in one VM, with the kernel
# module and real disks. Sourced as /lib/story.sh by the cases that tell whole stories.
#
# Set before it is sourced: STORY (folder of all), STORY_AGENT (more lines of agent.conf), STORY_TARGET (of
# master-target.conf), STORY_INTERVAL, STORY_SLICE, STORY_SPOOL.
#
#   story_start TARGET...        module, the three daemons; disk NAME of the agent goes to
#                                TARGET "NAME=/dev/vdX"
#   story_run agent|process-server|master-target     (again, after a kill)
#   story_kill WHO               kill -9
#   agent_answers                it is up
#   agent_is STATE, agent FILTER one value of the agent's status (jq)
#   story_synced SECONDS         waits for the end of the initial sync
#   story_settled SECONDS        waits until everything written so far is on the target
#   story_resyncs                how often the agent's log tells of a resync
#   story_stop                   ends the daemons; fails when one does not end cleanly

STORY=${STORY:-/tmp/story}

story_start() {
	mkdir -p "$STORY/spool" "$STORY/state" "$STORY/agent" "$STORY/run"
	[ -d /sys/module/blkcbt ] || ok "the module loads" insmod /lib/modules/blkcbt.ko
	{
		printf '[master-target]\nlisten = 127.0.0.1:9921\nstate = %s/state\n%s\n' "$STORY" "${STORY_TARGET:-}"
		for _pair; do
			printf '[target story/%s]\npath = %s\n' "${_pair%%=*}" "${_pair#*=}"
		done
	} >"$STORY"/master-target.conf
	cat >"$STORY"/process-server.conf <<-END
		[process-server]
		listen = 127.0.0.1:9911
		master_target = 127.0.0.1:9921
		spool = $STORY/spool
		spool_bytes = ${STORY_SPOOL:-256M}
	END
	cat >"$STORY"/agent.conf <<-END
		[agent]
		process_server = 127.0.0.1:9911
		machine_id = 11111111-2222-4333-8444-555555555555
		host = story
		state_dir = $STORY/agent
		epoch_interval = ${STORY_INTERVAL:-1s}
		slice_bytes = ${STORY_SLICE:-16M}
		${STORY_AGENT:-}
	END
	for _who in master-target process-server agent; do story_run $_who; done
	ok "the agent answers" wait_for 60 agent_answers || story_logs
}

story_run() {
	"reprotect-$1" --config "$STORY/$1.conf" >>"$STORY/$1.log" 2>&1 &
	echo $! >"$STORY/$1.pid"
}

story_kill() {
	kill -9 "$(cat "$STORY/$1.pid")"
	wait "$(cat "$STORY/$1.pid")" 2>/dev/null
	return 0
}

agent() { reprotect status --json 2>/dev/null | jq -r ".[\"reprotect-agent\"] | $1" 2>/dev/null; }
# Status is also what the other daemons say while the agent does not answer yet.
agent_answers() { [ -n "$(agent '.state // empty')" ]; }
agent_is() { [ "$(agent .state)" = "$1" ]; }
story_logs() { for _who in agent process-server master-target; do echo "--- $_who"; tail -n 15 "$STORY/$_who.log"; done; }
story_synced() { wait_for "$1" agent_is replicating || { reprotect status; story_logs; return 1; }; }

# Applied, and cut after now: two more epochs committed, or nothing dirty any more.
story_clean() { [ "$(agent '.state + " " + (.dirty_bytes | tostring) + " " + (.epochs.open.epoch // 0 | tostring)')" = "replicating 0 0" ]; }
story_settled() {
	sync
	wait_for "$1" story_clean || { reprotect status; story_logs; return 1; }
}

story_resyncs() { grep -cE 'resync of (all|the whole)|resynced|initial sync needed' "$STORY/agent.log"; }

story_stop() {
	for _who in agent process-server master-target; do
		_pid=$(cat "$STORY/$_who.pid")
		kill "$_pid"
		wait "$_pid" || { echo "$_who: exit status $?"; return 1; }
	done
}
