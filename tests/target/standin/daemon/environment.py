"""Gives a plugin its folder and its Python: local_runtime/{environment,setup_python_environment}.go."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

# The real image has Python 3.12. This one has Debian's, whose version the plugins' environments get.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MARK = ".venv/dify/plugin.json"


class Failed(Exception):
    """The environment cannot be made."""


def prepare(folder, package):
    """Unpack a package into its folder and make its environment, or keep what is complete. Raises Failed."""
    if not folder.is_dir() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        package.extractall(folder)
    if (folder / MARK).is_file():
        return
    uv = _uv(folder)
    shutil.rmtree(folder / ".venv", ignore_errors=True)
    made = subprocess.run(
        [uv, "venv", ".venv", "--python", PYTHON],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if made.returncode != 0:
        raise Failed(
            "failed to create virtual environment: failed to create virtual environment: "
            f"exit status {made.returncode}, output: {made.stdout}"
        )
    if not (folder / "requirements.txt").is_file():
        raise Failed(
            "failed to create virtual environment: failed to find requirements.txt: "
            f"stat {folder}/requirements.txt: no such file or directory"
        )
    _install(uv, folder)
    python = str(folder / ".venv/bin/python")
    subprocess.run([python, "-m", "compileall", "-q", "."], cwd=folder, capture_output=True)
    subprocess.run([python, "-c", "import dify_plugin"], cwd=folder, capture_output=True)
    (folder / MARK).parent.mkdir(exist_ok=True)
    (folder / MARK).write_text(json.dumps({"timestamp": int(time.time())}))


def _uv(folder):
    if os.environ.get("UV_PATH"):
        return os.environ["UV_PATH"]
    code = "from uv._find_uv import find_uv_bin; print(find_uv_bin())"
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    if found.returncode != 0:
        raise Failed(f"failed to find uv path: failed to find uv path: exit status {found.returncode}")
    return found.stdout.strip()


def _install(uv, folder):
    """`uv pip install`, ended when it says nothing for too long; only its errors are told."""
    command = [uv, "pip", "install"]
    if os.environ.get("PIP_MIRROR_URL"):
        command += ["-i", os.environ["PIP_MIRROR_URL"]]
    command += ["-r", "requirements.txt"]
    if os.environ.get("PIP_VERBOSE", "true").lower() == "true":
        command.append("-vvv")
    if os.environ.get("PIP_EXTRA_ARGS"):
        command += os.environ["PIP_EXTRA_ARGS"].split(" ")
    env = {"VIRTUAL_ENV": str(folder / ".venv"), "PATH": os.environ["PATH"]}
    env |= {key: os.environ[key] for key in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") if os.environ.get(key)}
    quiet = float(os.environ.get("PYTHON_ENV_INIT_TIMEOUT") or 120)
    said, active = [], [time.monotonic()]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:

        def watch():
            while child.poll() is None:
                time.sleep(0.5)
                if time.monotonic() - active[0] > quiet:
                    said.append(f"init process exited due to no activity for {quiet:.0f} seconds")
                    child.kill()

        threading.Thread(target=watch, daemon=True).start()
        for line in child.stderr:
            active[0] = time.monotonic()
            said.append(line.decode(errors="replace"))
    if child.returncode != 0:
        ended = f"exit status {child.returncode}" if child.returncode > 0 else "signal: killed"
        raise Failed(
            f"failed to install dependencies: failed to install dependencies: {ended}, output: {''.join(said)}"
        )


def folder_of(identifier):
    """Return where a plugin works: local_runtime's working path, AUTHOR/NAME-VERSION@CHECKSUM."""
    root = os.environ.get("PLUGIN_WORKING_PATH") or "/app/storage/cwd"
    return pathlib.Path(root, identifier.replace(":", "-", 1))
