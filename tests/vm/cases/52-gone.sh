# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: bad input to the whole: a source disk pulled out, a target too small, a partition, an absent disk; the others go on.
# VM: disks=64M,64M,32M modules="virtio_blk sd_mod +scsi_debug" tools="fio cmp jq sfdisk modprobe" files="tests/vm/story.sh:/lib/story.sh" timeout=420 mem=1536
. /lib/tap.sh
. /lib/story.sh

modprobe scsi_debug dev_size_mb=32 lbpu=1
ok "the SCSI disk is there" wait_for 20 test -b /dev/sda
truncate -s 32M /tmp/sda.img
story_start good=/dev/vdb pulled=/tmp/sda.img
dd if=/dev/urandom of=/dev/vda bs=1M count=8 2>/dev/null
dd if=/dev/urandom of=/dev/sda bs=1M count=8 2>/dev/null

fails "an absent disk" "/dev/nothing" reprotect disk attach /dev/nothing --name x
fails "a file that is no disk" "/etc/vm" reprotect disk attach /etc/vm --name x
fails "a granule that is no power of two" "granule" reprotect disk attach /dev/vda --name good --granule 12K
ok "attach a virtio disk" reprotect disk attach /dev/vda --name good || done_testing
ok "attach a SCSI disk" reprotect disk attach /dev/sda --name pulled || done_testing
ok "both synchronised" story_synced 120 || done_testing

fio --name=load --filename=/dev/vda --size=64m --rw=randwrite --bs=4k --ioengine=io_uring --direct=1 --rate=300k \
	--time_based --runtime=3600 --eta=never --output=/tmp/fio.out &
load=$!
fio --name=load --filename=/dev/sda --size=32m --rw=randwrite --bs=4k --ioengine=io_uring --direct=1 --rate=300k \
	--time_based --runtime=3600 --eta=never --output=/tmp/fio2.out &
echo 1 >/sys/block/sda/device/delete
gone() { reprotect status | grep -i pulled | grep -qiE 'gone|removed|not tracked|no such'; }
ok "the operator is told that the disk is gone" wait_for 60 gone || reprotect status
before=$(agent .epochs.applied)
more() { [ "$(agent .epochs.applied)" -ge $((before + 3)) ]; }
ok "the other disk goes on" wait_for 60 more || story_logs
point_is() { [ "$(reprotect status --json 2>/dev/null | jq -r '.["reprotect-master-target"].machines[0].points.consistency' 2>/dev/null)" = "$1" ]; }
is "no point is offered without the lost one" "$(point_is consistent && echo offered)" "" || reprotect status
ok "the operator is told why" sh -c 'reprotect status | grep "FUZZY: disk pulled is not tracked"'
ok "the lost disk can be detached" reprotect disk detach pulled
ok "the other one is a point again" wait_for 60 point_is consistent || reprotect status

fails "a partition" "partition" sh -c 'echo "start=2048" | sfdisk -q --force /dev/vdc && reprotect disk attach /dev/vdc1 --name part'
dd if=/dev/zero of=/dev/vdc bs=1M count=1 2>/dev/null
kill $load; wait $load 2>/dev/null
ok "the good disk is on its target" story_settled 120
ok "every block equal" cmp /dev/vda /dev/vdb
ok "daemons end cleanly" story_stop
done_testing
