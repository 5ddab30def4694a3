#!/bin/sh
# As the official image does: the first start makes the database with the password that is given;
# later starts leave it as it is.
set -eu
mkdir -p "$PGDATA" /run/postgresql
chown -R postgres: "$(dirname "$PGDATA")" "$PGDATA" /run/postgresql
chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
    chown postgres: /tmp/password
    su postgres -s /bin/sh -c "PATH=$PATH initdb --encoding=UTF8 --pgdata='$PGDATA' --username='$POSTGRES_USER' --pwfile=/tmp/password \
        --auth-host=scram-sha-256 --auth-local=trust --no-sync >/dev/null"
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    su postgres -s /bin/sh -c "PATH=$PATH pg_ctl --pgdata='$PGDATA' --options='-c listen_addresses=' --wait start >/dev/null"
    [ "$POSTGRES_DB" = postgres ] || su postgres -s /bin/sh -c "PATH=$PATH createdb --username='$POSTGRES_USER' '$POSTGRES_DB'"
    su postgres -s /bin/sh -c "PATH=$PATH pg_ctl --pgdata='$PGDATA' --wait stop >/dev/null"
fi
shift
exec setpriv --reuid=postgres --regid=postgres --init-groups postgres -D "$PGDATA" -c 'listen_addresses=*' "$@"
