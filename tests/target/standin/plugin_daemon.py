"""Stands in for the plugin daemon: makes its own database, as the real one does, and uses Redis."""

import os
import socket
import threading

import psycopg2
import redis
import web

ENV = os.environ


def database(name):
    return psycopg2.connect(
        host=ENV["DB_HOST"],
        port=ENV["DB_PORT"],
        user=ENV["DB_USERNAME"],
        password=ENV["DB_PASSWORD"],
        dbname=name,
        connect_timeout=5,
    )


def make_database():
    connection = database("postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (ENV["DB_DATABASE"],))
        if cursor.fetchone() is None:
            cursor.execute(f'CREATE DATABASE "{ENV["DB_DATABASE"]}"')


def debugging():
    listener = socket.create_server(("0.0.0.0", int(ENV["PLUGIN_REMOTE_INSTALLING_PORT"])))
    while True:
        listener.accept()[0].close()


make_database()
redis.Redis(host=ENV["REDIS_HOST"], port=int(ENV["REDIS_PORT"]), password=ENV["REDIS_PASSWORD"]).ping()
threading.Thread(target=debugging, daemon=True).start()
web.serve(int(ENV["SERVER_PORT"]), {"/health/check": lambda _request: (200, {"status": "ok"})})
