# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: the thin whole in one VM: attach a mounted busy disk, sync, epochs, failback, equal.
# VM: disks=128M,128M,64M,64M modules="ext4 virtio_blk" tools="fio mkfs.ext4 e2fsck cmp jq" files="tests/vm/story.sh:/lib/story.sh" timeout=600 mem=1536
. /lib/tap.sh
. /lib/story.sh

mkdir -p /mnt
ok "a file system" eval 'mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt' || done_testing
fio --name=load --directory=/mnt --size=32m --rw=randwrite --bs=4k --fsync=16 --rate=500k \
	--time_based --runtime=3600 --eta=never --output=/tmp/fio.out &
fio --name=raw --filename=/dev/vdc --size=48m --rw=randwrite --bsrange=4k-64k --direct=1 \
	--ioengine=io_uring --rate=500k --time_based --runtime=3600 --eta=never --output=/tmp/fio2.out &
raw=$!

story_start root=/dev/vdb data=/dev/vdd
ok "attach a mounted, busy disk" reprotect disk attach /dev/vda --name root || done_testing
ok "attach a busy raw disk" reprotect disk attach /dev/vdc --name data
fails "attach it again: refused, with the remedy" "detach" reprotect disk attach /dev/vda --name again
ok "initial sync ends under load" story_synced 240 || done_testing
ok "disk list names both" sh -c 'reprotect disk list | grep root && reprotect disk list | grep data'
committed=$(agent .epochs.committed)
more() { [ "$(agent .epochs.committed)" -ge $((committed + 3)) ]; }
ok "epochs go on" wait_for 60 more
ok "status says lag and rates" sh -c 'reprotect status | grep -i lag'
ok "status --json is JSON with a lag" sh -c 'reprotect status --json | jq -e ".[] | select(.lag_ms != null) | .lag_ms >= 0"'
fails "failback of a disk that stays busy: refused, says which" "data" reprotect failback --yes --timeout 8s
ok "after a failed failback replication goes on" story_synced 60
is "and the file system is thawed" "$(touch /mnt/thawed && echo yes)" yes

kill $raw; wait $raw 2>/dev/null
ok "failback with a file system still under load" reprotect failback --yes --timeout 120s
is "state" "$(agent .state)" failed-back
is "no write escaped" "$(agent '[.disks[].counters.escapes] | add')" 0
# Not by the page cache of the device: under a mounted file system it is not told of all that is written.
ok "root: every block equal" sh -c 'dd if=/dev/vda bs=1M iflag=direct | cmp - /dev/vdb'
ok "data: every block equal" cmp /dev/vdc /dev/vdd
ok "the copy's file system is clean" e2fsck -fn /dev/vdb
ok "daemons end cleanly" story_stop
done_testing
