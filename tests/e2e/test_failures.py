"""What goes wrong in the middle: interruptions, wrong settings, a missing Python, model servers that fail."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.release import masks
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.bundle import Bundle

# podman's temporary files, on the disk or in memory.
SPOOLED = "ls -d /opt/dify/.dify-installer-spool /dev/shm/dify-installer-* 2>/dev/null | grep -q ."
# A run holds its lock; a killed one leaves the file alone.
LOCKED = 'grep -q "FLOCK.*:$(stat -c %i /run/dify-installer/*.lock) " /proc/locks'
LEFT = "ls -d /opt/dify/.dify-installer-spool /dev/shm/dify-installer-* 2>/dev/null"
# What a killed run cannot take away: its temporary files, and what its bootloader has unpacked but for our own.
ABANDONED = "find /opt/dify /etc/systemd /etc/containers -name '*.dify-installer-tmp'; ls -d /tmp/_MEI*"
# A company's authority, and a model server's certificate by it.
COMPANY_CA = """
set -e
usage=keyUsage=critical,keyCertSign
openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=company -addext $usage -keyout ca.key -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=llm -keyout server.key -out server.csr
printf 'subjectAltName=IP:10.0.0.5,IP:10.0.0.9' > names
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -extfile names -out server.crt
cat server.crt server.key > server.pem
"""
LLM = Path(machines.__file__).with_name("llm.py")
# No container is left, and no database either: one whose first start was cut off is half a database for ever, since
# postgres' own entrypoint (upstream's image, our stand-in) makes none where PG_VERSION is.
NO_STACK = """
podman rm --force --all --time 0 >/dev/null
rm -rf /opt/dify/docker/volumes/db
! podman ps --all --quiet | grep -q .
"""


def await_text(server: Server, command: str, seconds: float = 60) -> None:
    """Wait until a shell condition holds on the machine."""
    deadline = time.monotonic() + seconds
    while server.run("sh", "-c", command).returncode != 0:
        assert time.monotonic() < deadline, command
        time.sleep(0.05)


@pytest.fixture(scope="class")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Server]:
    """A server with a bundle and nothing else, one for each class below."""
    with Server(lasting_machine(), sample) as made:
        yield made


class TestInterrupted:
    """One machine, interrupted again and again; the same command ends every time where it should."""

    @pytest.mark.feature("SIGHUP, SIGINT, SIGTERM, SIGKILL at any step", "the same command goes on from there")
    @pytest.mark.parametrize(
        ("name", "moment", "status"),
        [
            ("KILL", SPOOLED, None),
            ("INT", f"{SPOOLED} && podman images -q | grep -q .", 130),
            ("TERM", "podman ps -q --filter label=com.docker.compose.project=dify | grep -q .", 143),
            ("HUP", "podman ps -q --filter label=com.docker.compose.service=db_postgres | grep -q .", 129),
        ],
    )
    def test_by_a_signal(self, server: Server, name: str, moment: str, status: int | None) -> None:
        # What a killed run has started goes on for a while, and its spool is there until the next run loads.
        await_text(server, "! pgrep --exact podman")
        server.run("sh", "-c", "rm -rf /opt/dify/.dify-installer-spool /dev/shm/dify-installer-*")
        await_text(server, NO_STACK)
        if name in ("KILL", "INT"):
            server.run("sh", "-c", "podman rmi --force --all")
        run = server.start()
        await_text(server, moment)
        if name == "KILL":
            # No handler sees this one, neither the bootloader's nor ours.
            server.run("pkill", "-KILL", "--full", "dify-installer --ip")
            run.wait(30)
        else:
            server.machine.signal(name, "dify-installer --ip")
            output = run.communicate(timeout=60)[0]
            assert run.returncode == status, output
            assert "run the same command again" in output
            assert server.run("sh", "-c", LEFT).stdout == ""
            assert server.run("pgrep", "--full", "podman pull").returncode == 1

    def test_a_second_run_at_the_same_time_stops(self, server: Server) -> None:
        await_text(server, NO_STACK)
        first = server.start()
        await_text(server, LOCKED)
        second = server.installer(*server.arguments())
        assert second.returncode == 7
        assert "another run is active for /opt/dify (process" in second.stderr
        output = first.communicate(timeout=120)[0]
        assert first.returncode == 0, output

    def test_the_next_run_finishes(self, server: Server) -> None:
        secrets = masks.secret_values(server.env())
        server.install()
        assert masks.secret_values(server.env()) == secrets
        assert server.installer("status").returncode == 0
        assert server.run("sh", "-c", LEFT).stdout == ""
        assert server.run("sh", "-c", ABANDONED).stdout == ""


class TestSettings:
    def test_first_an_installation(self, server: Server) -> None:
        assert server.install("--silent").stdout == ""

    def edit(self, server: Server, key: str, value: str) -> None:
        server.run("sed", "-i", f"s|^{key}=.*|{key}={value}|", "/opt/dify/docker/.env")

    def test_values_that_contradict_each_other_are_named(self, server: Server) -> None:
        right = server.env()["REDIS_PASSWORD"]
        self.edit(server, "REDIS_PASSWORD", "another-password")
        result = server.installer(*server.arguments())
        self.edit(server, "REDIS_PASSWORD", right)
        assert result.returncode == 2
        assert "CELERY_BROKER_URL" in result.stderr
        assert right not in result.stderr

    def test_a_wrong_value_is_an_unhealthy_stack_with_the_reason(self, server: Server) -> None:
        right = server.env()["DB_PASSWORD"]
        self.edit(server, "DB_PASSWORD", "not-the-password-of-these-data")
        result = server.installer(*server.arguments(), "--timeout", "60")
        self.edit(server, "DB_PASSWORD", right)
        assert result.returncode == 6, result.stderr
        assert "password authentication failed" in result.stderr
        # The plugin daemon ends for it; the api goes on without its tables, as upstream does.
        assert "the last lines of dify_plugin_daemon_1" in result.stderr
        assert "not-the-password-of-these-data" not in result.stderr
        server.install()

    def test_a_lost_env_does_not_lock_anybody_out(self, server: Server) -> None:
        server.run("mv", "/opt/dify/docker/.env", "/root/kept.env")
        result = server.installer(*server.arguments())
        assert result.returncode == 4
        assert "put its .env back" in result.stderr
        server.run("mv", "/root/kept.env", "/opt/dify/docker/.env")
        server.install()

    def test_a_cut_env_is_refused_and_its_copy_brings_everything_back(self, server: Server) -> None:
        server.install("--set", "LOG_LEVEL=WARNING")
        secrets = masks.secret_values(server.env())
        server.run("sh", "-c", "cd /opt/dify/docker && head -c 700 .env > half && cat half > .env && rm half")
        result = server.installer(*server.arguments())
        assert result.returncode == 4, result.stderr
        assert "has lost CODE_EXECUTION_API_KEY" in result.stderr
        copies = re.findall(r"cp -p \S+ /opt/dify/docker/\.env\b", result.stderr)
        assert len(copies) == 1, result.stderr
        server.run("sh", "-c", copies[0])
        server.install()
        assert masks.secret_values(server.env()) == secrets

    def test_an_env_that_is_not_text_is_told_by_every_command(self, server: Server) -> None:
        server.run("sh", "-c", "cd /opt/dify/docker && cp -p .env /root/kept.env && printf '\\377' >> .env")
        for command in ([*server.arguments()], ["status"], ["stop"], ["start"], ["preflight", *server.arguments()]):
            result = server.installer(*command)
            assert result.returncode == 2, (command, result.stderr)
            assert "is not UTF-8 text" in result.stdout + result.stderr, command
            assert "cp -p /opt/dify/docker/.env.before" in result.stdout + result.stderr, command
        server.run("cp", "-p", "/root/kept.env", "/opt/dify/docker/.env")
        assert server.installer("status").returncode == 0

    def test_containers_get_what_set_says_to_the_letter(self, server: Server) -> None:
        asked = {
            "LOG_LEVEL": "a\\",
            "APP_WEB_URL": "${X",
            "INTERNAL_FILES_URL": " p$a 'b' \"c\" $$ #d",
            "REDIS_PASSWORD": "p@ss/w#r:d",
        }
        server.install(*(part for key, value in asked.items() for part in ("--set", f"{key}={value}")))
        for key, value in {**asked, "CELERY_BROKER_URL": "redis://:p%40ss%2Fw%23r%3Ad@redis:6379/1"}.items():
            shown = server.run("podman", "exec", server.container("api"), "printenv", key).stdout
            assert shown.removesuffix("\n") == value, key
        assert "p@ss/w#r:d" not in server.run("sh", "-c", "cat /opt/dify/logs/*.log").stdout
        refused = server.installer(*server.arguments(), "--set", "LOG_LEVEL=p${HOME}q")
        assert refused.returncode == 2
        assert server.env()["LOG_LEVEL"] == "a\\"

    def test_another_address_reaches_every_url(self, server: Server) -> None:
        before = masks.secret_values(server.env())
        result = server.installer("--host", "dify.example", "--port", "8088")
        assert result.returncode == 0, result.stderr
        env = server.env()
        assert env["CONSOLE_WEB_URL"] == env["FILES_URL"] == "http://dify.example:8088"
        assert masks.secret_values(env) == before
        assert server.run("curl", "-s", "http://10.0.0.5:8088/console/api/setup").stdout.startswith("{")
        server.install("--port", "80")

    def test_silent_prints_nothing(self, server: Server) -> None:
        result = server.install("--silent")
        assert result.stdout + result.stderr == ""

    def test_answers_come_from_the_environment_and_a_file(self, server: Server) -> None:
        server.run("sh", "-c", "printf 'ip: 10.0.0.5\\nsilent: true\\nset:\\n  LOG_LEVEL: ERROR\\n' > answers.yaml")
        result = server.installer("--config", "answers.yaml")
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert server.env()["LOG_LEVEL"] == "ERROR"
        variables = {"DIFY_INSTALLER_CONFIG": "answers.yaml", "DIFY_INSTALLER_SET": "LOG_LEVEL=INFO"}
        assert server.installer(env=variables).returncode == 0
        assert server.env()["LOG_LEVEL"] == "INFO"

    @pytest.mark.feature("model servers behind a company's CA", "works with `--ca-bundle FILE`")
    def test_model_servers_are_asked_from_both_sides(self, server: Server) -> None:
        server.put(LLM, "llm.py")
        server.run("sh", "-c", COMPANY_CA)
        servers = [
            server.machine.start(["python3", "llm.py", "ollama", "11434"]),
            server.machine.start(["python3", "llm.py", "vllm", "8000", "the-api-key"]),
            server.machine.start(["python3", "llm.py", "ollama", "11435", "", "--local"]),
            server.machine.start(["python3", "llm.py", "vllm", "8443", "", "--tls", "server.pem"]),
        ]
        await_text(server, "for port in 11434 8000 11435 8443; do ss -Hltn | grep -q :$port || exit 1; done")
        try:
            self.ask_model_servers(server)
        finally:
            server.machine.run("pkill --full llm.py", check=False)
            for each in servers:
                each.wait(10)

    def ask_model_servers(self, server: Server) -> None:
        good = server.install("--ollama-url", "http://10.0.0.5:11434", "--model", "llama3", "--require-llm")
        assert "ok   Ollama from this host" in good.stderr
        assert "ok   Ollama from dify_plugin_daemon_1" in good.stderr
        assert "llama3:latest" in good.stderr
        missing = server.installer(
            *server.arguments(), "--ollama-url", "http://10.0.0.5:11434", "--model", "no-such", "--require-llm"
        )
        assert missing.returncode == 8
        assert "does not have the model no-such" in missing.stderr
        vllm = ["--vllm-url", "http://10.0.0.5:8000/v1"]
        assert "status 401" in server.install(*vllm).stderr
        keyed = server.installer(*server.arguments(), *vllm, env={"DIFY_INSTALLER_API_KEY": "the-api-key"})
        assert "ok   vLLM from dify_plugin_daemon_1" in keyed.stderr
        assert "the-api-key" not in server.run("sh", "-c", "cat /opt/dify/logs/*.log").stdout + keyed.stderr
        local = server.install("--ollama-url", "http://127.0.0.1:11435").stderr
        assert "ok   Ollama from this host" in local
        assert "WARN Ollama from dify_plugin_daemon_1" in local
        assert "localhost is the container" in local
        assert "cannot be resolved" in server.install("--ollama-url", "http://no-such-host:1").stderr
        secure = ["--vllm-url", "https://10.0.0.5:8443", "--require-llm"]
        refused = server.installer(*server.arguments(), *secure)
        assert refused.returncode == 8
        assert "name the company's authorities with --ca-bundle" in refused.stderr
        trusted = server.install(*secure, "--ca-bundle", "ca.pem").stderr
        assert "ok   vLLM from this host" in trusted
        assert "ok   vLLM from dify_plugin_daemon_1" in trusted
        # Later runs need not be told again, and what is there already is not made anew.
        again = server.install(*secure).stderr
        assert "ok   vLLM from dify_plugin_daemon_1" in again
        assert "run already" in again
        assert server.installer(*server.arguments(), "--ca-bundle", "llm.py").returncode == 2
