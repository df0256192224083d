# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: the power is cut from outside at random moments, under fio, SQLite and files that come and go, epochs open or not, with and without a volatile cache that forgets: the store is believed each time, and a catch-up gives equality.
# VM: disks=192M,192M,8M cached="vda vdc" modules="ext4" tools="fio sqlite3 cmp mkfs.ext4 e2fsck" files="tests/vm/store.sh:/lib/store.sh tests/vm/fsload.sh:/lib/fsload.sh"
# VM: timeout=400 long=14400 boots=100000 env="CUTS SEED FAULT" kernels=6.1,6.12
. /lib/tap.sh
. /lib/store.sh
. /lib/fsload.sh

# CUTS power cuts (default 3), their moments from SEED. FAULT is a fault point of the module, for a test of this test.
cuts=${CUTS:-3}
seed=${SEED:-1}
random() { awk -v seed="$((seed * 1000 + BOOT))" -v max="$1" 'BEGIN { srand(seed); rand(); print int(rand() * max) }'; }

attach() { cbtctl attach /dev/vda --store /dev/vdc --identity disk-a; }
# A file system in the first half, raw writes behind it.
load() {
	mount -t ext4 /dev/vda /mnt || return
	rm -rf /mnt/db* /mnt/f* /mnt/fio
	mkdir -p /mnt/fio
	files /mnt &
	rows /mnt &
	fio --output-format=terse --time_based --runtime=600 \
		--name=raw --filename=/dev/vda --offset=132m --size=56m --ioengine=io_uring --direct=1 --rw=randwrite --bsrange=4k-32k --iodepth=8 --rate_iops=150 \
		--name=file --directory=/mnt/fio --size=16m --ioengine=psync --rw=randwrite --bs=8k --fsync=8 --rate_iops=60 >/dev/null 2>&1 &
}
# Some epochs are open when the power goes, some are being copied, some are committed.
epochs() {
	while :; do
		round || return
		usleep $(($(random 400) * 1000))
	done
}
at_rest() {
	[ "$BOOT" = 1 ] || { mount -t ext4 /dev/vda /mnt && umount /mnt; } # the journal
	while round && [ "$(get dirty)" != 0 ]; do :; done
}

module=/lib/modules/blkcbt.ko
[ -z "${FAULT:-}" ] || module=/lib/modules/blkcbt-faults.ko
mkdir -p /mnt
insmod $module store_tick_ms=300 || { ok "the module loads" false; done_testing; }
if [ "$BOOT" = 1 ]; then
	mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda 128M
	ok "a store" cbtctl store-format /dev/vda --store /dev/vdc --identity disk-a --extent 256k
	ok "attach" attach
	ok "first copy" at_rest
else
	cut="cut $((BOOT - 1))"
	attach >/dev/null
	is "$cut: the store is believed" "$(get store_trusted) $(get store_reason)" "1 "
	dirty=$(get dirty)
	ok "$cut: it is no full resync" test "$dirty" -lt "$(get size)"
	ok "$cut: catch-up" at_rest
	ok "$cut: every block equal" equal
	diag "$cut: $((dirty / 1024)) KiB of $(($(get size) / 1024)) were dirty"
	[ $((BOOT % 10)) != 0 ] || ok "$cut: the file system is whole" e2fsck -fn /dev/vda
fi
if [ "$BOOT" -gt "$cuts" ]; then
	ok "detach" cbtctl detach /dev/vda
	ok "the module unloads" rmmod blkcbt
	done_testing
fi
[ -z "${FAULT:-}" ] || echo 1 >/sys/module/blkcbt/parameters/"$FAULT"
load || { ok "the load begins" false; done_testing; }
wait_for 60 written || { ok "it writes" false; done_testing; }
power_cut_in $((500 + $(random 5000)))
epochs
ok "an epoch under load" false
done_testing
