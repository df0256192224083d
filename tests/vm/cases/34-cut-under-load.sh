# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: eight busy disks are cut many times; how long writers are held, beside what a write takes in the same run.
# VM: disks=16M,16M,16M,16M modules="dm_mod +null_blk" timeout=300 long=3600 kernels=all env="CUTS"
# VM: tools="fio jq dmsetup" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

: "${CUTS:=200}"
disks="/dev/nullb0 /dev/nullb1 /dev/nullb2 /dev/vda /dev/vdb /dev/vdc /dev/mapper/lin0 /dev/mapper/lin1"

busy() {
	set --
	for disk in $disks; do set -- "$@" --name=w${disk##*/} --filename=$disk; done
	exec fio --output=/tmp/fio.json --output-format=json --time_based --runtime=3600 --direct=1 --rw=randwrite \
		--bs=4k --ioengine=io_uring --iodepth=2 --thread "$@" >/dev/null 2>&1
}

# Consistent and fuzzy in turn; nobody copies, so each write of the next ones preserves.
cuts() {
	_from=$N
	while [ $N -lt $((_from + CUTS)) ]; do
		N=$((N + 1))
		cbtctl cut $N $disks --mode $((N % 2)) >/tmp/cut || return 1
		cbtctl commit $N $disks || return 1
	done
}
sum() { for disk in $disks; do get $disk "$1"; done | awk '{ n += $1 } END { print n }'; }
latency() { jq -r "[.jobs[] | select(.jobname | startswith(\"w$1\")) | .write.lat_ns | select(.N > 0)] | (map(.mean * .N) | add) / (map(.N) | add) / 1000 | floor" /tmp/fio; }

for i in 0 1 2 3; do ok "null_blk $i" null_disk $i 16; done
echo 0 32768 linear /dev/nullb3 0 | dmsetup create lin0
echo 0 32768 linear /dev/vdd 0 | dmsetup create lin1
ok "the module loads" insmod /lib/modules/blkcbt.ko
for disk in $disks; do ok "$disk: attach" cbtctl attach $disk; done
clean $disks
busy &
fio=$!
written() { for disk in $disks; do [ "$(get $disk dirty)" -gt 65536 ] || return 1; done; }
ok "all disks are written" wait_for 60 written
ok "$CUTS cuts" cuts
ok "the load was there all the time" kill -0 $fio
kill -TERM $fio
wait $fio
# It says first that it was told to end.
sed -n '/^{/,$p' /tmp/fio.json >/tmp/fio
is "each cut is in the histogram" "$(info holds_count)" $N
is "nothing is under way" "$(sum inflight)" 0
for what in nullb vd lin; do
	us=$(latency $what)
	ok "mean of a write to $what: $us us" [ "${us:-0}" -gt 0 ]
done
diag "held by a cut of 8 disks: p50 <= $(($(info holds_p50_ns) / 1000)) us, p99 <= $(($(info holds_p99_ns) / 1000)) us, longest $(($(info holds_max_ns) / 1000)) us; a write took $(latency nullb) us on null_blk, $(latency vd) us on virtio"
diag "holds (ns:cuts): $(info holds_buckets)"
# A writer that the machine stops between gate and request, for longer than from a cut to its commit, looks
# like one that escaped: the auditor knows the request's age only. With commits as soon as here it happens.
diag "writes held: $(sum held), preserved: $(sum preserves), late: $(sum late), escapes: $(sum escapes)"
for disk in $disks; do ok "$disk: detach" cbtctl detach $disk; done
ok "the module unloads" rmmod blkcbt
done_testing
