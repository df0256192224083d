# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091
# What: malformed netlink messages are refused and change nothing; after random ones from many processes the module works and unloads.
# VM: disks=64M,64M,64M modules="dm_mod" timeout=180 long=1500 kernels=all env="FUZZ_SEED FUZZ_COUNT FUZZ_SECONDS FUZZ_PROCESSES"
# VM: tools="fio dmsetup cmp"
. /lib/tap.sh

# What a process sends depends on the seed, its number and how many it has sent; FUZZ_SECONDS=600 for the long run.
: "${FUZZ_SEED:=1}"
: "${FUZZ_COUNT:=0}"
: "${FUZZ_SECONDS:=10}"
: "${FUZZ_PROCESSES:=6}"

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }

# detach every disk that the fuzzing left attached
detach_all() {
	cbtctl get | awk -F= '$1 == "major" { major = $2 } $1 == "minor" { print major ":" $2 }' >/tmp/left
	while read -r dev; do cbtctl detach "$dev" --force || return 1; done </tmp/left
	[ -z "$(cbtctl get)" ]
}

load() { # DISK
	exec fio --filename="$1" --output-format=terse --time_based --runtime=36000 \
		--name=uring --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=8 --rate_iops=200 \
		--name=trim --ioengine=libaio --direct=1 --rw=randtrim --bs=64k --rate_iops=5 >/dev/null 2>&1
}

round() { # EPOCH DISK
	cbtctl cut "$1" "$2" && cbtctl copy "$2" /dev/vdc && cbtctl commit "$1" "$2"
}

ok "the module loads" insmod /lib/modules/blkcbt.ko
echo 0 131072 linear /dev/vdb 0 | dmsetup create lin

for disk in /dev/vda /dev/mapper/lin; do
	if [ $disk = /dev/vda ]; then other=/dev/mapper/lin; else other=/dev/vda; fi
	cbtctl attach $disk
	ok "$disk: each malformed message is refused and changes nothing" nlfuzz strict $disk $other
	diag "$(tail -n 1 /tmp/tap.out)"
done

load /dev/vda &
fio1=$!
load /dev/mapper/lin &
fio2=$!
ok "random messages under load" nlfuzz random "$FUZZ_SEED" "$FUZZ_COUNT" "$FUZZ_SECONDS" "$FUZZ_PROCESSES" \
	/dev/vda /dev/mapper/lin
diag "$(cat /tmp/tap.out)"
ok "the load on virtio-blk lives" kill -0 $fio1
ok "the load on dm lives" kill -0 $fio2
ok "what is left attached can be detached" detach_all

for disk in /dev/vda /dev/mapper/lin; do
	ok "$disk: attach" cbtctl attach $disk
	ok "$disk: epochs under load" eval "round 1 $disk && round 2 $disk"
	if [ $disk = /dev/vda ]; then pid=$fio1; else pid=$fio2; fi
	kill $pid
	wait $pid
	ok "$disk: last epoch" round 3 $disk
	echo 3 >/proc/sys/vm/drop_caches
	ok "$disk: equal" cmp $disk /dev/vdc
	is "$disk: no write escaped" "$(get $disk escapes)" 0
	is "$disk: nothing is under way" "$(get $disk inflight)" 0
	ok "$disk: detach" cbtctl detach $disk
done
ok "the module unloads" rmmod blkcbt
done_testing
