# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=sh disable=SC1091,SC2016,SC2034,SC2086
# What: PostgreSQL on ext4 under load: at every point a copy mounts, is clean, recovers, and has the last commit acknowledged before the cut.
# VM: disks=192M,192M modules="dm_mod dm_snapshot +null_blk ext4" timeout=400 long=7200 kernels=all mem=1536 env="FS_EPOCHS"
# VM: tools="dmsetup mkfs.ext4 e2fsck mount umount blockdev setpriv /usr/lib/postgresql/15/bin/initdb /usr/lib/postgresql/15/bin/postgres /usr/lib/postgresql/15/bin/pg_ctl /usr/lib/postgresql/15/bin/psql /usr/lib/postgresql/15/bin/pg_checksums"
# VM: files="tests/vm/point.sh:/lib/point.sh /usr/lib/postgresql/15/lib:/pg/lib /usr/share/postgresql/15:/usr/share/postgresql/15"
. /lib/tap.sh
. /lib/point.sh

: "${FS_EPOCHS:=3}"
disks="/dev/vda" copies="/dev/vdb"
PATH=$PATH:/pg/bin

# PostgreSQL refuses to be root.
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
sql() { psql --no-psqlrc --quiet --no-align --tuples-only --set ON_ERROR_STOP=1 --host=/tmp/pg --username=postgres "$@"; }

# server start|stop FOLDER PORT
server() {
	as_postgres pg_ctl --wait --timeout=$((120 * ${VM_SLOW:-1})) --pgdata=$2 --log=/tmp/pg/log-$3 --options="-p $3" $1
}

cluster() { # FOLDER
	as_postgres initdb --pgdata=$1 --username=postgres --auth=trust --no-locale --encoding=UTF8 --data-checksums --wal-segsize=1 --no-sync || return 1
	cat >>$1/postgresql.conf <<-END
		listen_addresses = ''
		unix_socket_directories = '/tmp/pg'
		shared_buffers = 16MB
		max_connections = 8
		min_wal_size = 2MB
		max_wal_size = 6MB
		autovacuum_naptime = 5s
	END
	sync # a database server does that with its tables, not with its configuration
}

schema() {
	sql <<-END
		create extension amcheck;
		create table t (n integer primary key, filler text);
		create table churn (n integer primary key, filler text);
		insert into churn select n, '' from generate_series(1, 200) n;
		create index on churn (filler);
	END
}

# One row a transaction; its number is in the list once the commit has returned.
rows() {
	i=1
	while ! [ -e /tmp/stop ]; do
		echo "insert into t select $i, string_agg(md5(random()::text), '') from generate_series(1, 1 + $i % 60);"
		echo "\\! echo $i >>/tmp/acked"
		[ $((i % 9)) != 0 ] || echo "delete from t where n % 4 = 0 and n < $i - 20;"
		[ $((i % 60)) != 0 ] || echo "checkpoint;"
		i=$((i + 1))
	done | sql >/tmp/rows.out 2>&1
}
# Rows that move between pages, in an index as well.
churn() {
	while ! [ -e /tmp/stop ]; do
		echo "update churn set filler = repeat(md5(random()::text), 1 + n % 9) where n % 40 = (random() * 40)::integer;"
	done | sql >/tmp/churn.out 2>&1
}
acked() { tail -n 1 /tmp/acked 2>/dev/null; }

# recovers ROW: the server comes up, having had to recover; all pages and indexes are sound, row ROW and all before it are there
recovers() { # FOLDER ROW
	# A machine that boots from the copy has other processes under these numbers.
	rm -f $1/postmaster.pid /tmp/pg/log-5433
	server start $1 5433 || { cat /tmp/pg/log-5433; return 1; }
	_rows=$(sql --port=5433 <<-END
		select coalesce(max(n), 0) from t;
		select count(*) from generate_series(1, $2) s where s % 4 <> 0 and not exists (select from t where n = s);
		select count(*) from churn;
		select count(*) from (select bt_index_check(c.oid, true) from pg_index i join pg_class c on c.oid = i.indexrelid
			join pg_am a on a.oid = c.relam where a.amname = 'btree') checked where bt_index_check is not null;
	END
	) || return 1
	server stop $1 5433 && as_postgres pg_checksums --check --pgdata=$1 || return 1
	# shellcheck disable=SC2046
	set -- "$2" $_rows
	echo "rows up to $2, $1 acknowledged before the cut, $3 missing, $4 of churn"
	grep 'redo' /tmp/pg/log-5433
	grep -q 'not properly shut down; automatic recovery' /tmp/pg/log-5433 && [ "$2" -ge "$1" ] && [ "$3 $4" = "0 200" ]
}

# On an overlay: the copy itself stays as it is.
good() { # COPY ROW
	dmsetup create over --table "0 $(blockdev --getsz $1) snapshot $1 /dev/nullb0 N 8" || return 1
	_status=1
	if mount -t ext4 /dev/mapper/over /mnt/copy; then
		recovers /mnt/copy/data $2 && _status=0
		[ ! -e /mnt/copy/data/postmaster.pid ] || server stop /mnt/copy/data 5433
		umount /mnt/copy
	fi
	e2fsck -fn /dev/mapper/over || _status=1
	dmsetup remove over
	return $_status
}

pg_epoch() {
	_row=$(acked)
	point consistent $disks || return 1
	if ! copy_all --piece 1M --delay-us 200 || ! consistent; then
		cat /tmp/copy?
		cbtctl abort $N $disks
		return 1
	fi
	cbtctl commit $N $disks && good /dev/vdb $_row
}

goes_on_by() { # ROWS
	_at=$(acked)
	wait_for 60 eval "[ \"\$(acked)\" -ge $((${_at:-0} + $1)) ]"
}

# It looks for its libraries beside the folder it is in itself.
mkdir /pg/bin && mv /bin/initdb /bin/postgres /bin/pg_ctl /bin/psql /bin/pg_checksums /pg/bin
echo 'postgres:x:70:70::/tmp/pg:/bin/sh' >>/etc/passwd
echo 'postgres:x:70:' >>/etc/group
mkfs.ext4 -q /dev/vda && mkdir -p /mnt/source /mnt/copy /tmp/pg
ok "ext4 is mounted" mount -t ext4 /dev/vda /mnt/source
mkdir /mnt/source/data && chown postgres:postgres /mnt/source/data /tmp/pg
ok "a database cluster is made" cluster /mnt/source/data || done_testing
ok "the server starts" server start /mnt/source/data 5432 || done_testing
ok "tables" schema
ok "null_blk, for what a copy's recovery writes" null_disk 0 192
ok "the module loads" insmod /lib/modules/blkcbt.ko
ok "attach" cbtctl attach /dev/vda
rows &
churn &
ok "rows are committed" goes_on_by 20 || { cat /tmp/rows.out /tmp/churn.out; done_testing; }
i=1
while [ $i -le "$FS_EPOCHS" ]; do
	ok "epoch $i: mounts, is clean, recovers, has what was acknowledged" pg_epoch
	goes_on_by 10
	i=$((i + 1))
done
diag "rows acknowledged at the end: $(acked); preserved in the last epoch: $(get /dev/vda preserves)"
touch /tmp/stop
wait
is "no downgrade, no escape" "$(get /dev/vda downgrades) $(get /dev/vda escapes)" "0 0"
ok "the writers had no error" eval '! grep . /tmp/rows.out && ! grep . /tmp/churn.out'
ok "the server stops" server stop /mnt/source/data 5432
umount /mnt/source
ok "detach" cbtctl detach /dev/vda
ok "the module unloads" rmmod blkcbt
done_testing
