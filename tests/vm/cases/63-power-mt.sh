# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash disable=SC1091,SC2016,SC2086
# What: the power of the master target's machine is cut at random moments, in epochs, rollbacks and merges, with and without volatile caches that forget: the disk is as of one epoch or the next, every point can be had and is exact.
# VM: disks=24M,512M,32M,1M cached="vda vdb vdc" modules="ext4" tools="mkfs.ext4 jq build/e2e-tools/wirepeer"
# VM: timeout=400 long=14400 boots=100000 mem=768 env="MT_CUTS SEED"
. /lib/tap.sh

# MT_CUTS power cuts (default 3: in an epoch, a rollback, a merge), their moments and everything else from SEED.
cuts=${MT_CUTS:-3}
seed=${SEED:-1}
random() { awk -v seed="$((seed * 7919 + BOOT * 131 + ${n:-0}))" -v max="$1" 'BEGIN { srand(seed); rand(); print int(rand() * max) }'; }

# vda is the target, vdb the retention volume, vdc has the state. What the target is to be at each point is on vdd, which has no cache:
# a line of 64 bytes for each epoch, "NAME MD5", there before the epoch is sent; a line "to NAME" before a rollback.
note() {
	printf '%-63s\n' "$*" >/tmp/note
	dd if=/tmp/note of=/dev/vdd bs=64 seek="$notes" conv=notrunc,fsync 2>/dev/null && notes=$((notes + 1))
}
all_notes() { tr -d '\000' </dev/vdd | sed 's/ *$//'; }
noted() { all_notes | awk -v name="$1" '$1 == name { sum = $2 } END { print sum }'; }

status() { reprotect status --json 2>/dev/null | jq -r '."reprotect-master-target" | '"$1" 2>/dev/null; }
machine() { status ".machines[0] | $1"; }
points() { reprotect points list testvm --json 2>/dev/null | jq -r ".[0] | $1"; }
answers() { [ -n "$(status .version)" ]; }
in_between() { [ "$(machine .points.in_between)" = true ]; }
whole() { [ "$(machine '.points.in_between == false and (.rollback.state | . == "idle" or . == "done")')" = true ]; }
sum() { dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | md5sum | cut -d' ' -f1; }
is_noted() { [ "$(sum)" = "$(noted "$1")" ] || { echo "the disk is not as it was at $1"; return 1; }; }

peer() { wirepeer agent --disk root:24M --frame-bytes 128K --zero-percent 5 --timeout 120 "$@"; }
# What the disk will be is known before it is sent: first to a peer that takes everything and keeps nothing, then the same to the master target.
epoch() { # NAME KIND BYTES
	_seed=$((seed * 1000000 + BOOT * 1000 + n))
	cp /tmp/src-root.img /tmp/next-root.img
	wirepeer mt --listen 127.0.0.1:9931 --dir /tmp --discard --epochs 1 >/tmp/peer.discard 2>&1 &
	_sink=$!
	wait_for 20 grep -q listening /tmp/peer.discard
	peer --connect 127.0.0.1:9931 --image /tmp/next- --epochs 1 --epoch-bytes $3 --seed $_seed >/tmp/peer.out 2>&1
	wait $_sink
	note "$1 $(md5sum </tmp/next-root.img | cut -d' ' -f1)"
	[ -z "${cutting:-}" ] || { wait_for 20 in_between && power_cut_in "$(random 500)"; } &
	peer --connect 127.0.0.1:9921 --image /tmp/src- --epochs 1 --epoch-bytes $3 --seed $_seed --tag "$2:$1" >/tmp/peer.out 2>&1
}
rollback() { # SELECTOR NAME
	note "to $2"
	reprotect points rollback testvm "$1" --yes
}
# A point that is not the present one and will not go, by number and name, on a line.
any_point() {
	points '.points[] | select(.copy_of == 0 and .kind == "app" and (.present | not)) | "\(.id) \(.name)"' >/tmp/points
	_count=$(wc -l </tmp/points)
	[ "$_count" -gt 0 ] && sed -n "$(($(random "$_count") + 1))p" /tmp/points
}

# What was under way may have been done or not. No more than that.
as_it_may_be() {
	_sum=$(sum)
	all_notes | tail -n 2 >/tmp/last
	while read -r _name _value; do
		[ "$_name" != to ] || _value=$(noted "$_value")
		[ "$_sum" != "$_value" ] || { echo "as of $_name"; return 0; }
	done </tmp/last
	# Before the last rollback there was the newest epoch.
	echo "neither of:"
	cat /tmp/last
	return 1
}

mkdir -p /mnt/retention /mnt/state /run/reprotect
if [ "$BOOT" = 1 ]; then
	mkfs.ext4 -q -m 0 -J size=4 /dev/vdb && mkfs.ext4 -q /dev/vdc
	dd if=/dev/zero of=/dev/vdd bs=1M count=1 2>/dev/null
	sync
