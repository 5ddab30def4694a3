"""Every name inside the bundle and on the host, each of them once.

`build` makes what these names describe and `installer` reads it.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from installer.core import errors

# The two files of a bundle, if wanted the images once more as a store that podman mounts, and the list of their hashes.
EXECUTABLE = "dify-installer"
IMAGES = "dify-images.tar"
STORE = "dify-images.squashfs"
CHECKSUMS = "SHA256SUMS"

# With this word the executable is the program that unpacks a store.
UNPACK = "unpack-store"

# Inside an image archive: which configuration and which layers make each image.
ARCHIVE_INDEX = "manifest.json"

# Inside the executable. The folder `payload/` of a checkout is where the build stages it.
PAYLOAD = "payload"
MANIFEST = "manifest.json"
PROJECT = "docker"
WHEELS = "wheels"
PODMAN_COMPOSE_LOCK = "podman-compose.lock"
PROBE = "probe.py"
PREPARE_API = "prepare_api.py"
COMPOSE_PROGRAM = "compose_program.py"

# Plugins: the image that carries them in the archive, the folder in it; and below that, as below the install folder's
# own: packages, the wheels that they need (WHEELS), the key with which the owner has signed some of them.
PLUGINS_IMAGE = "localhost/dify-installer-plugins"
PLUGINS_INSIDE = "/plugins"
PACKAGES = "packages"
OWNER_KEY = "keys/owner.pem"
LICENSES = "licenses.json"

# Dify's own names, below its `docker/` folder.
COMPOSE_FILE = "docker-compose.yaml"
ENV_EXAMPLE = ".env.example"

# How the name begins of the data that a restore has moved aside.
VOLUMES_BEFORE = "volumes.before-"

# How the names begin of what an upgrade that failed has left of `docker/`, and of what `rollback` has put aside.
PROJECT_FAILED = "docker.failed-"
PROJECT_AFTER = "docker.after-"

# How many copies of earlier `.env` files are kept.
ENV_COPIES = 5

# The compose project: containers are called dify_api_1, the networks dify_default, …
COMPOSE_PROJECT = "dify"

# The systemd unit that brings the stack up at boot.
UNIT = "dify.service"

# The timer, if one is wanted, and the unit that it starts for a backup.
BACKUP_TIMER, BACKUP_UNIT = "dify-backup.timer", "dify-backup.service"

# The report of the last run, for programs and for people.
REPORT = "install-report.json"
REPORT_PAGE = "install-report.html"

# What makes an install folder ours: the first file that is written into it.
MARKER = ".dify-installer.json"

# What the containers of Dify's api do before their program, and where they see that and what they keep compiled.
API_SCRIPT = "before.sh"
API_START_INSIDE = "/dify-start"
# What is compiled of an image, in the install folder and in an image store: a folder for each, `compiled_name`.
COMPILED = "compiled"
COMPILED_INSIDE = "/dify-compiled"

# Labels that podman-compose and docker compose put on their containers.
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
FOLDER_LABEL = "com.docker.compose.project.working_dir"


def bundled(name: str) -> Path:
    """Return the path of something that the executable carries; from a checkout, of the staged copy."""
    frozen = getattr(sys, "_MEIPASS", None)
    base = Path(frozen) if frozen else Path(__file__).resolve().parent.parent.parent
    return base / PAYLOAD / name


def executable() -> Path | None:
    """Return the path of the running executable, or None when run from a checkout."""
    return Path(sys.executable).resolve() if getattr(sys, "frozen", False) else None


def default_folder(uid: int | None = None) -> Path:
    """Return the install folder when none is named: /opt/dify as root, ~/dify otherwise."""
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/opt/dify")
    return Path.home() / "dify"


# In the path of a folder these would mean something else to compose, to a shell or to systemd.
UNUSABLE = re.compile(r"""[\x00-\x1f\x7f"'`$:\\]""")


def checked_folder(text: str) -> Path:
    """Return an install folder as an absolute path. Raises UsageError for one that its users would read differently."""
    try:
        folder = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise errors.UsageError(f"{text!r} begins with a user who has no home here", "give the whole path") from error
    if not text:
        raise errors.UsageError("no install folder is named", "give its path, for example /opt/dify")
    if found := UNUSABLE.search(str(folder)):
        raise errors.UsageError(
            f"the install folder {str(folder)!r} holds {found.group()!r}, which compose, systemd or a shell "
            "would read differently",
            "choose a folder without quotes, $, backtick, colon, backslash and control characters",
        )
    return folder


def compiled_name(identity: str) -> str:
    """Return the name of the folder with what an image, by its ID, has compiled."""
    return identity[:12]


