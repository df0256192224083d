# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: each job of tests/fio runs, on the kind of disk its path needs.
# VM: disks=64M,64M modules=+null_blk files=tests/fio:/fio timeout=180
# VM: tools="fio blkdiscard modprobe"
. /lib/tap.sh

export SIZE=32M RUNTIME=1

job() { # JOB DISK
	TARGET=$2 fio --output-format=terse "/fio/$1.fio"
}

ok "null_blk with polled queues" modprobe null_blk poll_queues=1 discard=1 memory_backed=1 gb=1
for j in writeback uring mixed large sync; do
	ok "$j on virtio-blk" job "$j" /dev/vda
done
# Written before it polls: null_blk sleeps for memory, also where polling must not.
dd if=/dev/zero of=/dev/nullb0 bs=1M count=64 oflag=direct
ok "polled on null_blk" job polled /dev/nullb0
ok "trim on virtio-blk" job trim /dev/vda
ok "write zeroes on virtio-blk" blkdiscard -z /dev/vda
ok "verify: written" job verify /dev/vda
dd if=/dev/vda of=/dev/vdb bs=1M
ok "verify: a copy is good" env TARGET=/dev/vdb fio --verify_only=1 /fio/verify.fio
dd if=/dev/zero of=/dev/vdb bs=4k count=1 seek=100
fails "verify: a damaged copy is not" "verify" env TARGET=/dev/vdb fio --verify_only=1 /fio/verify.fio
done_testing
