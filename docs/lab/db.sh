#!/bin/sh
# A server of PostgreSQL and the agent beside it. With FOLLOWS it is a standby of that host. The network of
# the site is believed: it is a lab.
set -eu
bin=/usr/lib/postgresql/15/bin
place=/var/lib/postgresql/lab
data=$place/data
as() { su postgres -s /bin/sh -c "$*"; }
mkdir -p /var/run/postgresql "$place"
chown postgres /var/run/postgresql "$place"
if [ ! -e "$place/made" ]; then
    rm -rf "$data"
    if [ -n "${FOLLOWS-}" ]; then
        until as "$bin/pg_basebackup -h $FOLLOWS -U postgres -R -c fast -D $data"; do
            rm -rf "$data"
            sleep 1
        done
    else
        as "$bin/initdb -k -A trust -U postgres -D $data" >/dev/null
        for database in all replication; do
            echo "host $database all samenet trust" >>"$data/pg_hba.conf"
        done
        printf '%s\n' "listen_addresses = '*'" 'shared_buffers = 32MB' 'max_wal_size = 256MB' \
            "unix_socket_directories = '/var/run/postgresql'" >>"$data/postgresql.conf"
    fi
fi
# The process it names is of a container that is gone.
rm -f "$data/postmaster.pid"
as "$bin/pg_ctl start -w -t 60 -D $data -l $place/log" >/dev/null
if [ ! -e "$place/made" ] && [ -z "${FOLLOWS-}" ]; then
    as "$bin/psql -q -v ON_ERROR_STOP=1 -h /var/run/postgresql -U postgres" <<'SQL'
CREATE ROLE strongroom LOGIN REPLICATION;
GRANT pg_read_all_settings TO strongroom;
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO strongroom;
GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO strongroom;
CREATE TABLE entry AS SELECT n, md5(n::text) AS what FROM generate_series(1, 20000) AS n;
SQL
fi
touch "$place/made"
exec strongroom run agent /home/agent