fi
ok "boot $BOOT: mounted" eval 'mount -t ext4 /dev/vdb /mnt/retention && mount -t ext4 /dev/vdc /mnt/state' || done_testing
# Many merges: nothing but applications' points lasts.
cat >/tmp/master-target.conf <<-END
	[master-target]
	listen = 127.0.0.1:9921
	state = /mnt/state/mt
	retention = /mnt/retention
	retention_reserve = 8M
	keep_all = 0
	keep_hourly = 0
	keep_app = 1h
	[target testvm/root]
	path = /dev/vda
END
notes=$(all_notes | wc -l) n=0
reprotect-master-target --config /tmp/master-target.conf 2>/tmp/mt.log &
mt=$!
ok "boot $BOOT: the master target answers" wait_for 60 answers || { cat /tmp/mt.log >&3; done_testing; }

if [ "$BOOT" = 1 ]; then
	dd if=/dev/zero of=/tmp/src-root.img bs=1M count=24 2>/dev/null
	peer --connect 127.0.0.1:9921 --image /tmp/src- --epochs 1 --epoch-bytes 24M --seed $seed --initial >/tmp/peer.out 2>&1
	n=1
	ok "a first point" epoch p0 app 1M || cat /tmp/peer.out
	ok "which the disk is" is_noted p0
else
	cut="cut $((BOOT - 1))"
	ok "$cut: whole" wait_for 90 whole
	ok "$cut: the disk is as of one epoch or the next, or rolled back" as_it_may_be || { all_notes | tail -n 5 >&3; tail -n 20 /tmp/mt.log >&3; }
	diag "$cut: $(cat "$TAP_OUT"); $(grep -cE 'undoing|rolling back to' /tmp/mt.log) restored; $(points '.points | length') points, $(machine .points.layers) layers"
	if any_point >/tmp/any; then
		read -r id name </tmp/any
		ok "$cut: rollback to $name" reprotect points rollback testvm "#$id" --yes
		ok "$cut: is exact" is_noted "$name"
	fi
	oldest=$(points '[.points[] | select(.copy_of == 0 and .kind == "app")][0] | "\(.id) \(.name)"')
	if [ "$(points '.points | length')" -gt 2 ] && [ "${oldest#* }" != "$name" ]; then
		ok "$cut: rollback to the oldest, ${oldest#* }" reprotect points rollback testvm "#${oldest%% *}" --yes
		ok "$cut: is exact" is_noted "${oldest#* }"
	fi
	[ "$(machine .status)" = replicating ] || ok "$cut: and back to the latest" reprotect points rollback testvm latest --yes
	name=$(points '[.points[] | select(.present)][0].name')
	ok "$cut: is exact ($name)" is_noted "$name"
	is "$cut: replication goes on" "$(machine .status)" replicating
	# What was shown is not needed any more: the volume has room for any number of cuts.
	for id in $(points '([.points[] | select(.copy_of == 0 and (.present | not))][:-4] + [.points[] | select(.copy_of != 0 and (.present | not))])[].id'); do
		reprotect points discard testvm "#$id" --yes >/dev/null 2>&1
	done
	dd if=/dev/vda of=/tmp/src-root.img bs=1M iflag=direct 2>/dev/null
	note "$name $(noted "$name")"
fi
if [ "$BOOT" -gt "$cuts" ]; then
	n=1
	ok "and goes on" epoch last app 1M || cat /tmp/peer.out
	ok "with the next epoch" is_noted last
	kill $mt
	wait $mt
	is "the master target ends cleanly" $? 0
	done_testing
fi
# What the power is cut in the middle of; over nine boots each with each of the three kinds of cache (run-vm).
case $(((BOOT + (BOOT - 1) / 3) % 3)) in
1) what=epoch ;;
2) what=rollback ;;
0) what=merge ;;
esac
more() { # KIND [BYTES]: an epoch more
	n=$((n + 1))
	epoch "b$BOOT-$n" "$1" "${2:-6M}"
}
merging() { [ -n "$(find /mnt/retention -name '*.tmp')" ]; }
for kind in app crash crash crash app; do
	ok "an epoch, $kind" more $kind || { cat /tmp/peer.out /tmp/mt.log >&3; done_testing; }
done
diag "the next cut is in: $what"
case $what in
epoch)
	cutting=1
	more crash 40M
	;;
rollback)
	any_point >/tmp/any && read -r id name </tmp/any
	now=b$BOOT-$n
	power_cut_in "$(random 900)"
	while rollback "#$id" "$name" && rollback latest "$now"; do :; done
	;;
merge)
	ok "layers are being merged" wait_for 60 merging
	power_cut_in "$(random 300)"
	while more crash; do :; done
	;;
esac
cat /tmp/peer.out /tmp/mt.log >&3
ok "the load goes on until the power is cut" false
done_testing
