# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: ext4, xfs and SQLite under load: at every point a copy mounts, checks clean, and has the last commit acknowledged before the cut.
# VM: disks=48M,320M,48M,320M modules="dm_mod dm_snapshot +null_blk ext4 xfs" timeout=400 long=7200 kernels=all mem=1536 env="FS_EPOCHS"
# VM: tools="dmsetup mkfs.ext4 mkfs.xfs e2fsck xfs_repair sqlite3 mount umount blockdev" files="tests/vm/point.sh:/lib/point.sh"
. /lib/tap.sh
. /lib/point.sh

: "${FS_EPOCHS:=5}"
disks="/dev/vda /dev/vdb" copies="/dev/vdc /dev/vdd"

# Files made, rewritten, truncated, renamed and removed, some of them synced.
files() { # FOLDER
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

# One connection, one row a transaction; its number is in the file behind once the commit has returned.
rows() { # FOLDER: where the database is and the name of the list of what was acknowledged
	{
		echo "pragma journal_mode=wal; pragma synchronous=full; pragma wal_autocheckpoint=50;"
		echo "create table if not exists t (n integer primary key, filler blob);"
		i=1
		while ! [ -e /tmp/stop ]; do
			echo "insert into t values ($i, randomblob(1 + abs(random()) % 3000));"
			echo ".system echo $i >>/tmp/acked-${1##*/}"
			[ $((i % 9)) != 0 ] || echo "delete from t where n % 4 = 0 and n < $i - 20;"
			[ $((i % 50)) != 0 ] || usleep 100000
			i=$((i + 1))
		done
	} | sqlite3 $1/db >/tmp/sqlite-${1##*/} 2>&1
}
acked() { tail -n 1 /tmp/acked-$1 | tr -d '\n'; }

# good TYPE COPY ROW: it mounts, replays its journal, is clean, and has row ROW and all before it. On an overlay: the copy itself stays as it is.
good() { # TYPE COPY ROW
	dmsetup create over --table "0 $(blockdev --getsz $2) snapshot $2 /dev/nullb0 N 8" || return 1
	_status=0
	case $1 in ext4) _options=rw ;; xfs) _options=nouuid ;; esac
	if mount -t $1 -o $_options /dev/mapper/over /mnt/copy; then
		_rows=$(sqlite3 /mnt/copy/db "pragma integrity_check; select coalesce(max(n), 0) from t;" | xargs)
		_lost=$(sqlite3 /mnt/copy/db "with recursive s(n) as (select 1 union all select n + 1 from s where n < $3) select count(*) from s where n % 4 and n not in (select n from t);")
		umount /mnt/copy
		echo "$1: $_rows, $3 acknowledged before the cut, $_lost missing"
		[ "${_rows% *}" = ok ] && [ "${_rows#* }" -ge "$3" ] && [ "$_lost" = 0 ] || _status=1
	else
		_status=1
	fi
	case $1 in
	ext4) e2fsck -fn /dev/mapper/over || _status=1 ;;
	xfs) xfs_repair -n /dev/mapper/over || _status=1 ;;
	esac
	dmsetup remove over
	return $_status
}

fs_epoch() {
	_ext4=$(acked ext4) _xfs=$(acked xfs)
	point consistent $disks || return 1
	if ! copy_all --piece 1M --delay-us 200 || ! consistent; then
		cat /tmp/copy?
		cbtctl abort $N $disks
		return 1
	fi
	cbtctl commit $N $disks && good ext4 /dev/vdc "${_ext4:-0}" && good xfs /dev/vdd "${_xfs:-0}"
}

mkfs.ext4 -q /dev/vda && mkfs.xfs -q /dev/vdb && mkdir -p /mnt/ext4 /mnt/xfs /mnt/copy
ok "ext4 and xfs are mounted" eval 'mount -t ext4 /dev/vda /mnt/ext4 && mount -t xfs /dev/vdb /mnt/xfs'
ok "null_blk, for what a copy's recovery writes" null_disk 0 256
ok "the module loads" insmod /lib/modules/blkcbt.ko
for disk in $disks; do ok "$disk: attach" cbtctl attach $disk; done
for folder in ext4 xfs; do
	files /mnt/$folder &
	rows /mnt/$folder &
done
ok "rows are committed" wait_for 60 eval '[ "$(acked ext4)" -gt 5 ] && [ "$(acked xfs)" -gt 5 ]'
i=1
while [ $i -le "$FS_EPOCHS" ]; do
	ok "epoch $i: mounts, is clean, has what was acknowledged" fs_epoch
	_at=$(acked xfs)
	wait_for 60 eval '[ "$(acked xfs)" -gt $((_at + 5)) ]'
	i=$((i + 1))
done
diag "rows acknowledged at the end: ext4 $(acked ext4), xfs $(acked xfs); preserved: $(get /dev/vda preserves), $(get /dev/vdb preserves)"
touch /tmp/stop
wait
is "no downgrade, no escape" "$(get /dev/vda downgrades) $(get /dev/vdb downgrades) $(get /dev/vda escapes) $(get /dev/vdb escapes)" "0 0 0 0"
umount /mnt/ext4
umount /mnt/xfs
for disk in $disks; do ok "$disk: detach" cbtctl detach $disk; done
ok "the module unloads" rmmod blkcbt
done_testing
