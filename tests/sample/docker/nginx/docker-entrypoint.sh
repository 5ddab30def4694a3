#!/bin/sh
# Expands the templates and starts nginx.
set -eu
HTTPS_CONFIG=
if [ "${NGINX_HTTPS_ENABLED:-false}" = true ]; then
    SSL_CERTIFICATE_PATH=/etc/ssl/$NGINX_SSL_CERT_FILENAME
    SSL_CERTIFICATE_KEY_PATH=/etc/ssl/$NGINX_SSL_CERT_KEY_FILENAME
    export SSL_CERTIFICATE_PATH SSL_CERTIFICATE_KEY_PATH
    HTTPS_CONFIG=$(envsubst < /etc/nginx/https.conf.template)
fi
ACME_CHALLENGE_LOCATION=
export HTTPS_CONFIG ACME_CHALLENGE_LOCATION
names=$(printenv | cut -d= -f1 | sed 's/^/$/' | tr '\n' ' ')
envsubst "$names" < /etc/nginx/nginx.conf.template > /etc/nginx/nginx.conf
envsubst "$names" < /etc/nginx/proxy.conf.template > /etc/nginx/proxy.conf
envsubst "$names" < /etc/nginx/conf.d/default.conf.template > /etc/nginx/conf.d/default.conf
exec nginx -g 'daemon off;'
