# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: points in time with the module: consistent epochs under load, crash and app tags, snapshot, budget used up.
# VM: disks=96M,96M,64M,64M modules="ext4 virtio_blk" tools="fio mkfs.ext4 e2fsck dumpe2fs cmp jq" files="tests/vm/story.sh:/lib/story.sh" timeout=600 mem=1536
. /lib/tap.sh
. /lib/story.sh

target() { reprotect status --json 2>/dev/null | jq -r ".[\"reprotect-master-target\"].machines[0].points | $1" 2>/dev/null; }
target_is() { [ "$(target "$1")" = true ]; }
agent_true() { [ "$(agent "$1")" = true ]; }

mkfs.ext4 -q /dev/vda && mkdir -p /mnt
ok "a mounted file system" mount /dev/vda /mnt || done_testing
fio --name=load --directory=/mnt --size=16m --rw=randwrite --bs=4k --fsync=16 --rate=300k \
	--time_based --runtime=3600 --eta=never --output=/tmp/fio.out &
load=$!
fio --name=raw --filename=/dev/vdc --size=32m --rw=randwrite --bs=4k --direct=1 --ioengine=io_uring --rate=300k \
	--time_based --runtime=3600 --eta=never --output=/tmp/fio2.out &
raw=$!

STORY_INTERVAL=5s STORY_SLICE=32M story_start root=/dev/vdb data=/dev/vdd
ok "attach" reprotect disk attach /dev/vda --name root || done_testing
ok "attach" reprotect disk attach /dev/vdc --name data
ok "initial sync ends under load" story_synced 240 || done_testing
ok "epochs are consistent, under load" wait_for 60 target_is '.consistency == "consistent"' || { reprotect status; story_logs; }
before=$(agent .points.consistent_epochs)
more() { [ "$(agent .points.consistent_epochs)" -ge $((before + 5)) ]; }
ok "one after the other" wait_for 90 more
is "none was downgraded" "$(agent .points.downgrades)" 0
ok "holds are counted" agent_true '.points.holds.count > 5 and .points.holds.max_ns > 0'
ok "tag crash" reprotect tag crash --name marker
ok "is on the target" target_is '[.tags[].name] | index("marker") != null'
ok "tag app freezes the file system under load" reprotect tag app --name good
is "is on the target" "$(target '.last_app | "\(.name) \(.filesystems[0].point) \(.filesystems[0].frozen)"')" "good /mnt true"
ok "and it is thawed" touch /mnt/thawed

kill $raw $load; wait $raw $load 2>/dev/null
sync
ok "settled" story_settled 60
dd if=/dev/urandom of=/mnt/journal bs=64k count=8 2>/dev/null
ok "tag app" reprotect tag app --name last
story_kill agent
ok "the copy needs no journal replay" sh -c '! dumpe2fs -h /dev/vdb 2>/dev/null | grep needs_recovery'
ok "and is clean" e2fsck -fn /dev/vdb
sed -i 's/^epoch_interval.*/&\npreserve_budget = 1M/' "$STORY/agent.conf"
story_run agent
ok "an agent with a small budget" wait_for 60 agent_answers
ok "is consistent while nobody writes" wait_for 90 target_is '.consistency == "consistent"'
ok "snapshot" sh -c 'reprotect disk snapshot data >/tmp/image'
ok "reads as the disk" cmp "$(cat /tmp/image)" /dev/vdc
dd if=/dev/urandom of=/dev/vdc bs=1M count=8 oflag=direct 2>/dev/null
ok "writes past its budget go on, it is lost and says so" wait_for 30 agent_true '.snapshot.state == "failed"'
ok "release" reprotect disk snapshot --release data
ok "replication goes on" story_settled 90
ok "data: every block equal" cmp /dev/vdc /dev/vdd
is "no write escaped" "$(agent '[.disks[].counters.escapes] | add')" 0
umount /mnt
ok "daemons end cleanly" story_stop
done_testing
