# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh
#
# tap.sh - what a test script inside the VM is written with.  Sourced as
# /lib/tap.sh; results go to file descriptor 3 as TAP, everything a command
# prints goes to the console, and to the TAP stream when it fails.
#
#   ok NAME COMMAND...             passes when COMMAND succeeds
#   is NAME GOT WANT               passes when the strings are equal
#   fails NAME TEXT COMMAND...     passes when COMMAND fails and prints TEXT
#   skip REASON                    counts one subtest as skipped
#   skip_all REASON                skips the rest and ends the test
#   diag TEXT                      a remark in the TAP stream
#   wait_for SECONDS COMMAND...    repeats COMMAND until it succeeds; fails after SECONDS (more on a slow kernel)
#   next_boot [clean|cut]          ends this boot and runs the script again with BOOT one higher
#   power_cut_in MS                the machine is switched off from outside so much later; what follows runs until
#                                  then, and the script again with BOOT one higher
#   done_testing                   must be the last command reached

# Subtests so far; a later boot goes on counting.
: "${TAP_N:=0}"
TAP_FAILED=0
TAP_OUT=/tmp/tap.out

diag() {
	printf '%s\n' "$*" | sed 's/^/# /' >&3
}

_tap_pass() {
	TAP_N=$((TAP_N + 1))
	echo "ok $TAP_N - $1" >&3
}

_tap_fail() {
	TAP_N=$((TAP_N + 1))
	TAP_FAILED=$((TAP_FAILED + 1))
	echo "not ok $TAP_N - $1" >&3
}

# _tap_run COMMAND...: in this shell, so that variables and background jobs stay
_tap_run() {
	_tap_status=0
	"$@" >"$TAP_OUT" 2>&1 || _tap_status=$?
	cat "$TAP_OUT"
	return "$_tap_status"
}

ok() {
	_tap_name=$1
	shift
	if _tap_run "$@"; then
		_tap_pass "$_tap_name"
	else
		_tap_fail "$_tap_name"
		diag "$* (exit status $_tap_status)"
		tail -n 20 "$TAP_OUT" | sed 's/^/#   /' >&3
		return 1
	fi
}

is() {
	if [ "$2" = "$3" ]; then
		_tap_pass "$1"
	else
		_tap_fail "$1"
		diag "got:  $2"
		diag "want: $3"
		return 1
	fi
}

fails() {
	_tap_name=$1
	_tap_text=$2
	shift 2
	if _tap_run "$@"; then
		_tap_fail "$_tap_name"
		diag "$*: succeeded, and should not have"
		return 1
	elif ! grep -qF -e "$_tap_text" "$TAP_OUT"; then
		_tap_fail "$_tap_name"
		diag "$* (exit status $_tap_status) printed no '$_tap_text':"
		tail -n 20 "$TAP_OUT" | sed 's/^/#   /' >&3
		return 1
	fi
	_tap_pass "$_tap_name"
}

skip() {
	TAP_N=$((TAP_N + 1))
	echo "ok $TAP_N - # SKIP $*" >&3
}

skip_all() {
	skip "$@"
	done_testing
}

wait_for() {
	_tap_end=$(($(cut -d. -f1 /proc/uptime) + $1 * ${VM_SLOW:-1}))
	shift
	until "$@"; do
		[ "$(cut -d. -f1 /proc/uptime)" -lt "$_tap_end" ] || return 1
		usleep 20000
	done
}

next_boot() {
	echo "# next boot $TAP_N $TAP_FAILED" >&3
	stty -F /dev/ttyS1 raw -echo # waits until that is out
	case ${1:-clean} in
	clean)
		sync
		poweroff -f
		;;
	cut) # no sync, no flush, no shutdown of anything
		echo b >/proc/sysrq-trigger
		;;
	*)
		diag "next_boot: '$1' is neither clean nor cut"
		exit 1
		;;
	esac
	# Nothing after next_boot runs in this boot.
	while :; do sleep 60; done
}

power_cut_in() {
	echo "# power cut in $1 ms" >&3
}

done_testing() {
	echo "1..$TAP_N" >&3
	[ "$TAP_FAILED" -eq 0 ]
	exit
}
