# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC2086
#
# fsload.sh - load for a mounted file system, and what its copy must have. Sourced as
# /lib/fsload.sh; ends when /tmp/stop is there.
#
#   files FOLDER            files come and go
#   rows FOLDER             commits to the SQLite database FOLDER/db
#   acked NAME              the last row whose commit has returned, of the folder with this last name
#   rows_ended              the last lines of rows: no statement failed
#   database FOLDER ROW     the database in a copy of it is sound, and has row ROW and all before it that
#                           were not deleted; its last row is in $last

# Files made, rewritten, truncated, renamed and removed, some of them synced.
files() {
	i=0
	while ! [ -e /tmp/stop ]; do
		dd if=/dev/urandom of=$1/new bs=4k count=$((1 + i % 40)) 2>/dev/null
		mv $1/new $1/f$((i % 31))
		[ $((i % 5)) != 0 ] || dd if=/dev/urandom of=$1/f$((i % 7)) bs=1k count=9 seek=$((i % 50)) conv=notrunc,fsync 2>/dev/null
		[ $((i % 11)) != 0 ] || rm -f $1/f$((i % 13))
		[ $((i % 17)) != 0 ] || : >$1/f$((i % 19))
		i=$((i + 1))
	done
}

# One connection, one row a transaction; its number is in the file behind once the commit has returned. The first
# error ends it: nothing is acknowledged that was not committed. Bounded: long runs must not fill the disk.
rows() {
	{
		echo ".bail on"
		echo ".timeout 60000"
		echo "pragma journal_mode=wal; pragma synchronous=full; pragma wal_autocheckpoint=50;"
		echo "create table if not exists t (n integer primary key, filler blob);"
		i=1
		while ! [ -e /tmp/stop ]; do
			echo "insert into t values ($i, randomblob(1 + abs(random()) % 3000));"
			echo ".system echo $i >>/tmp/acked-${1##*/}"
			[ $((i % 9)) != 0 ] || echo "delete from t where n % 4 = 0 and n < $i - 20 or n < $i - 2000;"
			[ $((i % 50)) != 0 ] || usleep 100000
			i=$((i + 1))
		done
	} | sqlite3 $1/db >/tmp/sqlite-${1##*/} 2>&1
}
rows_ended() { ! grep -i error /tmp/sqlite-*; }
acked() { tail -n 1 /tmp/acked-$1 2>/dev/null | tr -d '\n'; }

database() {
	_rows=$(sqlite3 $1/db "pragma integrity_check; select coalesce(max(n), 0) from t;" | xargs)
	_lost=$(sqlite3 $1/db "with recursive s(n) as (select max(1, $2 - 1900) union all select n + 1 from s where n < $2) select count(*) from s where n % 4 and n not in (select n from t);")
	echo "$1: $_rows, $2 acknowledged before the cut, $_lost missing"
	last=${_rows#* }
	[ "${_rows% *}" = ok ] && [ "$last" -ge "$2" ] && [ "$_lost" = 0 ]
}
