"""A running plugin: lines of JSON on its standard input and output, as local_runtime/{instance,subprocess}.go."""

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
import uuid

# instance.go: how long a plugin may take to its first sign of life, and how much of its errors is kept.
HEARTBEAT_SECONDS = 120
KEPT = 1024


class Failed(Exception):
    """The plugin does not run."""


class Plugin:
    """The process of a plugin, started again when it ends, until it is stopped."""

    def __init__(self, folder, entrypoint):
        self.folder, self.entrypoint = folder, entrypoint
        self.sessions, self.said, self.wanted = {}, "", True
        self.alive = threading.Event()
        self.lock = threading.Lock()
        self.child = None

    def start(self):
        """Start, and wait for the first heartbeat. Raises Failed with what the plugin said on standard error."""
        self._launch()
        deadline = time.monotonic() + HEARTBEAT_SECONDS
        while not self.alive.wait(0.1):
            if self.child.poll() is not None:
                self.reader.join(5)
                self.wanted = False
                raise Failed(f"plugin failed to start: {self.said or '<nil>'}")
            if time.monotonic() > deadline:
                self.stop()
                raise Failed("failed to start plugin as no heartbeat received")
        threading.Thread(target=self._keep, daemon=True).start()

    def _launch(self):
        self.alive.clear()
        self.said = ""
        command = [str(self.folder / ".venv/bin/python"), "-m", self.entrypoint]
        env = {**os.environ, "INSTALL_METHOD": "local"}
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(command, cwd=self.folder, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
        threading.Thread(target=self._read, args=(self.child,), daemon=True).start()
        self.reader = threading.Thread(target=self._read_errors, args=(self.child,), daemon=True)
        self.reader.start()

    def _keep(self):
        while self.wanted:
            self.child.wait()
            self.alive.clear()
            time.sleep(5)
            if self.wanted:
                self._launch()

    def _read(self, child):
        for line in child.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "heartbeat":
                self.alive.set()
            elif event.get("event") == "session" and event["session_id"] in self.sessions:
                self.sessions[event["session_id"]].put(event["data"])
        with contextlib.suppress(OSError):
            child.kill()

    def _read_errors(self, child):
        for line in child.stderr:
            self.said = (self.said + line.decode(errors="replace"))[-KEPT:]

    def stop(self):
        self.wanted = False
        if self.child:
            self.child.kill()

    def invoke(self, kind, action, user, request):
        """Yield what the plugin streams. Raises Failed when it does not run, or stays silent for too long.

        An error of the plugin is the last thing yielded, as ("error", text). When the process ends in the middle
        nothing tells so, in the real one neither: the question ends with the time limit.
        """
        if not self.alive.is_set():
            raise Failed("no proper instance")
        session, come = str(uuid.uuid4()), queue.Queue()
        self.sessions[session] = come
        data = {"user_id": user, "type": kind, "action": action, **request}
        names = ("conversation_id", "message_id", "app_id", "endpoint_id", "context")
        message = {"session_id": session, **dict.fromkeys(names), "event": "request", "data": data}
        deadline = time.monotonic() + float(os.environ.get("PLUGIN_MAX_EXECUTION_TIMEOUT") or 600)
        try:
            with self.lock, contextlib.suppress(BrokenPipeError):
                self.child.stdin.write(json.dumps(message).encode() + b"\n")
                self.child.stdin.flush()
            while True:
                try:
                    event = come.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    raise Failed("killed by timeout") from None
                if event["type"] == "stream":
                    yield "stream", event["data"]
                elif event["type"] == "error":
                    error = event["data"]
                    yield "error", json.dumps({key: error.get(key) for key in ("message", "error_type", "args")})
                    return
                else:
                    return
        finally:
            del self.sessions[session]
