# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091,SC2016
# What: seconds between consistent points on the target under 4 KiB random writes, through the programs (a benchmark, run by tests/bench/run)
# VM: mem=1024 timeout=900 tools="fio jq" disks=64M,64M files="tests/vm/story.sh:/lib/story.sh"
. /lib/tap.sh
. /lib/story.sh

rounds=$(sed -n 's/.*bench_rounds=\([0-9]*\).*/\1/p' /proc/cmdline)
POINTS=6

ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }
points() { agent '.points.consistent_epochs // 0'; }
points_are() { # at least so many, counted in $now; how it is asked for takes processor time from what is measured
	sleep 0.5
	now=$(points)
	[ "${now:-0}" -ge "$1" ]
}

# reached NAME: from a point to the $POINTS'th after it
reached() {
	wait_for 120 points_are $(($(points) + 2)) || return 1
	_first=$now _from=$(ms)
	wait_for 240 points_are $((_first + POINTS)) || return 1
	diag "sample $1 $(awk "BEGIN { print ($(ms) - $_from) / 1000 / ($now - $_first) }")"
}

# configured INTERVAL: an agent that was told so
configured() {
	story_kill agent
	sed -i "s/^epoch_interval.*/epoch_interval = $1/" "$STORY/agent.conf"
	story_run agent
	wait_for 60 agent_answers
}

STORY_INTERVAL=5s STORY_SLICE=64M story_start data=/dev/vdb
ok "attach" reprotect disk attach /dev/vda --name data || done_testing
ok "in sync" story_synced 120 || done_testing
fio --name=w --filename=/dev/vda --rw=randwrite --bs=4k --ioengine=io_uring --direct=1 --iodepth=8 --rate_iops=1000 \
	--time_based --runtime=3600 --output=/tmp/fio.out >/dev/null 2>&1 &
fio=$!
r=1
while [ $r -le "${rounds:-3}" ]; do
	ok "round $r: an agent as it comes" configured 5s
	ok "round $r: its points" reached rpo_default || { reprotect status; story_logs; }
	ok "round $r: an agent in a hurry" configured 100ms
	ok "round $r: its points" reached rpo_shortest || { reprotect status; story_logs; }
	diag "sample rpo_downgrades $(agent .points.downgrades)"
	r=$((r + 1))
done
kill -TERM $fio
wait $fio
ok "daemons end cleanly" story_stop
done_testing
