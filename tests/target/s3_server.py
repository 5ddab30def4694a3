"""Runs OpenStack Swift with its S3 interface, in one process: Debian's python3-swift, and Debian's Python for it.

usage: python3 -P s3_server.py FOLDER ADDRESS PORT [tls]

FOLDER holds server.crt and server.key, and `users`, lines of tempauth's; it gets what is stored. FOLDER/socket takes
the same questions without TLS. The four servers of Swift share a process here.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

REGION = "us-east-1"
SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = dify
swift_hash_path_suffix = installer
"""
INNER = """\
[DEFAULT]
devices = {folder}/nodes
mount_check = false
swift_dir = {folder}
fallocate_reserve = 0
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """\
[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors cache s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
[filter:s3api]
use = egg:swift#s3api
location = {region}
allow_multipart_uploads = false
[filter:tempauth]
use = egg:swift#tempauth
{users}
"""
INNER_SERVERS = ("account", "container", "object")


def main(folder: Path, address: str, port: int, *, tls: bool) -> None:
    """Serve until the process is ended."""
    import eventlet  # type: ignore[import-not-found]
    from swift.common import utils  # type: ignore[import-not-found]

    utils.eventlet_monkey_patch()
    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    (folder / "swift.conf").write_text(SWIFT_CONF)
    (folder / "nodes/disk").mkdir(parents=True, exist_ok=True)
    listening = {name: eventlet.listen(("127.0.0.1", 0)) for name in INNER_SERVERS}
    for name, inner in listening.items():
        write_ring(folder, name, inner.getsockname()[1])
        (folder / f"{name}.conf").write_text(INNER.format(folder=folder, name=name))
    users = (folder / "users").read_text()
    (folder / "proxy.conf").write_text(PROXY.format(folder=folder, region=REGION, users=users))
    outer = eventlet.listen((address, port))
    if tls:
        shown = {"certfile": str(folder / "server.crt"), "keyfile": str(folder / "server.key")}
        outer = eventlet.wrap_ssl(outer, server_side=True, **shown)
    # For those who are not in the network that it listens in.
    (folder / "socket").unlink(missing_ok=True)
    beside = eventlet.listen(str(folder / "socket"), family=socket.AF_UNIX)
    servers = [eventlet.spawn(serve, folder / f"{name}.conf", each) for name, each in listening.items()]
    servers += [eventlet.spawn(serve, folder / "proxy.conf", each) for each in (outer, beside)]
    for each in servers:
        each.wait()


def write_ring(folder: Path, name: str, port: int) -> None:
    """Say where the one server of a kind is."""
    from swift.common.ring import RingBuilder  # type: ignore[import-not-found]

    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    at = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "disk", "meta": "", **at})
    builder.rebalance()
    builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def serve(configuration: Path, listening: socket.socket) -> None:
    """Answer at a socket as the configuration says."""
    from eventlet import wsgi
    from swift.common.http_protocol import SwiftHttpProtocol  # type: ignore[import-not-found]
    from swift.common.wsgi import loadapp  # type: ignore[import-not-found]

    wsgi.server(listening, loadapp(str(configuration)), protocol=SwiftHttpProtocol)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), tls="tls" in sys.argv[4:])
