# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# tap.sh - how results are told. Sourced with $T set to a temporary folder; $N counts, $FAILED too.
#
#   ok NAME, not_ok NAME [FILE], skip NAME WHY
#   check NAME COMMAND...           the command succeeds
#   is|isnt NAME GOT WANTED         what $T/out says is kept for says
#   says NAME PATTERN [FILE]        the file, default what the last check's command printed, has such a line
#   done_testing                    is the last
#   free_port                       prints one of 127.0.0.1
#
# What failed is followed by the end of FILE, default what the command printed, and of each of $LOGS.

N=0 FAILED=0 LOGS=()

ok() { N=$((N + 1)); echo "ok $N - $1"; }
not_ok() {
	local log
	N=$((N + 1)) FAILED=$((FAILED + 1))
	echo "not ok $N - $1"
	[ ! -f "${2:-$T/out}" ] || tail -n 20 "${2:-$T/out}" | sed 's/^/# /'
	for log in ${LOGS[@]+"${LOGS[@]}"}; do
		[ ! -f "$log" ] || tail -n 12 "$log" | sed "s|^|# ${log##*/}: |"
	done
}
skip() { N=$((N + 1)); echo "ok $N - $1 # SKIP $2"; }
check() { local name=$1; shift; if "$@" >"$T/out" 2>&1; then ok "$name"; else not_ok "$name"; fi; }
is() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1"; echo "# $2, not $3"; fi; }
isnt() { if [ "$2" != "$3" ]; then ok "$1"; else not_ok "$1"; fi; }
says() { if grep -qE -- "$2" "${3:-$T/out}"; then ok "$1"; else not_ok "$1" "${3:-$T/out}"; fi; }
free_port() { perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1)->sockport'; }
done_testing() { echo "1..$N"; [ "$FAILED" = 0 ]; }
