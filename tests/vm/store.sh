# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash
#
# store.sh - what the cases about the crash-safe store share: $DISK (/dev/vda) is tracked, /dev/vdb its copy.
# Sourced as /lib/store.sh after tap.sh.
#
#   get KEY              one value of cbtctl's
#   round                one epoch, wholly; $N is its number
#   equal                the copy is what the disk is
#   put GRANULE [COUNT]  writes so many from there on
#   hot_is|risk_is N     so many extents are in use, a power cut would cost so many bytes
#   retired              none, and nothing: an extent that is being retired is not in use any more, and still sent again
#                        until that is done
#   written              enough is dirty for an epoch under load

# Epochs are not numbered again after a reboot.
N=$((BOOT * 1000))

DISK=${DISK:-/dev/vda}

get() { cbtctl get "$DISK" | sed -n "s/^$1=//p"; }
round() {
	N=$((N + 1))
	cbtctl cut $N "$DISK" && cbtctl copy "$DISK" /dev/vdb && cbtctl commit $N "$DISK"
}
equal() {
	echo 3 >/proc/sys/vm/drop_caches
	cmp "$DISK" /dev/vdb
}
put() { dd if=/dev/urandom of="$DISK" bs=4k seek="$1" count="${2:-1}" oflag=direct conv=notrunc; }
written() { [ "$(get dirty)" -ge 1048576 ]; }
hot_is() { [ "$(get store_hot)" -eq "$1" ]; }
risk_is() { [ "$(get store_risk)" -eq "$1" ]; }
retired() { hot_is 0 && risk_is 0; }