@dataclass(frozen=True, slots=True)
class Installation:
    """The names inside an install folder."""

    folder: Path

    @property
    def project(self) -> Path:
        """Dify's `docker` folder: compose files, `.env`, nginx templates and, in `volumes/`, the data."""
        return self.folder / PROJECT

    @property
    def upstream_compose(self) -> Path:
        """Upstream's file, untouched."""
        return self.project / COMPOSE_FILE

    @property
    def compose(self) -> Path:
        """The file that we render from upstream's for podman-compose, and that runs."""
        return self.project / "dify-compose.yaml"

    @property
    def override(self) -> Path:
        """What docker compose adds to upstream's file; it reads a file of this name by itself."""
        return self.project / "docker-compose.override.yaml"

    @property
    def env(self) -> Path:
        return self.project / ".env"

    @property
    def applied(self) -> Path:
        """What the stack was last started with: the settings' digests and its containers."""
        return self.project / ".applied"

    @property
    def env_copies(self) -> tuple[Path, ...]:
        """The `.env` as it was before our last changes of it, newest first."""
        newest = self.project / ".env.before"
        return (newest, *(newest.with_name(f"{newest.name}.{number}") for number in range(1, ENV_COPIES)))

    @property
    def env_keys(self) -> Path:
        """Which keys `.env` had when we last wrote it: their names, no values."""
        return self.project / ".env.keys"

    @property
    def volumes(self) -> Path:
        return self.project / "volumes"

    @property
    def certificate(self) -> Path:
        """For https; upstream's name, NGINX_SSL_CERT_FILENAME in `.env.example`."""
        return self.project / "nginx/ssl/dify.crt"

    @property
    def key(self) -> Path:
        return self.project / "nginx/ssl/dify.key"

    @property
    def ca_bundle(self) -> Path:
        """The authorities that Dify trusts when it calls model servers, if any were given."""
        return self.project / "ca/ca-bundle.pem"

    @property
    def plugins(self) -> Path:
        """Packages of plugins and what they need; the plugin daemon has it mounted."""
        return self.project / "plugins"

    @property
    def api_start(self) -> Path:
        """What the containers of Dify's api run before their program; they have it mounted."""
        return self.project / "api-start"

    @property
    def compiled(self) -> Path:
        """What Python has compiled in those containers, a folder an image; not in `docker/`, which is copied."""
        return self.folder / COMPILED

    @property
    def admin_password(self) -> Path:
        """The password that was generated for the console's first account."""
        return self.folder / "admin-password"

    @property
    def account(self) -> Path:
        """The e-mail of the account with which we work in the console, and its refused passwords of the last day."""
        return self.folder / "admin-account.json"

    @property
    def venv(self) -> Path:
        """podman-compose's own Python environment."""
        return self.folder / "podman-compose"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def executable(self) -> Path:
        """A copy of the installer: for `status`, for the unit, and where it serves as podman-compose."""
        return self.bin / EXECUTABLE

    @property
    def podman_compose(self) -> Path:
        """The podman-compose that this installation uses: a link, into the venv or to the executable."""
        return self.bin / "podman-compose"

    @property
    def loaded_images(self) -> Path:
        """The images that an installation of ours has loaded into the engine: their IDs and names."""
        return self.folder / "images.json"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def report_page(self) -> Path:
        return self.folder / REPORT_PAGE

    @property
    def stores(self) -> Path:
        """The image stores that podman has mounted, if any: of each the file and its mount point."""
        return self.folder / "stores"

    @property
    def spool(self) -> Path:
        """Podman's temporary folder while we load images, where memory does not serve; removed before and after."""
        return self.folder / ".dify-installer-spool"

    @property
    def held(self) -> Path:
        """What is copied of a vector store while a backup is made; removed after it, and before the next one."""
        return self.folder / ".dify-installer-held"

    @property
    def last_backup(self) -> Path:
        """Which backup was made last."""
        return self.folder / "last-backup.json"

    @property
    def last_restore(self) -> Path:
        """Which backup was restored last."""
        return self.folder / "last-restore.json"

    @property
    def disk_history(self) -> Path:
        """How much room there was, and how large the data were, a day a line."""
        return self.folder / "disk-history.json"

    @property
    def model_servers(self) -> Path:
        """The addresses of the model servers that were named last, without their keys."""
        return self.folder / "model-servers.json"

    @property
    def restoring(self) -> Path:
        """Says that a restore has begun and not ended: where the data lie that it has moved away."""
        return self.folder / ".dify-installer-restore.json"

    @property
    def previous(self) -> Path:
        """What is kept of the version before an upgrade: shaped as an install folder, with a record of it."""
        return self.folder / "previous"

    @property
    def previous_part(self) -> Path:
        """The same while it is being made."""
        return self.folder / "previous.part"

    @property
    def previous_gone(self) -> Path:
        """The same while it is being removed."""
        return self.folder / "previous.gone"

    @property
    def upgrade_record(self) -> Path:
        """Below one of those three: which versions an upgrade is from and to, and how far it came."""
        return self.folder / "upgrade.json"

    @property
    def env_before_restore(self) -> Path:
        """The `.env` that goes with those data."""
        return self.project / ".env.before-restore"

    @property
    def marker(self) -> Path:
        """Says that the folder is ours, and what we have made elsewhere (`core.marker`)."""
        return self.folder / MARKER
