# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091,SC2016,SC2154
# What: application tags of ext4 and xfs with SQLite under load: the copy needs no journal and has the last commit; snapshots mounted.
# VM: disks=96M,320M,96M,320M modules="ext4 xfs loop dm_mod dm_snapshot +null_blk" timeout=600 mem=2048
# VM: tools="mkfs.ext4 mkfs.xfs e2fsck dumpe2fs xfs_repair xfs_logprint sqlite3 bash jq cmp mount umount losetup fsfreeze dmsetup blockdev"
# VM: files="tests/vm/story.sh:/lib/story.sh tests/vm/point.sh:/lib/point.sh tests/vm/fsload.sh:/lib/fsload.sh userspace/agent/app.d/50-sqlite:/etc/reprotect/app.d/50-sqlite"
. /lib/tap.sh
. /lib/story.sh
. /lib/point.sh
. /lib/fsload.sh

TAGS=2

machine_is() { [ "$(reprotect status --json 2>/dev/null | jq -r ".[\"reprotect-master-target\"].machines[0] | $1" 2>/dev/null)" = true ]; }
consistent_now() { machine_is '.points.consistency == "consistent" and (.points.in_between | not)'; }

# Read-only and not claimed by us: nothing is replayed into the target, or hidden by it being in use.
copy_of() { # DISK OPTIONS TYPE
	losetup -r /dev/loop0 "$1" && mount -t "$3" -o "$2" /dev/loop0 /mnt/copy
}
no_copy() {
	umount /mnt/copy
	losetup -d /dev/loop0
}
# has ROW: a database in WAL mode cannot be opened where its log cannot be written
has() {
	rm -rf /tmp/db && mkdir /tmp/db && cp /mnt/copy/db /tmp/db/ || return 1
	[ ! -e /mnt/copy/db-wal ] || cp /mnt/copy/db-wal /tmp/db/ || return 1
	database /tmp/db "$1"
}
# Exactly what was committed when it was locked for the cut; one more may not have been acknowledged.
has_no_more() { has "$1" && [ "$last" -le $(($1 + 1)) ]; }
sums() { (cd "$1" && find . -type f ! -name 'db-shm' -print0 | sort -z | xargs -0 md5sum; find . | sort); }

# What xfs leaves in its log when it is frozen is its superblock (xfs_fs_freeze): so that who mounts a copy looks for
# unlinked inodes. So its log is never empty here; but nothing of it is needed.
same_after_recovery() { # DISK SUMS
	losetup -r /dev/loop0 "$1" &&
		dmsetup create over --table "0 $(blockdev --getsz "$1") snapshot /dev/loop0 /dev/nullb0 N 8" || return 1
	mount -t xfs -o nouuid /dev/mapper/over /mnt/copy && sums /mnt/copy >/tmp/recovered
	umount /mnt/copy
	xfs_repair -n /dev/mapper/over
	_status=$?
	dmsetup remove over
	losetup -d /dev/loop0
	[ $_status = 0 ] && cmp "$2" /tmp/recovered
}

app() { # NAME
	ok "$1: tag app" reprotect tag app --name "$1" --timeout 180s || { reprotect status; story_logs; return; }
	story_kill agent
	ok "$1: that is what the target has" machine_is ".points.last_app.name == \"$1\" and .points.last_app.epoch == .last_applied and (.points.in_between | not)"
	is "$1: both file systems were frozen" "$(reprotect status --json | jq -r '.["reprotect-master-target"].machines[0].points.last_app.filesystems | map(select(.frozen).type) | sort | join(" ")')" "ext4 xfs"
	echo 3 >/proc/sys/vm/drop_caches

	dumpe2fs -h /dev/vdc >/tmp/dump 2>/dev/null
	ok "$1: ext4 needs no journal replay" sh -c 'grep has_journal /tmp/dump && ! grep needs_recovery /tmp/dump'
	ok "$1: ext4 mounts where nothing can be replayed" copy_of /dev/vdc ro ext4
	ok "$1: ext4: the database has what was committed" has_no_more "$(cat /tmp/at-cut-ext4)"
	no_copy
	ok "$1: ext4 is clean" e2fsck -fn /dev/vdc

	ok "$1: xfs: its log has nothing but the superblock" superblock_only /dev/vdd
	ok "$1: xfs mounts without its log" copy_of /dev/vdd ro,norecovery,nouuid xfs
	ok "$1: xfs: the database has what was committed" has_no_more "$(cat /tmp/at-cut-xfs)"
	sums /mnt/copy >/tmp/unrecovered
	no_copy
	ok "$1: xfs is clean, but for a counter of its superblock" counter_only /dev/vdd
	ok "$1: xfs: recovery changes nothing" same_after_recovery /dev/vdd /tmp/unrecovered
	story_run agent
}
superblock_only() {
	xfs_logprint -t "$1" >/tmp/log 2>&1
	cat /tmp/log
	grep -q 'state: <' /tmp/log && ! grep -E '^[A-Z]+: +cnt:' /tmp/log | grep -v '^BUF:' && ! grep 'start blkno:' /tmp/log | grep -v 'blkno:0x0 '
}

counter_only() {
	xfs_repair -n "$1" >/tmp/repair 2>&1
	cat /tmp/repair
	grep -q '^Phase 7' /tmp/repair && ! grep -vE '^(Phase [1-7]|        - |No modify flag set|sb_fdblocks )|^(ALERT: .* changes in a log which is being|ignored because the -n option was used|which may be resolved by first mounting)' /tmp/repair
}

# A snapshot shows the disk as after a crash; of a file system that is frozen at that instant, all that was written.
snapshot() { # NAME DISK
	_at=$(acked "$1")
	fsfreeze -f "/mnt/$1"
	ok "$1: snapshot, mounted" reprotect disk snapshot "$1" --mount /mnt/copy || reprotect status
	fsfreeze -u "/mnt/$1"
	sums /mnt/copy >/tmp/first
	ok "$1: what was written before is there" cmp "/mnt/$1/marker" /mnt/copy/marker
	ok "$1: and what was committed" has "$_at"
	fails "$1: it is read-only" "Read-only file system" touch /mnt/copy/x
	_at=$(acked "$1")
	ok "$1: writers go on" wait_for 60 eval '[ "$(acked '"$1"')" -gt $((_at + 20)) ]'
	echo 3 >/proc/sys/vm/drop_caches
	sums /mnt/copy >/tmp/second
	ok "$1: it stays as it was" cmp /tmp/first /tmp/second
	ok "$1: which costs memory" eval '[ "$(get '"$2"' preserved)" -gt 0 ]'
	fails "$1: not released while it is mounted" "umount it first" reprotect disk snapshot --release "$1"
	umount /mnt/copy
	ok "$1: released" reprotect disk snapshot --release "$1"
	ok "$1: nothing is held any more" wait_for 10 eval '[ "$(get '"$2"' preserved)" = 0 ]'
	ok "$1: replication goes on" reprotect tag crash --name "after-$1" --timeout 120s
}

# Scripts have a PATH of their own.
for tool in /bb/*; do [ -e "/bin/${tool##*/}" ] || ln -s "$tool" /bin/; done
chmod 755 /etc/reprotect/app.d/50-sqlite
printf '/mnt/ext4/db\n/mnt/xfs/db\n' >/etc/reprotect/sqlite
cat >/etc/reprotect/app.d/60-acked <<'END'
#!/bin/sh
# Behind 50-sqlite: nobody commits any more.
[ "$1" = post ] || for name in ext4 xfs; do tail -n 1 /tmp/acked-$name >/tmp/at-cut-$name; done
END
chmod 755 /etc/reprotect/app.d/60-acked

mkfs.ext4 -q /dev/vda && mkfs.xfs -q /dev/vdb && mkdir -p /mnt/ext4 /mnt/xfs /mnt/copy
ok "ext4 and xfs are mounted" eval 'mount -t ext4 /dev/vda /mnt/ext4 && mount -t xfs /dev/vdb /mnt/xfs' || done_testing
ok "null_blk, for what a copy's recovery writes" null_disk 0 256
loads=
for folder in ext4 xfs; do
	files /mnt/$folder &
	loads="$loads $!"
	rows /mnt/$folder &
	loads="$loads $!"
done
ok "rows are committed" wait_for 60 eval '[ "$(acked ext4)" -gt 5 ] && [ "$(acked xfs)" -gt 5 ]'

# So long that no epoch follows the tag's before the agent is killed.
STORY_INTERVAL=60s STORY_SLICE=64M story_start ext4=/dev/vdc xfs=/dev/vdd
ok "attach" reprotect disk attach /dev/vda --name ext4 || done_testing
ok "attach" reprotect disk attach /dev/vdb --name xfs
ok "initial sync ends under load" story_synced 240 || done_testing
i=1
while [ $i -le $TAGS ]; do
	app app$i
	ok "app$i: the next agent answers" wait_for 60 agent_answers
	i=$((i + 1))
done
ok "consistent" reprotect tag crash --name before --timeout 180s
ok "and said to be" wait_for 60 consistent_now
for folder in ext4 xfs; do dd if=/dev/urandom of=/mnt/$folder/marker bs=64k count=8 2>/dev/null; done
snapshot ext4 /dev/vda
snapshot xfs /dev/vdb
touch /tmp/stop
# shellcheck disable=SC2086
wait $loads
ok "no statement failed" rows_ended
umount /mnt/ext4
umount /mnt/xfs
ok "all of it is on its way" reprotect tag crash --name end --timeout 120s
ok "ext4: every block equal" sh -c 'dd if=/dev/vda bs=1M iflag=direct | cmp - /dev/vdc'
ok "xfs: every block equal" sh -c 'dd if=/dev/vdb bs=1M iflag=direct | cmp - /dev/vdd'
is "no write escaped" "$(agent '[.disks[].counters.escapes] | add')" 0
ok "daemons end cleanly" story_stop
done_testing
