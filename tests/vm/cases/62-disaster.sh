# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091,SC2016,SC2034
# What: a database under load, a disaster written at a known time and replicated, rollback to one second before it: the disks hold every transaction of before, and nothing of the disaster.
# VM: disks=96M,64M,96M,64M,320M modules="ext4" tools="sqlite3 mkfs.ext4 e2fsck jq" files="tests/vm/story.sh:/lib/story.sh" timeout=400 mem=1536
. /lib/tap.sh
STORY_TARGET='retention = /mnt/retention
retention_reserve = 16M'
. /lib/story.sh

ms() { sqlite3 :memory: "select cast((julianday('now') - 2440587.5) * 86400000 as integer)"; }
local_time() { date -d "@$1" '+%Y-%m-%d %H:%M:%S'; }
# One row a transaction, with the time; behind it a line with the time at which its commit has returned.
rows() {
	{
		echo ".bail on"
		echo "pragma journal_mode=wal; pragma synchronous=full; pragma wal_autocheckpoint=100;"
		echo "create table t (n integer primary key, at integer, filler blob);"
		i=1
		while ! [ -e /tmp/stop ]; do
			echo "insert into t values ($i, cast((julianday('now') - 2440587.5) * 86400000 as integer), randomblob(1 + abs(random()) % 2000));"
			echo ".output /tmp/acked.now"
			echo "select $i, cast((julianday('now') - 2440587.5) * 86400000 as integer);"
			echo ".output stdout"
			echo ".system cat /tmp/acked.now >>/tmp/acked"
			i=$((i + 1))
		done
	} | sqlite3 /mnt/data/db >/tmp/sqlite.out 2>&1
}
acked() { tail -n 1 /tmp/acked 2>/dev/null | cut -d'|' -f1; }
acked_by() { awk -F'|' -v until="$1" '$2 <= until { n = $1 } END { print n + 0 }' /tmp/acked; }
goes_on_by() {
	_at=$(acked)
	wait_for 60 eval '[ "$(acked)" -ge $((${_at:-0} + '"$1"')) ]'
}
points() { reprotect points list story --json | jq -r ".[0] | $1"; }
newest_ms() { points '[.points[].time_ms] | max'; }
point_behind() { [ "$(newest_ms)" -gt "$1" ]; } # MS: of the cut
documents() { (cd "$1" && md5sum -c -s sums && find . -type f | wc -l); }

mkdir -p /mnt/data /mnt/docs /mnt/retention
ok "file systems" eval 'mkfs.ext4 -q /dev/vda && mkfs.ext4 -q /dev/vdb && mkfs.ext4 -q -m 0 /dev/vde'
ok "mounted" eval 'mount -t ext4 /dev/vda /mnt/data && mount -t ext4 /dev/vdb /mnt/docs && mount -t ext4 /dev/vde /mnt/retention' || done_testing
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do dd if=/dev/urandom of=/mnt/docs/doc-$i bs=16k count=$i 2>/dev/null; done
(cd /mnt/docs && md5sum doc-* >sums)
sync
rows &
rows=$!
ok "rows are committed" goes_on_by 5 || done_testing
ok "the retention volume is fit" reprotect preflight retention /mnt/retention
story_start data=/dev/vdc docs=/dev/vdd
ok "attach" reprotect disk attach /dev/vda --name data || done_testing
ok "attach" reprotect disk attach /dev/vdb --name docs
ok "initial sync ends under load" story_synced 240 || done_testing
has_points() { [ "$(points '.points | length')" -ge "$1" ]; }
ok "points come" wait_for 90 has_points 3 || { reprotect status; story_logs; done_testing; }
ok "rows go on" goes_on_by 5
second_ago=$(($(ms) + 1000))
ok "for more than a second" wait_for 60 point_behind "$second_ago"

disaster=$(ms)
sqlite3 /mnt/data/db ".timeout 60000" "drop table t" "create table ransom (note text)" "insert into ransom values ('pay')"
rm -rf /mnt/docs/doc-*
sync
dd if=/dev/urandom of=/dev/vdb bs=1M count=24 oflag=direct conv=notrunc 2>/dev/null
after=$(ms)
touch /tmp/stop
wait $rows
diag "disaster at $disaster, over at $after; rows up to $(acked)"
ok "it is replicated" wait_for 90 point_behind "$after" || { reprotect status; story_logs; }
fails "the copy has it: the file system is gone" "Bad magic number" e2fsck -fn /dev/vdd

second_before=$(local_time $((disaster / 1000 - 1)))
ok "rollback to one second before it" reprotect points rollback story "$second_before" --yes
reprotect points list story
to=$(points '.points[] | select(.present) | .time_ms')
diag "rolled back to $(points '.points[] | select(.present) | .name'), $((disaster - to)) ms before the disaster"
ok "that is from before it" test "$to" -le $((disaster - 1000))
is "nothing newer was given up" "$(points "[.points[] | select(.time_ms > $after)] | length > 0")" true
rolled_back() { reprotect status --json | jq -e '."reprotect-agent" | [.. | .message? // empty] | any(test("rolled back"))'; }
ok "the agent says why nothing is sent any more" wait_for 60 rolled_back

# The disks are used.
mkdir -p /mnt/home-data /mnt/home-docs
ok "both file systems mount" eval 'mount -t ext4 /dev/vdc /mnt/home-data && mount -t ext4 /dev/vdd /mnt/home-docs'
is "every document is there" "$(documents /mnt/home-docs)" 13
is "the database is sound" "$(sqlite3 /mnt/home-data/db 'pragma integrity_check')" ok
is "without the disaster" "$(sqlite3 /mnt/home-data/db "select count(*) from sqlite_master where name = 'ransom'")" 0
must=$(acked_by "$to")
read -r count last newest <<END
$(sqlite3 -separator ' ' /mnt/home-data/db 'select count(*), max(n), max(at) from t')
END
diag "$count rows up to $last; $must were acknowledged before the point, $(acked) before the disaster"
ok "every transaction acknowledged before the point" test "$last" -ge "$must" -a "$must" -gt 0
is "none is missing in between" "$count" "$last"
ok "none from after it" test "$newest" -le $((to + 100)) -a "$newest" -lt "$disaster"
ok "they are in use like any disks" sqlite3 /mnt/home-data/db "insert into t values (1000000, 0, 'at home')"
umount /mnt/home-data /mnt/home-docs
ok "the file systems are clean" eval 'e2fsck -fn /dev/vdc && e2fsck -fn /dev/vdd'
ok "daemons end cleanly" story_stop
done_testing
