#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The scripts of userspace/agent/app.d as the agent calls them: SQLite and PostgreSQL for real where they are
# installed, MySQL with a client that plays the server's part. Prints TAP.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
D=$PWD/userspace/agent/app.d
T=$(mktemp -d "${TMPDIR:-/tmp}/app-e2e.XXXXXX")
PG=''
cleanup() {
	[ -z "$PG" ] || runuser -u postgres -- "$PG/pg_ctl" -D "$T/pg" -m immediate stop >/dev/null 2>&1
	rm -rf "$T"
}
trap cleanup EXIT
# shellcheck source=tests/e2e/lib/tap.sh
. tests/e2e/lib/tap.sh
fails() { local name=$1; shift; if "$@" >"$T/out" 2>&1; then not_ok "$name"; else ok "$name"; fi; }
export REPROTECT_RUN_DIR=$T/run REPROTECT_HOLD_SECONDS=20 REPROTECT_TAG_NAME=test
mkdir "$T/run"
run() { bash "$D/$1" "$2"; } # they are not executable until somebody installs them

# ---- template
check "template: pre" sh "$D/template" pre
check "template: post" sh "$D/template" post
fails "template: anything else" sh "$D/template" thaw

# ---- SQLite
if command -v sqlite3 >/dev/null; then
	export SQLITE_LIST=$T/list BUSY_MS=500
	check "sqlite: nothing to do without a list" run 50-sqlite pre
	check "sqlite: post, too" run 50-sqlite post
	for d in one two; do sqlite3 "$T/$d.db" 'PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1);' >/dev/null; done
	printf '# ours\n%s\n\n%s\n' "$T/one.db" "$T/two.db" >"$T/list"
	write() { sqlite3 -batch -cmd '.timeout 200' "$1" 'INSERT INTO t VALUES(2);'; }
	check "sqlite: pre" run 50-sqlite pre
	says "says how many" '2 databases are locked'
	fails "sqlite: nobody writes the first" write "$T/one.db"
	fails "sqlite: nor the second" write "$T/two.db"
	check "sqlite: readers go on" sqlite3 "$T/one.db" 'SELECT a FROM t;'
	check "sqlite: the log is checkpointed" test ! -s "$T/one.db-wal"
	check "sqlite: post" run 50-sqlite post
	check "sqlite: they write again" write "$T/one.db"
	check "sqlite: both" write "$T/two.db"
	(echo 'BEGIN IMMEDIATE;'; sleep 4) | sqlite3 "$T/two.db" & W=$!
	sleep 0.3
	fails "sqlite: a database that is locked by someone else" run 50-sqlite pre
	says "is named" 'database number 2'
	check "sqlite: post after that" run 50-sqlite post
	check "sqlite: lets the first go" write "$T/one.db"
	wait $W
	REPROTECT_HOLD_SECONDS=1 run 50-sqlite pre >"$T/out" 2>&1
	sleep 2
	check "sqlite: lets go by itself" write "$T/one.db"
	fails "sqlite: and post says that it had to" run 50-sqlite post
	says "for what it is" 'locks were lost'
	echo "$T/none.db" >>"$T/list"
	fails "sqlite: a database that is not there" run 50-sqlite pre
	check "sqlite: post after that" run 50-sqlite post
else
	skip "sqlite" "sqlite3 is not installed"
fi

# ---- MySQL: a client that says what the server would, and logs what it was told
mkdir "$T/bin"
cat >"$T/bin/mysql" <<'END'
#!/bin/bash
while read -r line; do
	echo "$line" >>"$MYSQL_LOG"
	case $line in
	FLUSH*) [ "${MYSQL_PLAYS:-}" != busy ] || { echo "ERROR 1205 (HY000): Lock wait timeout exceeded"; exit 1; } ;;
	*"'locked'"*) echo locked; [ "${MYSQL_PLAYS:-}" != dies ] || exit 1 ;;
	*"'released'"*) echo released ;;
	esac
done
echo gone >>"$MYSQL_LOG"
END
chmod +x "$T/bin/mysql"
export MYSQL_LOG=$T/mysql.log
PATH=$T/bin:$PATH
: >"$MYSQL_LOG"
check "mysql: pre" run 50-mysql pre
says "says that tables are locked" 'tables are locked'
check "mysql: by a global read lock" grep -q '^FLUSH TABLES WITH READ LOCK;' "$MYSQL_LOG"
check "mysql: that is held" sh -c "sleep 0.5; ! grep -q 'UNLOCK\|gone' '$MYSQL_LOG'"
check "mysql: post" run 50-mysql post
says "says that it was held until then" 'locked until now'
check "mysql: unlocks" grep -q 'UNLOCK TABLES' "$MYSQL_LOG"
check "mysql: the session ends" sh -c "for i in 1 2 3 4 5 6 7 8 9; do grep -q gone '$MYSQL_LOG' && exit 0; sleep 0.1; done; exit 1"
check "mysql: post again is harmless" run 50-mysql post
MYSQL_PLAYS=busy fails "mysql: a lock that cannot be had" run 50-mysql pre
says "and what the server said" 'Lock wait timeout exceeded'
check "mysql: post after that" run 50-mysql post
MYSQL_PLAYS=dies run 50-mysql pre >"$T/out" 2>&1
fails "mysql: a session that is lost" run 50-mysql post
says "is no lock" 'the lock was lost'
REPROTECT_HOLD_SECONDS=1 run 50-mysql pre >"$T/out" 2>&1
sleep 2
check "mysql: lets go by itself" grep -q gone "$MYSQL_LOG"
fails "mysql: and post says that it had to" run 50-mysql post

# ---- PostgreSQL
PG=$(find /usr/lib/postgresql -name initdb -printf '%h\n' 2>/dev/null | sort -V | tail -n 1)
fails "postgresql: no server, no tag" run 50-postgresql pre
if [ "$(id -u)" = 0 ] && [ -n "$PG" ] && id postgres >/dev/null 2>&1; then
	mkdir "$T/pg"; chmod 755 "$T"; chown postgres "$T/pg"
	runuser -u postgres -- "$PG/initdb" -D "$T/pg" >/dev/null 2>&1
	mkdir -p /var/run/postgresql; chown postgres /var/run/postgresql
	runuser -u postgres -- "$PG/pg_ctl" -D "$T/pg" -w -o '-p 54329 -c listen_addresses=' start >"$T/out" 2>&1
	sed "s/PG_PORT=''/PG_PORT=54329/" "$D/50-postgresql" >"$T/50-postgresql"
	check "postgresql: pre" sh "$T/50-postgresql" pre
	says "says which server" 'PostgreSQL [0-9]'
	check "postgresql: post" sh "$T/50-postgresql" post
else
	PG=''
	skip "postgresql" "needs root and a PostgreSQL server"
fi
done_testing
