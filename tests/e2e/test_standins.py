"""The stand-ins of Dify's console, of the plugin daemon and of model servers answer as the real ones do."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.conftest import MachineMaker
from tests.e2e.console import EMAIL, PASSWORD, PLUGINS, PROVIDERS, Console, said
from tests.e2e.server import Server
from tests.e2e.test_failures import COMPANY_CA, LLM
from tests.target import difypkg
from tests.target.bundle import Bundle
from tests.target.machine import ADDRESS
from tests.target.neighbour import NEIGHBOUR, Neighbour

OLLAMA, OPENAI = f"{PROVIDERS}/ollama/ollama", f"{PROVIDERS}/openai_api_compatible/openai_api_compatible"
KEY = "the-api-key-1234"
# Short, for what a plugin that ends in the middle makes everybody wait for.
LONGEST_QUESTION = 8


class Models:
    """Model servers on a host next door: `llm.py` with some options, by port."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.neighbour = Neighbour(server.machine)
        server.put(LLM, "llm.py")

    def start(self, kind: str, port: int, *options: str) -> str:
        """Start one and return its address."""
        home = self.server.home
        command = shlex.join(["python3", f"{home}/llm.py", kind, str(port), *options])
        self.neighbour.start(f"sh -c {shlex.quote(f'cd {home} && exec {command}')}", f"/root/llm-{port}.log")
        self.neighbour.await_listening(port)
        return f"{'https' if '--tls' in options else 'http'}://{NEIGHBOUR}:{port}"

    def stop(self, port: int) -> None:
        self.server.machine.run(f"pkill --full 'llm.py [a-z]* {port}'")


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, provided: Bundle) -> Server:
    """A server with a Dify that has brought the two providers' packages."""
    made = Server(lasting_machine(), provided)
    made.install("--set", f"PLUGIN_MAX_EXECUTION_TIMEOUT={LONGEST_QUESTION}")
    return made


@pytest.fixture(scope="module")
def console(server: Server) -> Console:
    return Console(server.machine, server.url)


@pytest.fixture(scope="module")
def models(server: Server) -> Iterator[Models]:
    made = Models(server)
    yield made
    server.machine.run("pkill --full llm.py", check=False)


def package(server: Server, name: str) -> bytes:
    """Return a package as the bundle has laid it down, signed by the owner at the build."""
    folder = server.machine.path(f"{server.folder}/docker/plugins/packages")
    return next(folder.glob(f"langgenius-{name}_*.difypkg")).read_bytes()


def ollama(url: str, **more: str) -> dict[str, str]:
    return {"base_url": url, "mode": "chat", "context_size": "4096", "max_tokens": "4096", **more}


def openai(url: str, **more: str) -> dict[str, str]:
    return {"endpoint_url": f"{url}/v1", "mode": "chat", "context_size": "4096", **more}


