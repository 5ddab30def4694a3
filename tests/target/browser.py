"""A real browser, headless Chromium without a network, that opens a page and says what it sees.

It lives in a Debian root of its own, so that it is the same one wherever the tests run. It is asked by its DevTools
protocol (https://chromedevtools.github.io/devtools-protocol/) through a pipe. Needs root, `mmdebstrap` and
`systemd-container`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tests.target import machine, steps

# The fonts: one for Korean, and those that stand for Arial and Courier.
PACKAGES = "chromium-headless-shell fonts-noto-cjk fonts-liberation"
PAGES = "/mnt"
SECONDS = 120.0
# The protocol speaks on descriptors 3 and 4; nspawn passes on no others than standard input and output.
PROGRAM = (
    "exec chromium-headless-shell --no-sandbox --user-data-dir=/tmp/browser --remote-debugging-pipe "
    "3<&0 4>&1 </dev/null >/dev/null 2>&1"
)


def browser_root(work: Path) -> Path:
    """Return the root that the browser lives in; made once (a minute) and kept below `work`."""
    root = work / f"base-browser-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    if root.is_dir():
        return root
    partial = root.with_name(f"{root.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    command = ["mmdebstrap", "--variant=minbase", *machine.LEAN, f"--include={','.join(PACKAGES.split())}"]
    log = work / "base-browser.log"
    with steps.step("the browser's disk: Debian 13 with Chromium", 60, log):
        steps.run([*command, "trixie", str(partial), *machine.mirrors()], log)
        partial.rename(root)
    return root


class Browser:
    """A browser with one tab; as a context manager it runs. It can open the files of the folder `pages`.

    It has no network, or that of a namespace.
    """

    def __init__(self, root: Path, pages: Path, network: Path | None = None) -> None:
        connected = f"--network-namespace-path={network}" if network else "--private-network"
        self._command = [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", connected, "--as-pid2", "--pipe"),
            *("--read-only", f"--directory={root}", f"--bind-ro={pages}:{PAGES}", "--setenv=HOME=/tmp"),
            *("sh", "-c", PROGRAM),
        ]
        self._events: list[dict[str, Any]] = []
        self._session = ""
        self._number = 0

    def __enter__(self) -> Browser:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._watch = threading.Timer(SECONDS, self._process.kill)
        self._watch.start()
        self._messages = self._read()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        self._process.kill()
        self._process.wait()

    def open(
        self, name: str, width: int = 1280, *, dark: bool = False, on: Literal["screen", "print"] = "screen"
    ) -> None:
        """Open a file, or a URL, on a screen or paper of that width in CSS pixels, and wait until it is loaded."""
        self._events.clear()
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=on, features=[scheme])
        self._call("Page.navigate", url=name if "://" in name else f"file://{PAGES}/{name}")
        while not any(each["method"] == "Page.loadEventFired" for each in self._events):
            self._events.append(next(self._messages))

    @property
    def requests(self) -> list[str]:
        """What the page has asked for since it was opened, itself included: URLs, of whatever scheme."""
        asked = [each["params"] for each in self._events if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in asked]

    @property
    def complaints(self) -> list[str]:
        """What stands in the console since the page was opened: the browser's complaints, and what scripts print."""
        methods = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(each["params"]) for each in self._events if each["method"] in methods]

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the whole page, PNG."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        taken = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1})
        path.write_bytes(base64.b64decode(taken["data"]))

    def pdf(self, path: Path) -> None:
        """Keep the page as it is printed, on the paper that it asks for."""
        self._call("Emulation.setEmulatedMedia", media="print")
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; keep the events that come meanwhile."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := next(self._messages)).get("id") != self._number:
            self._events.append(answer)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> Iterator[dict[str, Any]]:
        """Give the messages of the browser: each ends with a NUL."""
        assert self._process.stdout is not None
        left = b""
        while block := os.read(self._process.stdout.fileno(), 1 << 20):
            *whole, left = (left + block).split(b"\0")
            yield from map(json.loads, whole)
        raise AssertionError(f"the browser ended, or took longer than {SECONDS:.0f} s: {left[:200]!r}")
