"""The same move with MySQL: from docker elsewhere to podman here, and then a backup and its way back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import MachineMaker, Once
from tests.e2e.server import Server
from tests.e2e.test_backup import printed
from tests.e2e.test_export import CHOSEN, PROJECT, OldDify
from tests.target import bundle as bundles
from tests.target.bundle import Bundle
from tests.target.registry import Registry

MYSQL = {"DB_TYPE": "mysql", "DB_HOST": "db_mysql", "DB_PORT": "3306", "DB_USERNAME": "root"}
# Foreign keys, bytes, Korean, a name that wants quotes, and a row that is larger, as hexadecimal digits, than a server
# takes by default.
FILL = r"""
SET NAMES utf8mb4;
CREATE TABLE digits (d int PRIMARY KEY);
INSERT INTO digits VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9);
CREATE TABLE apps (id int AUTO_INCREMENT PRIMARY KEY, name varchar(255) NOT NULL, icon longblob) CHARACTER SET utf8mb4;
INSERT INTO apps (name, icon)
    SELECT CONCAT('앱 ', a.d, b.d, ' \'"\\'), UNHEX(MD5(a.d * 10 + b.d)) FROM digits a, digits b;
INSERT INTO apps (name, icon) VALUES ('large', REPEAT(UNHEX('00FF'), 7000000));
CREATE TABLE messages (
    id int AUTO_INCREMENT PRIMARY KEY, app int NOT NULL, said text NOT NULL, FOREIGN KEY (app) REFERENCES apps (id)
) CHARACTER SET utf8mb4;
INSERT INTO messages (app, said) SELECT 1 + a.d * 10 + b.d, CONCAT('안녕하세요 ', MD5(CONCAT(a.d, b.d, c.d, d.d, e.d)))
    FROM digits a, digits b, digits c, digits d, digits e;
CREATE TABLE `people's ``notes``` (note text);
INSERT INTO `people's ``notes``` VALUES ('one');
CREATE TABLE written (n bigint AUTO_INCREMENT PRIMARY KEY, at timestamp(6) DEFAULT CURRENT_TIMESTAMP(6));
"""
HASH = """
SELECT COUNT(*), BIT_XOR(CONV(LEFT(MD5(CONCAT_WS('|', id, name, HEX(icon))), 15), 16, 10)) FROM apps;
SELECT COUNT(*), BIT_XOR(CONV(LEFT(MD5(CONCAT_WS('|', id, app, said)), 15), 16, 10)) FROM messages;
"""
# The password is the container's own.
CLIENT = 'MYSQL_PWD="$MYSQL_ROOT_PASSWORD" mysql --host=127.0.0.1 --batch --skip-column-names dify'
WRITER = f"while [ ! -e /tmp/stop ]; do {CLIENT} --execute='INSERT INTO written VALUES ()'; sleep 0.02; done"


@pytest.fixture(scope="module")
def mysql(work: Path, registry: Registry, dify: Path, once: Once) -> Bundle:
    """The bundle of Dify's real compose file with MySQL."""

    def make() -> Bundle:
        with registry:
            return bundles.make("dify-mysql", dify, registry, work, options=["--db", "mysql"], chosen=MYSQL)

    return once("dify-mysql", make)


@pytest.fixture(scope="module")
def old(lasting_machine: MachineMaker, mysql: Bundle) -> OldDify:
    made = OldDify(lasting_machine("docker"), mysql, {**CHOSEN, **MYSQL})
    asked(made, FILL)
    return made


def asked(old: OldDify, sql: str) -> str:
    return old.machine.run(["docker", "exec", "-i", f"{PROJECT}-db_mysql-1", "sh", "-c", CLIENT], input=sql).stdout


def asked_here(server: Server, sql: str) -> str:
    command = ["podman", "exec", "-i", server.container("db_mysql"), "sh", "-c", CLIENT]
    return server.machine.run(command, user=server.user, input=sql).stdout


@pytest.mark.feature("MySQL: `export`, arrival, `backup`, `restore`", "works; against MariaDB")
def test_it_moves_and_is_kept(old: OldDify, new_machine: MachineMaker, mysql: Bundle, tmp_path: Path) -> None:
    told = old.export("/srv")
    counts = {part["name"]: part["counts"] for part in told["parts"]}
    assert counts["database/dify"] | {"apps": 101, "messages": 100000, "people's `notes`": 1} == counts["database/dify"]
    assert "records" in counts["database/dify_plugin"]
    assert "their-password" not in old.machine.run("cat /srv/*.log 2>/dev/null; true").stdout
    shutil.copyfile(old.machine.path(told["file"]), tmp_path / "export.tar.zst")

    server = Server(new_machine(), mysql)
    server.put(tmp_path / "export.tar.zst", "old.tar.zst", mode=0o600)
    server.install("--restore", "old.tar.zst")
    assert {each["level"] for each in server.report()["compared"]} == {"ok"}
    rows = asked(old, HASH)
    assert asked_here(server, HASH) == rows
    assert server.env()["DB_PASSWORD"] not in ("", "difyai123456", "their-password")

    writing = server.machine.start(["podman", "exec", server.container("db_mysql"), "sh", "-c", WRITER])
    made = printed(server, "backup", "/root")
    server.run("podman", "exec", server.container("db_mysql"), "touch", "/tmp/stop")
    writing.wait(10)
    there = next(part["counts"] for part in made["parts"] if part["name"] == "database/dify")
    asked_here(server, "DELETE FROM messages; DROP TABLE messages, apps;")
    restored = printed(server, "restore", made["file"])
    assert {each["level"] for each in restored["compared"]} == {"ok"}
    assert asked_here(server, HASH) == rows
    assert int(asked_here(server, "SELECT COUNT(*) FROM written")) == there["written"]
    # The limit that let the large row in is the server's own again.
    assert int(asked_here(server, "SELECT @@GLOBAL.max_allowed_packet")) < 1024**3
    assert server.run("grep", "-rqF", server.env()["DB_PASSWORD"], f"{server.folder}/logs").returncode == 1
