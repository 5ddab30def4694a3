"""A company's own PostgreSQL, Redis and S3, real ones of this host, with TLS and an authority of their own."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from installer.release import storage
from installer.services import s3
from tests.target import machine
from tests.target.images import NO_CLUSTER

START_SECONDS = 30.0
S3_SERVER = Path(__file__).parent / "s3_server.py"
# Who may not be root: neither server runs as root.
NOBODY = "nobody"
DEBIAN = Path("/usr/lib/postgresql")
# A Debian of its own, whose PostgreSQL has pgvector: that of the host may have none.
OF_A_ROOT, ROOT_PACKAGES = DEBIAN / "17/bin", "postgresql-17,postgresql-17-pgvector"
POSTGRESQL_CONF = """\
listen_addresses = '{address}'
port = {port}
unix_socket_directories = '{folder}'
fsync = off
max_connections = 100
ssl = {ssl}
ssl_cert_file = '{folder}/server.crt'
ssl_key_file = '{folder}/server.key'
"""
REDIS_CONF = """\
bind {address}
port {plain}
tls-port {tls}
tls-cert-file {folder}/server.crt
tls-key-file {folder}/server.key
tls-ca-cert-file {folder}/ca.crt
tls-auth-clients no
dir {folder}
save ""
user default on >{password} ~* &* +@all
{users}
"""
ADMIN, PASSWORD = "admin", "pass/word+of:the@admin"


class Authority:
    """An authority that signs the certificates of servers."""

    def __init__(self, name: str = "company") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key.public_key(), (), ends=1, authority=True)

    def sign(self, *names: str, ends: int = 1) -> tuple[bytes, bytes]:
        """Return a certificate for names and addresses, which ends in so many days, and its key; both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        made = self._sign(subject, key.public_key(), names, ends=ends, authority=False)
        pem, pkcs8, bare = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return made, key.private_bytes(pem, pkcs8, bare)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, names: Sequence[str], *, ends: int, authority: bool
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if authority:
            usage = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
            )
            made = made.add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                    **usage,
                ),
                critical=True,
            )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class _Server:
    """A program with a folder of its own, which goes with it; `enter` is what runs it where it can be reached."""

    def __init__(self, address: str, port: int | None, enter: Sequence[str], root: Path | None = None) -> None:
        self.address, self.port, self.enter, self.root = address, port or free_port(), list(enter), root
        self.folder = Path(tempfile.mkdtemp(prefix="dify-server-", dir=root / "srv" if root else None))
        self.authority = Authority()
        self.present(*self.authority.sign(address, "db.intranet"))
        (self.folder / "ca.crt").write_bytes(self.authority.certificate)

    def present(self, certificate: bytes, key: bytes) -> None:
        """Have it show another certificate, from its next start on."""
        for name, content in (("server.crt", certificate), ("server.key", key)):
            path = self.folder / name
            path.write_bytes(content)
            path.chmod(0o600)
            self._give(path)

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam(NOBODY)
            os.chown(path, user.pw_uid, user.pw_gid)

    def as_nobody(self, command: Sequence[str]) -> list[str]:
        """Return a command line that runs as somebody who is not root."""
        if os.geteuid() != 0:
            return list(command)
        user = pwd.getpwnam(NOBODY)
        if self.root is not None:
            return ["chroot", f"--userspec={user.pw_uid}:{user.pw_gid}", "--groups=", str(self.root), *command]
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]

    @property
    def inside(self) -> Path:
        """Return the folder as the program sees it, which may have a root of its own."""
        return Path("/") / self.folder.relative_to(self.root) if self.root else self.folder

    def launch(self, command: Sequence[str]) -> None:
        """Start the program; it dies with us."""
        self._give(self.folder)
        with (self.folder / "log").open("ab") as log:
            line = [*self.enter, *machine.DIES_WITH_US, *self.as_nobody(command)]
            self._process = subprocess.Popen(line, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError((self.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def answers(self) -> bool:
        """Tell whether it does."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the program."""
        self._process.terminate()
        self._process.wait(30)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(_Server):
    """A cluster of PostgreSQL; `user` is the owner of the databases of its name and NAME_plugin."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int | None = None,
        enter: Sequence[str] = (),
        *,
        ssl: bool = True,
        root: Path | None = None,
    ) -> None:
        super().__init__(address, port, enter, root)
        self.ssl = ssl
        self.programs = find_postgres() if root is None else OF_A_ROOT

    def __enter__(self) -> Postgres:
        data = self.inside / "data"
        self._give(self.folder)
        (self.folder / "password").write_text(PASSWORD)
        self._give(self.folder / "password")
        made = [str(self.programs / "initdb"), "--pgdata", str(data), "--username", ADMIN, "--encoding=UTF8"]
        made += ["--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]
        made += [f"--pwfile={self.inside / 'password'}"]
        subprocess.run(self.as_nobody(made), check=True, capture_output=True, cwd=self.folder)
        self.let_in("host all all all scram-sha-256")
        self.start()
        return self

    def let_in(self, *lines: str) -> None:
        """Let in whom these lines of pg_hba.conf let in, from the next start on."""
        (self.folder / "data/pg_hba.conf").write_text("\n".join(("local all all trust", *lines)) + "\n")

    def start(self) -> None:
        """Start it with what is so now."""
        settings = POSTGRESQL_CONF.format(
            address=self.address, port=self.port, folder=self.inside, ssl="on" if self.ssl else "off"
        )
        (self.folder / "data/postgresql.conf").write_text(settings)
        self.launch([str(self.programs / "postgres"), "-D", str(self.inside / "data")])

    def restart(self) -> None:
        """End it and start it with what is so now."""
        self.stop()
        self.start()

    def answers(self) -> bool:
        """Tell whether it takes a question."""
        return self._psql("SELECT 1", "postgres").returncode == 0

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run SQL as its administrator, a statement at a time; return the rows' text."""
        result = self._psql(text, database)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def _psql(self, text: str, database: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.programs / "psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        command += ["--set=ON_ERROR_STOP=1", f"--host={self.inside}", f"--port={self.port}", f"--username={ADMIN}"]
        command.append(f"--dbname={database}")
        command = command if self.root is None else self.as_nobody(command)
        return subprocess.run(command, input=text, capture_output=True, text=True)

    def dump(self, *names: str) -> dict[str, str]:
        """Return copies of databases, as an administrator makes them."""
        return {name: self._run("pg_dump", name, "--clean", "--if-exists") for name in names}

    def restore(self, copies: Mapping[str, str]) -> None:
        """Bring databases back to what their copies are."""
        for name, text in copies.items():
            self.sql(text, name)

    def _run(self, program: str, database: str, *options: str) -> str:
        command = [str(self.programs / program), f"--host={self.inside}", f"--port={self.port}", f"--username={ADMIN}"]
        command += [*options, f"--dbname={database}"]
        command = command if self.root is None else self.as_nobody(command)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def give(self, user: str, password: str, *names: str) -> None:
        """Make a user with no right but his own databases, as an administrator does."""
        self.sql(f"CREATE ROLE {user} LOGIN PASSWORD '{password}';")
        for name in names:
            self.sql(f"CREATE DATABASE {name} OWNER {user} TEMPLATE template0 ENCODING 'UTF8';")


class Redis(_Server):
    """A Redis; with `tls` it speaks nothing else. Its default user has the administrator's password."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int | None = None,
        enter: Sequence[str] = (),
        *,
        tls: bool = True,
        users: str = "",
        more: str = "",
    ) -> None:
        super().__init__(address, port, enter)
        self.tls, self.users, self.more = tls, users, more

    def __enter__(self) -> Redis:
        ports = {"plain": 0 if self.tls else self.port, "tls": self.port if self.tls else 0}
        text = REDIS_CONF.format(address=self.address, folder=self.folder, password=PASSWORD, users=self.users, **ports)
        (self.folder / "redis.conf").write_text(f"unixsocket {self.folder}/socket\n{text}{self.more}")
        self.launch(["redis-server", str(self.folder / "redis.conf")])
        return self

    def answers(self) -> bool:
        """Tell whether it takes a question."""
        return self.ask("PING").strip() == "PONG"

    def ask(self, *words: str) -> str:
        """Ask as its administrator; return the answer's text."""
        command = ["redis-cli", "-s", str(self.folder / "socket"), "--no-auth-warning", *words]
        environment = {**os.environ, "REDISCLI_AUTH": PASSWORD}
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def root_with_pgvector(work: Path) -> Path:
    """Return the folder of a Debian with PostgreSQL and pgvector, made once. Needs root and mmdebstrap."""
    root = work / "root-pgvector"
    if not root.is_dir():
        partial = work / "root-pgvector.partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", *machine.LEAN, f"--include={ROOT_PACKAGES}"]
        command += [f"--essential-hook={NO_CLUSTER}", "trixie", str(partial), *machine.mirrors()]
        subprocess.run(command, check=True, capture_output=True)
        # PostgreSQL, which is not root, has its shared memory there.
        (partial / "dev/shm").mkdir(parents=True, exist_ok=True)
        (partial / "dev/shm").chmod(0o1777)
        partial.rename(root)
    return root


class Sentinel(_Server):
    """A sentinel that watches one Redis as a service of this name, alone; it speaks without TLS."""

    def __init__(
        self, service: str, watched: Redis, port: int | None = None, enter: Sequence[str] = (), *, password: str = ""
    ) -> None:
        super().__init__(watched.address, port, enter)
        self.service, self.watched, self.password = service, watched, password

    def __enter__(self) -> Sentinel:
        lines = [f"bind {self.address}", f"port {self.port}", "protected-mode no", f"dir {self.folder}"]
        lines += [f"sentinel monitor {self.service} {self.watched.address} {self.watched.port} 1"]
        lines += [f"sentinel auth-pass {self.service} {PASSWORD}"]
        lines += [f"requirepass {self.password}"] if self.password else []
        configuration = self.folder / "sentinel.conf"
        configuration.write_text("\n".join(lines) + "\n")
        # It writes what it finds out into that file.
        self._give(configuration)
        self.launch(["redis-server", str(configuration), "--sentinel"])
        return self

    def answers(self) -> bool:
        """Tell whether it takes a question."""
        return self.ask("PING").strip() == "PONG"

    def ask(self, *words: str) -> str:
        """Ask it; return the answer's text, an item a line."""
        command = [*self.enter, "redis-cli", "-h", self.address, "-p", str(self.port), "--no-auth-warning", *words]
        environment = {**os.environ, "REDISCLI_AUTH": self.password} if self.password else None
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def find_postgres() -> Path:
    """Return the folder of PostgreSQL's programs, Debian's newest or those on the path. Raises LookupError."""
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    if not found and on_path is None:
        raise LookupError("PostgreSQL is not installed: tests/target/packages.sh installs it")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


class Qdrant(_Server):
    """A Qdrant with TLS, whose key is `secret`; `program` is one that was compiled, or comes from its makers."""

    def __init__(self, program: Path, secret: str, address: str, port: int, enter: Sequence[str] = ()) -> None:
        super().__init__(address, port, enter)
        self.program, self.secret = program.resolve(), secret

    def __enter__(self) -> Qdrant:
        service = {
            "host": self.address,
            "http_port": self.port,
            "grpc_port": None,
            "api_key": self.secret,
            "enable_tls": True,
        }
        files = {"cert": f"{self.folder}/server.crt", "key": f"{self.folder}/server.key"}
        storage_at = {"storage_path": f"{self.folder}/storage", "snapshots_path": f"{self.folder}/snapshots"}
        written = {"service": service, "tls": files, "storage": storage_at, "telemetry_disabled": True}
        (self.folder / "config.yaml").write_text(json.dumps(written))
        self.launch([str(self.program), "--config-path", str(self.folder / "config.yaml")])
        return self

    def answers(self) -> bool:
        """Tell whether it takes a question."""
        return self._ask().returncode == 0

    def collections(self) -> list[str]:
        """Return the names of its collections."""
        return [each["name"] for each in json.loads(self._ask().stdout)["result"]["collections"]]

    def _ask(self) -> subprocess.CompletedProcess[str]:
        url = f"https://{self.address}:{self.port}/collections"
        command = ["curl", "--silent", "--fail", "--cacert", str(self.folder / "ca.crt"), "--config", "-", url]
        login = f'header = "api-key: {self.secret}"'
        return subprocess.run([*self.enter, *command], input=login, capture_output=True, text=True)


class Bucket(_Server):
    """An S3 server (OpenStack Swift) with a bucket: KEY may write into it, READER read it, STRANGER nothing."""

    KEY, READER, STRANGER = "company:dify", "company:reader", "company:stranger"
    NAME, REGION = "dify", "us-east-1"

    def __init__(
        self, address: str = "127.0.0.1", port: int | None = None, enter: Sequence[str] = (), *, tls: bool = True
    ) -> None:
        super().__init__(address, port, enter)
        self.tls = tls

    def __enter__(self) -> Bucket:
        groups = {self.KEY: ".admin", self.READER: ".reseller_reader", self.STRANGER: ""}
        users = (f"user_{user.replace(':', '_')} = {PASSWORD} {group}\n" for user, group in groups.items())
        (self.folder / "users").write_text("".join(users))
        self.start()
        for name in (self.NAME, "others"):
            self.ask("PUT", name)
        return self

    def start(self) -> None:
        """Start it with what it holds."""
        command = ["/usr/bin/python3", "-P", str(S3_SERVER), str(self.folder), self.address, str(self.port)]
        self.launch([*command, *(["tls"] if self.tls else [])])

    def answers(self) -> bool:
        """Tell whether it takes a question."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "")[0] == 200
        return False

    def keys(self) -> list[str]:
        """Return the names of all that is in the bucket."""
        return re.findall("<Key>([^<]*)</Key>", self.ask("GET", self.NAME)[1].decode())

    def put(self, key: str, content: bytes = b"of a Dify") -> None:
        """Write an object."""
        assert self.ask("PUT", f"{self.NAME}/{key}", content)[0] == 200

    def remove(self, key: str) -> None:
        """Remove an object."""
        assert self.ask("DELETE", f"{self.NAME}/{key}")[0] == 204

    def ask(
        self,
        method: str,
        path: str,
        content: bytes = b"",
    ) -> tuple[int, bytes]:
        """Ask as its administrator, by a socket: another network can be where it listens."""
        with contextlib.closing(_BySocket(self.folder / "socket")) as connection:
            now = datetime.datetime.now(datetime.UTC)
            headers = s3.sign(self.wanted(), now, method, f"/{path}", {}, content)
            connection.request(method, f"/{path}", body=content, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def wanted(self, **fields: object) -> storage.Storage:
        """Return what Dify is told of it."""
        told = {"host": self.address, "port": self.port, "tls": self.tls, "key": self.KEY, "secret": PASSWORD}
        return storage.Storage(**{**told, "bucket": self.NAME, "region": self.REGION, **fields})  # type: ignore[arg-type]


class _BySocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))
