#!/bin/sh
# As the official image does: the first start makes the database and the password that are given; later starts leave
# them as they are. Meanwhile a server runs that only the socket reaches.
set -eu
data=/var/lib/mysql
mkdir -p "$data" /run/mysqld
chown -R mysql: "$data" /run/mysqld
if [ ! -d "$data/mysql" ]; then
    mariadb-install-db --user=mysql --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null
    mariadbd --user=mysql --datadir="$data" --skip-networking &
    until mariadb-admin ping --silent; do sleep 0.2; done
    mariadb <<END
SET sql_log_bin = 0;
SET PASSWORD FOR root@localhost = PASSWORD('$MYSQL_ROOT_PASSWORD');
CREATE USER root@'%' IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS \`$MYSQL_DATABASE\` CHARACTER SET utf8mb4;
END
    MYSQL_PWD="$MYSQL_ROOT_PASSWORD" mariadb-admin shutdown
    wait
fi
exec mariadbd --user=mysql --datadir="$data" --bind-address=0.0.0.0 "$@"
