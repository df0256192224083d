# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2154
# What: how long a store of a disk of 16 TiB takes to load (a benchmark, run by tests/bench/run)
# VM: mem=1536 disks=1200M timeout=600 modules="+null_blk" tools="fio modprobe"
. /lib/tap.sh

rounds=$(sed -n 's/.*bench_rounds=\([0-9]*\).*/\1/p' /proc/cmdline)
DISK=/dev/nullb0
attach() { cbtctl attach $DISK --store /dev/vda --identity a; }
now_ms() { awk '{ print int($1 * 1000) }' /proc/uptime; }
get() { cbtctl get $DISK | sed -n "s/^$1=//p"; }
clean() { [ "$(get store_risk)" -lt 67108864 ]; }
epoch() { cbtctl cut "$1" $DISK && cbtctl commit "$1" $DISK; }
timed() { # NAME COMMAND...
	_name=$1
	shift
	_from=$(now_ms)
	"$@" || return
	diag "sample $_name $(($(now_ms) - _from))"
}
read_pages() { dd if=/dev/vda of=/dev/null bs=256k iflag=direct count="$1"; }

ok "a disk of 16 TiB" modprobe null_blk gb=16384
ok "the module loads" insmod /lib/modules/blkcbt.ko store_tick_ms=100
ok "a store" cbtctl store-format $DISK --store /dev/vda --identity a
ok "attach" attach
ok "an epoch" epoch 1
ok "saved" cbtctl detach $DISK
ok "attached again" attach
ok "nothing is dirty" clean
# 4 KiB in each GiB: so many pages of the fine map are named
ok "writes all over it" fio --name=s --filename=$DISK --rw=write:1048572k --bs=4k --size=16t --io_size=64m --ioengine=io_uring \
	--direct=1 --iodepth=32 --thread --disk_util=0
r=1
while [ $r -le "${rounds:-3}" ]; do
	ok "detach" cbtctl detach $DISK
	ok "attach" timed load_attach attach
	[ "$(get store_trusted)" = 1 ] || { ok "the store is believed" false; done_testing; }
	# What it has to read: two slots of intent pages, and the pages that are named.
	ok "the same number of bytes read" timed load_read read_pages $(((2 * 264 + 16384) * 4096 / 262144))
	r=$((r + 1))
done
diag "sample load_memory $(($(get store_memory) / 1024))"
ok "detach" cbtctl detach $DISK
ok "the module unloads" rmmod blkcbt
done_testing
