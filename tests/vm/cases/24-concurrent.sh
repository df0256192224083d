# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: many processes attach, detach, cut, commit, abort, mark, get and enumerate the same disks at once, under load.
# VM: disks=64M,64M,64M,64M modules="dm_mod" timeout=240 long=1500 kernels=all env="CHURN_SEED CHURN_SECONDS CHURN_PROCESSES"
# VM: tools="fio dmsetup cmp"
. /lib/tap.sh

: "${CHURN_SEED:=1}"
: "${CHURN_SECONDS:=10}"
: "${CHURN_PROCESSES:=8}"

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

load() { # DISK
	exec fio --filename="$1" --output-format=terse --time_based --runtime=36000 \
		--name=uring --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=8 --rate_iops=200 \
		--name=trim --ioengine=libaio --direct=1 --rw=randtrim --bs=64k --rate_iops=5 >/dev/null 2>&1
}

replicate() { # EPOCH SOURCE
	cbtctl cut "$1" "$2" && cbtctl copy "$2" /dev/vdd && cbtctl commit "$1" "$2"
}

# written DISK: the load has written at least 16 granules since the cut
written() { [ "$(get "$1" dirty)" -ge 65536 ]; }

# what the owner of vda does meanwhile
rounds() {
	n=1
	while [ -e /run/churn ]; do
		replicate $n /dev/vda || return 1
		n=$((n + 1))
	done
	echo $n >/run/rounds
	[ $n -gt 2 ]
}

ok "the module loads" insmod /lib/modules/blkcbt.ko
echo 0 131072 linear /dev/vdc 0 | dmsetup create lin
ok "attach" cbtctl attach /dev/vda
load /dev/vda &
fio1=$!
load /dev/vdb &
fio2=$!
load /dev/mapper/lin &
fio3=$!
touch /run/churn
rounds >/tmp/rounds.out 2>&1 &
rounds=$!
ok "$CHURN_PROCESSES processes" churn "$CHURN_SEED" "$CHURN_SECONDS" "$CHURN_PROCESSES" /dev/vda /dev/vdb /dev/mapper/lin
diag "$(tail -n 5 /tmp/tap.out)"
rm /run/churn
ok "replication of a disk went on meanwhile" wait $rounds
for fio in $fio1 $fio2 $fio3; do
	ok "the load lives" kill -0 "$fio"
	kill "$fio"
	wait "$fio"
done

# What was lost on the way would show now.
read -r n </run/rounds
ok "/dev/vda: last round" replicate "$n" /dev/vda
echo 3 >/proc/sys/vm/drop_caches
ok "/dev/vda: equal" cmp /dev/vda /dev/vdd
is "/dev/vda: no write escaped" "$(get /dev/vda escapes)" 0
ok "/dev/vda: detach" cbtctl detach /dev/vda
for disk in /dev/vdb /dev/mapper/lin; do
	cbtctl get $disk || cbtctl attach $disk
	is "$disk: nothing is under way" "$(get $disk inflight)" 0
	# A bio does not tell when it began: one from before the disk was attached that comes back after its first cut counts as
	# an escape, and everything is marked.
	[ $disk = /dev/mapper/lin ] || is "$disk: no write escaped" "$(get $disk escapes)" 0
	ok "$disk: detach" cbtctl detach $disk --force
	ok "$disk: attach" cbtctl attach $disk
	ok "$disk: first round" replicate 1 $disk
	load $disk &
	fio=$!
	ok "$disk: it is written" wait_for 60 written $disk
	ok "$disk: a round under load" replicate 2 $disk
	ok "$disk: it is written again" wait_for 60 written $disk
	kill $fio
	wait $fio
	ok "$disk: last round" replicate 3 $disk
	echo 3 >/proc/sys/vm/drop_caches
	ok "$disk: equal" cmp $disk /dev/vdd
	is "$disk: no write escaped since" "$(get $disk escapes)" 0
	ok "$disk: detach" cbtctl detach $disk
done
is "nothing is tracked" "$(cbtctl get)" ""
ok "the module unloads" rmmod blkcbt
done_testing