class TestAccount:
    def test_nobody_gets_in_without_the_init_password(self, console: Console, server: Server) -> None:
        assert console.get("/init") == {"status": "not_started"}
        assert console.get("/setup") == {"step": "not_started"}
        account = {"email": EMAIL, "name": "Ops", "password": PASSWORD}
        assert console.post("/setup", account, 401)["code"] == "not_init_validated"
        assert console.post("/init", {"password": "wrong"}, 401)["code"] == "init_validate_failed"
        assert console.login(status=401)["code"] == "not_init_validated"
        console.post("/init", {"password": server.env()["INIT_PASSWORD"]}, 201)
        assert console.get("/init") == {"status": "finished"}

    def test_the_first_account_is_made_once(self, console: Console) -> None:
        account = {"email": EMAIL.upper(), "name": "Ops", "password": PASSWORD, "language": "ko-KR"}
        assert console.post("/setup", {**account, "password": "short1"}, 400)["code"] == "invalid_param"
        assert console.post("/setup", {**account, "name": "x" * 31}, 400)["code"] == "invalid_param"
        assert console.post("/setup", account, 201) == {"result": "success"}
        assert console.post("/setup", account, 403)["code"] == "already_setup"
        assert console.get("/setup")["step"] == "finished"

    def test_login_needs_the_password_and_every_call_the_token(self, console: Console) -> None:
        assert console.ask("GET", "/account/profile").status_code == 401
        assert console.login("another-one-2", 401)["code"] == "authentication_failed"
        console.login()
        profile = console.get("/account/profile")
        assert (profile["email"], profile["interface_language"]) == (EMAIL, "ko-KR")
        assert console.post("/workspaces/current", {})["role"] == "owner"
        without = console.ask("GET", "/account/profile", headers={"X-CSRF-Token": ""})
        assert (without.status_code, without.json()["code"]) == (401, "unauthorized")
        names = {cookie.name for cookie in console.inside.session.cookies}
        assert names >= {"access_token", "refresh_token", "csrf_token"}

    def test_a_refresh_token_is_good_once(self, console: Console) -> None:
        before = dict(console.inside.session.cookies)
        assert console.post("/refresh-token", {}) == {"result": "success"}
        assert console.get("/account/profile")["email"] == EMAIL
        after = console.inside.session.cookies
        assert after["refresh_token"] != before["refresh_token"]
        kept = after["refresh_token"]
        after.set("refresh_token", before["refresh_token"], domain=after.list_domains()[0], path="/")
        assert console.post("/refresh-token", {}, 401)["result"] == "fail"
        after.set("refresh_token", kept, domain=after.list_domains()[0], path="/")

    def test_more_than_five_wrong_tries_lock(self, server: Server) -> None:
        another = Console(server.machine, server.url)
        for _ in range(6):
            another.login("wrong-one-1", 401, email="nobody@example.com")
        locked = another.login("wrong-one-1", 429, email="nobody@example.com")
        assert locked["code"] == "email_code_login_limit"


