#!/bin/sh
# Expands the template and starts squid, in place of upstream's script of this name.
set -eu
envsubst < /etc/squid/squid.conf.template > /etc/squid/squid.conf
mkdir -p /etc/squid/conf.d
exec squid -N -d 1
