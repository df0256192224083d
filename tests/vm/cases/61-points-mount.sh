# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091
# What: file systems of a recovery point are mounted (journals replayed in an overlay, or not at all) and verified, a destroyed one is found; whatever fails is undone.
# VM: disks=480M,8M modules="ext4 xfs vfat nls_cp437 nls_ascii +nbd" mem=1536 timeout=600
# VM: tools="nbdkit nbd-client sfdisk mkfs.ext4 mkfs.xfs mkfs.fat mkswap e2fsck xfs_repair fsck.fat jq cp cmp sha256sum mount umount"
# VM: files="build/lib/nbdkit-reprotect-plugin.so:/lib/nbdkit-reprotect-plugin.so build/e2e-tools/undolog:/bin/undolog /usr/lib/x86_64-linux-gnu/nbdkit/filters/nbdkit-cow-filter.so:/lib/x86_64-linux-gnu/nbdkit/filters/nbdkit-cow-filter.so"
. /lib/tap.sh

LOG=/tmp/retention/log
points() { command=$1; shift; reprotect points "$command" "$@"; }
AT="--socket /tmp/mt.sock --plugin /lib/nbdkit-reprotect-plugin.so"
# shellcheck disable=SC2086
mount_() { points mount vm1 "$@" $AT; }
# shellcheck disable=SC2086
verify() { points verify vm1 "$@" $AT; }
exported() { points exports --json | jq -r "$1"; }
connected() { ls /sys/block/nbd*/pid 2>/dev/null; }
# Nothing is left: neither an export, its process, a device, nor a mount.
clean() {
	[ "$(exported length)" = 0 ] && [ -z "$(ls -A /run/reprotect/exports)" ] && ! connected &&
		! grep nbd /proc/mounts && [ -z "$(ls -A /run/reprotect/mnt 2>/dev/null)" ] && ! pidof nbdkit
}
verdict() { jq -r "$1" "$LOG.verdict"; }

# ---- a disk with four file systems in three states: in use; at rest; one of them destroyed
mkdir -p /tmp/retention /tmp/a /tmp/b
sfdisk -q /dev/vda <<END
label: gpt
size=40M, type=U
size=60M
size=320M
size=20M, type=S
END
ok "partitions" wait_for 20 test -b /dev/vda4
mkfs.fat /dev/vda1 >/dev/null
ok "mkfs.ext4" mkfs.ext4 -q /dev/vda2
ok "mkfs.xfs" mkfs.xfs -q /dev/vda3
mkswap /dev/vda4 >/dev/null
mount -t ext4 /dev/vda2 /tmp/a
mount -t xfs /dev/vda3 /tmp/b
for dir in /tmp/a /tmp/b; do
	dd if=/dev/urandom of=$dir/old bs=64k count=20 2>/dev/null
	sha256sum <$dir/old >$dir/old.sum
	echo open >$dir/deleted
done
exec 7</tmp/a/deleted 8</tmp/b/deleted # still open when they are gone: what is left is for the journal
rm /tmp/a/deleted /tmp/b/deleted
sync
echo late >/tmp/a/late
echo late >/tmp/b/late
sync
ok "as it was in use" cp --sparse=always /dev/vda /tmp/vda.1
exec 7<&- 8<&-
for dir in /tmp/a /tmp/b; do
	rm $dir/old
	echo new >$dir/new
	umount $dir
done
sync
ok "as it was at rest" cp --sparse=always /dev/vda /tmp/vda.2
dd if=/dev/urandom of=/dev/vda2 bs=4k seek=8 count=2000 conv=notrunc 2>/dev/null # behind the superblock
dd if=/dev/urandom of=/dev/vdb bs=4k count=2 2>/dev/null
cp /dev/vdb /tmp/vdb.1
sync
echo 3 >/proc/sys/vm/drop_caches
sha256sum </dev/vda >/tmp/before
ok "the undo log" undolog build $LOG data:/tmp/vda.1:/tmp/vda.2:/dev/vda raw:/tmp/vdb.1:/tmp/vdb.1:/dev/vdb || done_testing
rm /tmp/vda.1 /tmp/vda.2
undolog serve $LOG /tmp/mt.sock vm1 data:/dev/vda raw:/dev/vdb &
serve=$!
ok "the master target" wait_for 20 test -S /tmp/mt.sock || done_testing

# ---- mount
fails "several file systems: it says which" "there are several file systems (1: vfat, 40 MiB; 2: ext4, 60 MiB; 3: xfs, 320 MiB; 4: swap, 20 MiB)" mount_ 1 data
ok "and undoes what it had begun" clean
fails "a partition with swap" "partition 4 holds no file system" mount_ 1 data --partition 4
fails "a partition that is not there" "there is no partition 7" mount_ 1 data --partition 7
fails "a disk with nothing known on it" "there is no file system that can be mounted" mount_ 1 raw
fails "a directory that is not there" "/tmp/nowhere: is no directory" mount_ 1 data /tmp/nowhere --partition 2
ok "nothing is left of all that" clean