class TestPlugins:
    def test_what_is_not_signed_or_damaged_is_refused(self, console: Console, owner: rsa.RSAPrivateKey) -> None:
        unsigned = console.upload(difypkg.pack(difypkg.contents(difypkg.OLLAMA)))
        assert unsigned.status_code == 400
        assert "bad signature" in unsigned.json()["message"]
        assert console.upload(b"no zip").status_code == 400
        good = difypkg.signed(difypkg.contents(difypkg.OLLAMA), owner)
        assert "bad signature" in console.upload(difypkg.added(good, "wheels/one.whl", b"")).json()["message"]
        assert console.upload(good[: len(good) // 2]).status_code == 400
        large = {**difypkg.contents(difypkg.OLLAMA), "big": bytes(52428801)}
        assert "too large" in console.upload(difypkg.pack(large)).json()["message"]

    def test_the_packages_of_the_bundle_are_installed(self, console: Console, server: Server) -> None:
        assert console.installed() == {}
        for name in (difypkg.OLLAMA, difypkg.OPENAI):
            assert console.install(package(server, name)) == ("success", "installed")
        found = console.installed()
        assert found["langgenius/ollama"]["version"] == "0.1.3"
        assert found["langgenius/ollama"]["source"] == "package"
        assert found["langgenius/ollama"]["declaration"]["verified"] is True
        assert console.install(package(server, difypkg.OLLAMA)) == ("success", "all installed")

    def test_a_package_that_cannot_be_installed_says_why(self, console: Console, owner: rsa.RSAPrivateKey) -> None:
        files = {
            name: data.replace(b"name: ollama", b"name: broken").replace(b"/ollama.", b"/broken.")
            for name, data in difypkg.contents(difypkg.OLLAMA).items()
        }
        for name in ("provider/ollama.yaml", "provider/ollama.py"):
            files[name.replace("ollama", "broken")] = files.pop(name)
        without = {name: data for name, data in files.items() if name != difypkg.REQUIREMENTS}
        unknown = {**files, difypkg.REQUIREMENTS: b"no-such-wheel==1.0\n"}
        crashing = {**files, "main.py": b"raise SystemExit('it has crashed')\n"}
        for number, (broken, words) in enumerate(
            [
                (without, "failed to find requirements.txt"),
                (unknown, "no-such-wheel"),
                (crashing, "it has crashed"),
            ]
        ):
            versioned = difypkg.versioned(broken, f"0.0.{number}")
            status, message = console.install(difypkg.signed(versioned, owner))
            assert status == "failed"
            assert words in message
        assert set(console.installed()) == {"langgenius/ollama", "langgenius/openai_api_compatible"}

    def test_another_version_needs_the_first_to_go(self, console: Console, owner: rsa.RSAPrivateKey) -> None:
        newer = difypkg.signed(difypkg.versioned(difypkg.contents(difypkg.OPENAI), "0.0.46"), owner)
        plugin = "langgenius/openai_api_compatible"
        # The daemon says that it is installed, and the workspace keeps the version that it had.
        assert console.install(newer) == ("success", "installed")
        assert console.installed()[plugin]["version"] == "0.0.45"
        asked = {"plugin_installation_id": console.installed()[plugin]["installation_id"]}
        assert console.post(f"{PLUGINS}/uninstall", asked) == {"success": True}
        assert plugin not in console.installed()
        assert console.install(newer)[0] == "success"
        assert console.installed()[plugin]["version"] == "0.0.46"


class TestModels:
    def test_credentials_are_tried_before_they_are_kept(self, console: Console, models: Models) -> None:
        url = models.start("ollama", 11434)
        asked = {"model": "llama3", "model_type": "llm", "credentials": ollama(url)}
        assert console.post(f"{OLLAMA}/models/credentials/validate", asked) == {"result": "success"}
        wrong = console.post(f"{OLLAMA}/models/credentials/validate", {**asked, "model": "no-such"})
        assert wrong["result"] == "error"
        assert "not found" in wrong["error"]
        refused = console.post(f"{OLLAMA}/models/credentials", {**asked, "model": "no-such"}, 400)
        assert refused["code"] == "invalid_param"
        lacking = {**asked, "credentials": {"mode": "chat"}}
        assert "base_url is required" in console.post(f"{OLLAMA}/models/credentials", lacking, 400)["message"]
        console.post(f"{OLLAMA}/models/credentials", asked, 201)
        vectors = {"model": "bge-m3:567m", "model_type": "text-embedding", "credentials": ollama(url)}
        console.post(f"{OLLAMA}/models/credentials", vectors, 201)

    def test_a_key_is_needed_and_never_shown(self, console: Console, models: Models) -> None:
        url = models.start("vllm", 8000, KEY, "--models", "qwen3-32b", "--context", "32768")
        asked = {"model": "qwen3-32b", "model_type": "llm", "credentials": openai(url, api_key="wrong")}
        assert "401" in console.post(f"{OPENAI}/models/credentials", asked, 400)["message"]
        asked["credentials"] = openai(url, api_key=KEY, context_size="32768")
        console.post(f"{OPENAI}/models/credentials", asked, 201)
        shown = console.get(f"{OPENAI}/models/credentials", model="qwen3-32b", model_type="llm")
        assert shown["credentials"]["endpoint_url"] == f"{url}/v1"
        assert KEY not in str(shown)
        assert shown["current_credential_name"] == "API KEY 1"

    def test_they_are_listed_by_kind_and_one_is_the_default(self, console: Console) -> None:
        listed = console.get("/workspaces/current/models/model-types/llm")["data"]
        assert {group["provider"]: [model["model"] for model in group["models"]] for group in listed} == {
            "langgenius/ollama/ollama": ["llama3"],
            "langgenius/openai_api_compatible/openai_api_compatible": ["qwen3-32b"],
        }
        providers = console.get("/workspaces/current/model-providers")["data"]
        assert {each["custom_configuration"]["status"] for each in providers} == {"active"}
        setting = {"model_type": "llm", "provider": "langgenius/ollama/ollama", "model": "llama3"}
        missing = {**setting, "model": "no-such"}
        wrong = console.post("/workspaces/current/default-model", {"model_settings": [missing]}, 400)
        assert wrong["message"] == "Model no-such does not exist."
        console.post("/workspaces/current/default-model", {"model_settings": [setting]})
        chosen = console.get("/workspaces/current/default-model", model_type="llm")["data"]
        assert (chosen["model"], chosen["provider"]["provider"]) == ("llama3", "langgenius/ollama/ollama")
        assert console.get("/workspaces/current/default-model", model_type="rerank") == {"data": None}

    def test_a_vllm_of_each_other_kind_serves_that_kind_alone(self, console: Console, models: Models) -> None:
        url = models.start("vllm", 8001, "--models", "bge-m3:embedding")
        wrong = {"model": "bge-m3", "model_type": "llm", "credentials": openai(url)}
        assert "does not support" in console.post(f"{OPENAI}/models/credentials", wrong, 400)["message"]
        right = {**wrong, "model_type": "text-embedding", "credentials": openai(url, max_chunks="8")}
        console.post(f"{OPENAI}/models/credentials", right, 201)
        url = models.start("vllm", 8002, "--models", "reranker:rerank")
        ranks = {"model": "reranker", "model_type": "rerank", "credentials": openai(url)}
        console.post(f"{OPENAI}/models/credentials", ranks, 201)

    def test_a_real_model_finds_what_is_meant(self, console: Console, models: Models, embedder: Path) -> None:
        folder = "/root/embedder"
        shutil.copytree(embedder, models.server.machine.path(folder))
        url = models.start("ollama", 11436, "--models", "all-minilm:embedding", "--embedder", folder)

        def embed(*texts: str) -> list[list[float]]:
            answer = console.inside.request("POST", f"{url}/api/embed", json={"model": "all-minilm", "input": texts})
            return list(answer.json()["embeddings"])

        asked, meant, other = embed(
            "How do I reset my password?",
            "Forgotten credentials are renewed by an administrator.",
            "The canteen serves lunch from noon to two.",
        )
        assert near(asked, meant) > 0.4
        assert near(asked, other) < 0.2
        kept = {"model": "all-minilm", "model_type": "text-embedding", "credentials": ollama(url)}
        console.post(f"{OLLAMA}/models/credentials", kept, 201)


def near(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


class TestAnswers:
    @pytest.mark.parametrize(
        ("provider", "model"),
        [("ollama/ollama", "llama3"), ("openai_api_compatible/openai_api_compatible", "qwen3-32b")],
    )
    def test_an_app_asks_the_model_and_its_answer_streams(self, console: Console, provider: str, model: str) -> None:
        app = console.example(f"langgenius/{provider}", model)
        text, last = said(console.chat(app, "무엇을 할 수 있나요?"))
        assert text == "You asked: 무엇을 할 수 있나요?"
        assert last["event"] == "message_end"
        assert last["metadata"]["usage"]["completion_tokens"] > 0
        assert console.ask("DELETE", f"/apps/{app}").status_code == 204
        assert console.ask("GET", f"/apps/{app}").status_code == 404

    def test_an_app_s_key_asks_from_outside(self, console: Console, server: Server) -> None:
        app = console.example("langgenius/ollama/ollama", "llama3")
        key = console.post(f"/apps/{app}/api-keys", {}, 201)["token"]
        body = {"inputs": {}, "query": "hello", "response_mode": "blocking", "user": "test"}

        def ask(token: str) -> tuple[int, dict[str, str]]:
            headers = {"Authorization": f"Bearer {token}"}
            answer = console.inside.request("POST", f"{server.url}/v1/chat-messages", json=body, headers=headers)
            return answer.status_code, answer.json()

        status, answered = ask(key)
        assert (status, answered["answer"]) == (200, "You asked: hello")
        assert ask("app-wrong")[0] == 401
        console.ask("DELETE", f"/apps/{app}")
        assert ask(key)[0] == 401

    def test_words_come_one_after_the_other(self, console: Console, models: Models) -> None:
        url = models.start("ollama", 11435, "--slow", "0.3")
        asked = {"model": "llama3:latest", "model_type": "llm", "credentials": ollama(url)}
        console.post(f"{OLLAMA}/models/credentials", asked, 201)
        app = console.example("langgenius/ollama/ollama", "llama3:latest")
        times = [time.monotonic() for event in console.chat(app, "one two") if event["event"] == "message"]
        assert len(times) == 4
        assert times[-1] - times[0] > 0.6

    def test_each_fault_of_a_model_server_is_told(self, console: Console, models: Models) -> None:
        url = models.start("vllm", 8100, "--context", "64")
        for name, credentials in (
            ("gone", openai(url, endpoint_model_name="qwen3-32b")),
            ("small", openai(url, endpoint_model_name="qwen3-32b")),
        ):
            asked = {"model": name, "model_type": "llm", "credentials": credentials}
            console.post(f"{OPENAI}/models/credentials", asked, 201)
        provider = "langgenius/openai_api_compatible/openai_api_compatible"
        _, small = said(console.chat(console.example(provider, "small"), "word " * 100))
        assert (small["event"], small["code"]) == ("error", "completion_request_error")
        assert "maximum context length" in small["message"]
        models.stop(8100)
        _, gone = said(console.chat(console.example(provider, "gone"), "hello"))
        assert "Connection Error" in gone["message"]
        models.start("vllm", 8100, "--break-after", "2")
        text, broken = said(console.chat(console.example(provider, "gone"), "hello"))
        assert (text, broken["event"]) == ("You asked:", "error")
        models.stop(8100)
        models.start("vllm", 8100, KEY)
        _, refused = said(console.chat(console.example(provider, "gone"), "hello"))
        assert refused["message"] == "Incorrect API key provided"

    def test_a_company_s_certificate_is_not_trusted_by_itself(
        self, console: Console, server: Server, models: Models
    ) -> None:
        server.run("sh", "-c", COMPANY_CA)
        url = models.start("vllm", 8443, "--tls", "server.pem")
        asked = {"model": "secure", "model_type": "llm"}
        asked["credentials"] = openai(url, endpoint_model_name="qwen3-32b")  # type: ignore[assignment]
        assert "CERTIFICATE_VERIFY_FAILED" in console.post(f"{OPENAI}/models/credentials", asked, 400)["message"]
        server.install("--ca-bundle", "ca.pem")
        await_plugins(console)
        console.post(f"{OPENAI}/models/credentials", asked, 201)


class TestDaemon:
    def test_a_plugin_that_ends_in_the_middle_keeps_people_waiting(self, console: Console, server: Server) -> None:
        await_plugins(console)
        app = console.example("langgenius/ollama/ollama", "llama3:latest")
        stream = console.chat(app, "one two three four five six seven eight nine")
        assert next(stream)["event"] == "message"
        server.run("podman", "exec", server.container("plugin_daemon"), "pkill", "--full", "ollama-.*/bin/python")
        begun = time.monotonic()
        _, last = said(stream)
        assert (last["event"], last["code"]) == ("error", "internal_server_error")
        assert time.monotonic() - begun < LONGEST_QUESTION + 2

    def test_a_daemon_that_is_killed_comes_back_with_its_plugins(self, console: Console, server: Server) -> None:
        server.run("podman", "kill", server.container("plugin_daemon"))
        server.run("podman", "start", server.container("plugin_daemon"))
        await_plugins(console)
        app = console.example("langgenius/ollama/ollama", "llama3")
        assert said(console.chat(app, "again"))[0] == "You asked: again"

    def test_over_https_cookies_are_tied_to_the_host(self, server: Server) -> None:
        server.install("--tls", "self-signed")
        secure = Console(server.machine, f"https://{ADDRESS}")
        secure.login()
        assert {cookie.name for cookie in secure.inside.session.cookies} >= {"__Host-access_token", "__Host-csrf_token"}
        assert secure.get("/account/profile")["email"] == EMAIL


def await_plugins(console: Console, seconds: float = 60) -> None:
    """Wait until the daemon has started its plugins again: their schemas can be asked."""
    deadline = time.monotonic() + seconds
    wanted = {"langgenius/ollama/ollama", "langgenius/openai_api_compatible/openai_api_compatible"}
    while True:
        answer = console.ask("GET", "/workspaces/current/models/model-types/llm")
        if answer.status_code == 200 and {group["provider"] for group in answer.json()["data"]} == wanted:
            return
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
