# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086,SC2154
# What: ext4, xfs and SQLite under load: at every point a copy mounts, checks clean, and has the last commit acknowledged before the cut.
# VM: disks=48M,320M,48M,320M modules="dm_mod dm_snapshot +null_blk ext4 xfs" timeout=400 long=7200 kernels=all mem=1536 env="FS_EPOCHS"
# VM: tools="dmsetup mkfs.ext4 mkfs.xfs e2fsck xfs_repair sqlite3 mount umount blockdev" files="tests/vm/point.sh:/lib/point.sh tests/vm/fsload.sh:/lib/fsload.sh"
. /lib/tap.sh
. /lib/point.sh
. /lib/fsload.sh

: "${FS_EPOCHS:=5}"
disks="/dev/vda /dev/vdb" copies="/dev/vdc /dev/vdd"

# good TYPE COPY ROW: it mounts, replays its journal, is clean, and has row ROW and all before it. On an overlay: the copy itself stays as it is.
good() { # TYPE COPY ROW
	dmsetup create over --table "0 $(blockdev --getsz $2) snapshot $2 /dev/nullb0 N 8" || return 1
	_status=0
	case $1 in ext4) _options=rw ;; xfs) _options=nouuid ;; esac
	if mount -t $1 -o $_options /dev/mapper/over /mnt/copy; then
		database /mnt/copy "$3" || _status=1
		umount /mnt/copy
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
ok "no statement failed" rows_ended
is "no downgrade, no escape" "$(get /dev/vda downgrades) $(get /dev/vdb downgrades) $(get /dev/vda escapes) $(get /dev/vdb escapes)" "0 0 0 0"
umount /mnt/ext4
umount /mnt/xfs
for disk in $disks; do ok "$disk: detach" cbtctl detach $disk; done
ok "the module unloads" rmmod blkcbt
done_testing
