#!/bin/sh
# Expands the template and starts squid, in place of upstream's script of this name.
set -eu
envsubst < /etc/squid/squid.conf.template > /etc/squid/squid.conf
mkdir -p /etc/squid/conf.d
# A squid that was killed leaves its own number, 1, behind, and the next would think that it runs.
rm -f /run/squid.pid
exec squid -N -d 1
