# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: agent, process server and master target killed with -9 at random moments under load: nothing lost, no full resync.
# VM: disks=96M,96M modules="virtio_blk" tools="fio cmp jq" files="tests/vm/story.sh:/lib/story.sh" timeout=900 long=7200 mem=1536 env="KILLS"
. /lib/tap.sh
. /lib/story.sh

kills=${KILLS:-4}
story_start root=/dev/vdb
ok "attach" reprotect disk attach /dev/vda --name root || done_testing
ok "initial sync" story_synced 240 || done_testing
fio --name=load --filename=/dev/vda --size=96m --rw=randwrite --bsrange=4k-128k --ioengine=io_uring \
	--direct=1 --rate=1m --time_based --runtime=36000 --eta=never --output=/tmp/fio.out &
load=$!

resyncs=0
# An epoch that was cut after the kill has been applied.
went_on() { agent_is replicating && [ "$(agent .epochs.applied)" -gt "${before:-0}" ]; }
survives() { # WHO
	i=0
	while [ $i -lt "$kills" ]; do
		i=$((i + 1))
		# A random moment, 0.1 to 2.1 s into the work.
		usleep $((100000 + $(od -An -N2 -tu2 /dev/urandom) % 2000 * 1000))
		before=$(agent .epochs.applied)
		story_kill "$1"
		story_run "$1"
		wait_for 120 went_on || { story_logs; return 1; }
		[ "$(agent '[.disks[].initial.active] | any')" = false ] || resyncs=$((resyncs + 1))
	done
}
ok "the agent survives $kills kills" survives agent
ok "the process server survives $kills kills" survives process-server
ok "the master target survives $kills kills" survives master-target
is "full resyncs" $resyncs 0
is "resyncs in the agent's log" "$(grep -cE 'resync of (all|the whole)|resynced' "$STORY/agent.log")" 0
kill $load; wait $load 2>/dev/null
ok "everything is on the target" story_settled 120
ok "every block equal" cmp /dev/vda /dev/vdb
is "no write escaped" "$(agent '[.disks[].counters.escapes] | add')" 0
ok "daemons end cleanly" story_stop
done_testing