dir=$(mount_ 1 data --partition 2)
is "ext4 is mounted below /run" "$dir" /run/reprotect/mnt/vm1-data-1-1
is "it is as it was" "$(sha256sum <"$dir/old")" "$(cat "$dir/old.sum")"
is "what was written last too" "$(cat "$dir/late")" late
ok "not what came later" test ! -e "$dir/new"
ok "it takes writes" sh -c "echo x >$dir/x && rm $dir/old && sync"
is "it is listed" "$(exported '.[0].used_by.mount')" "$dir"
dir3=$(mount_ 1 data --partition 3)
is "xfs at the same time, from the same point" "$(sha256sum <"$dir3/old")" "$(cat "$dir3/old.sum")"
ok "on a device of its own" test "$(exported '.[0].used_by.device')" != "$(exported '.[1].used_by.device')"
fails "one that is mounted cannot be unexported" "is in use by /dev/nbd" points unexport vm1-data-1-1
(cd "$dir" && exec sleep 1000) &
inside=$!
ok "somebody is in it" wait_for 10 sh -c "[ \$(readlink /proc/$inside/cwd) = $dir ]"
fails "then it is not unmounted" "who uses it: fuser" points unmount "$dir"
kill $inside
wait $inside
ok "now it is, by its directory" points unmount "$dir"
ok "the other by its name" points unmount vm1-data-1-2
ok "nothing is left of both" clean
mkdir /tmp/here
ok "mounted again, at a directory" mount_ 1 data /tmp/here --partition 2
is "without what was written" "$(ls /tmp/here/old /tmp/here/x 2>/dev/null)" /tmp/here/old
ok "unmounted by hand" umount /tmp/here
ok "the rest by command" points unmount /tmp/here
ok "nothing is left of that" clean
ok "the directory stays" test -d /tmp/here

for part in 2 3; do
	ok "read-only, partition $part" mount_ 1 data /tmp/here --partition $part --read-only
	ok "it can be read" ls -l /tmp/here
	fails "it cannot be written" "Read-only" touch /tmp/here/x
	fails "its device neither" "" dd if=/dev/zero "of=$(exported '.[0].used_by.device')" bs=4k count=1 conv=fsync
	ok "unmounted" points unmount /tmp/here
done
ok "vfat" mount_ 2 data /tmp/here --partition 1
ok "unmounted" points unmount /tmp/here

# Its nbdkit dies.
ok "mounted" mount_ 2 data /tmp/here --partition 3
kill -9 "$(exported '.[0].pid')"
has_ended() { [ "$(exported '.[0].running')" = false ]; }
ok "the end of its nbdkit is seen" wait_for 20 has_ended
ok "it is still listed" sh -c 'reprotect points exports | grep "HAS ENDED"'
ok "and can be unmounted" points unmount /tmp/here
ok "nothing is left of it" clean

# ---- verify
ok "a point of file systems in use is verified" verify 1
grep -E 'good|bad|warning|skipped' /tmp/tap.out
is "partition table and file systems are good" "$(verdict '[.verdict.checks[] | select(.disk == "data") | "\(.partition) \(.what) \(.result)"] | join(", ")')" \
	"null partition table gpt good, 1 vfat good, 2 ext4 good, 3 xfs good, 4 swap good"
is "the other disk is a doubt" "$(verdict '[.verdict.checks[] | select(.disk == "raw") | "\(.what) \(.result)"] | join(", ")')" "content warning"
is "so the verdict is" "$(verdict '"\(.id) \(.verdict.result)"')" "1 warning"
ok "nothing is left of it" clean
ok "a point at rest" verify 2 --json
fails "a destroyed file system is found" "verdict: bad" verify latest
is "it is the one" "$(verdict '[.verdict.checks[] | select(.result == "bad") | "\(.partition) \(.what)"] | join(", ")')" "2 ext4"
is "of the newest point" "$(verdict .id)" 3
ok "nothing is left of that" clean
# A damaged record.
ok "a bit is flipped in the undo log" undolog flip $LOG 2 $((41 * 1048576))
fails "a damaged record is found" "undo log" verify 2
is "and the verdict is bad" "$(verdict .verdict.result)" bad
ok "nothing is left of that" clean

# Interrupted.
interrupted() {
	# shellcheck disable=SC2086
	reprotect points verify vm1 1 $AT &
	pid=$!
	wait_for 60 connected || return 1
	kill -INT $pid
	wait $pid
	[ $? = 1 ]
}
ok "verify is interrupted" interrupted
ok "and undoes" clean

sync
echo 3 >/proc/sys/vm/drop_caches
is "nothing of all this has touched the target" "$(sha256sum </dev/vda)" "$(cat /tmp/before)"
kill $serve
wait $serve
done_testing
