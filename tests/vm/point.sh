# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC2120,SC2119,SC2154
#
# point.sh - what the cases about exact points in time share. Sourced as
# /lib/point.sh after tap.sh.
#
#   get DISK KEY, info KEY     one value of cbtctl's
#   clean DISK...              an epoch that nobody copies: nothing is dirty
#   null_disk I MIB            /dev/nullb<I>, memory-backed
#   load OPTION... DISK...     starts the dependent writers; end_load ends them
#   goes_on COUNT              the writers complete so many records more
#   point MODE DISK...          epoch $N, between the clock readings $before and $after
#   judge COPY...              whether the copies are of one instant within that cut
#
# $N is the last epoch's number.

N=0
STATE=/tmp/depwrite

get() { cbtctl get "$1" | sed -n "s/^$2=//p"; }
info() { cbtctl info | sed -n "s/^$1=//p"; }

clean() {
	N=$((N + 1))
	cbtctl cut $N "$@" && cbtctl commit $N "$@"
}

null_disk() {
	modprobe null_blk nr_devices=0
	[ -d /sys/kernel/config/nullb ] || mount -t configfs config /sys/kernel/config || return 1
	mkdir "/sys/kernel/config/nullb/nullb$1" || return 1
	for _setting in "size=$2" memory_backed=1 discard=1 "index=$1" power=1; do
		echo "${_setting#*=}" >"/sys/kernel/config/nullb/nullb$1/${_setting%=*}" || return 1
	done
	wait_for 10 test -b "/dev/nullb$1"
}

records() { depwrite count $STATE; }

load() {
	rm -f $STATE
	depwrite write $STATE "$@" >/tmp/load.out 2>&1 &
	LOAD=$!
	wait_for 20 test -s $STATE && wait_for 60 goes_on 50
}

end_load() {
	kill -TERM "$LOAD"
	wait "$LOAD"
}

goes_on() {
	_at=$(records) || return 1
	wait_for 60 eval "[ \$(records) -ge $((_at + $1)) ]"
}

point() {
	_mode=$1
	shift
	N=$((N + 1))
	before=$(depwrite now)
	# shellcheck disable=SC2086
	cbtctl cut $N "$@" --mode "$_mode" ${BUDGET:+--budget $BUDGET} >/tmp/cut || return 1
	after=$(depwrite now)
	cut_ns=$(sed -n 's/^cut_ns=//p' /tmp/cut)
}

judge() { depwrite check $STATE "$before" "$after" --cut "${cut_ns:-0}" "$@"; }

#
# Whole epochs. The caller sets $disks, and $copies in the same order.
#

# copy_all [OPTION...]: the disks side by side, in an order that changes; the writers overtake the readers
copy_all() {
	case $((N % 3)) in 0) _order=forward ;; 1) _order=random ;; 2) _order=reverse ;; esac
	_i=0 _pids='' _failed=0
	for disk in $disks; do
		_i=$((_i + 1))
		# shellcheck disable=SC2086
		cbtctl copy "$disk" "$(echo $copies | awk "{ print \$$_i }")" --image --seed "$N$_i" --order $_order \
			--piece 64k --delay-us 1500 "$@" >"/tmp/copy$_i" 2>&1 &
		_pids="$_pids $!"
	done
	for _pid in $_pids; do wait "$_pid" || _failed=1; done
	[ $_failed = 0 ]
}

consistent() { for disk in $disks; do [ "$(get "$disk" mode)" = 1 ] || return 1; done; }

# epoch: cut, copy, ask for the mode, commit, judge. Counts in $violations and $fuzzy; the judge's line is in /tmp/verdict.
violations=0 fuzzy=0
# shellcheck disable=SC2086
epoch() {
	point consistent $disks || return 1
	if ! copy_all; then
		consistent || fuzzy=$((fuzzy + 1))
		cat /tmp/copy?
		cbtctl abort $N $disks
		return 1
	fi
	if ! consistent; then
		fuzzy=$((fuzzy + 1))
		cbtctl abort $N $disks
		return 1
	fi
	cbtctl commit $N $disks || return 1
	judge $copies >/tmp/verdict || { violations=$((violations + 1)); cat /tmp/verdict; return 1; }
	echo "epoch $N: $(cat /tmp/verdict)"
}
