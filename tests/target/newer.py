"""The sample's next release: what an upgrade of it brings."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.target import bundle as bundles
from tests.target import images
from tests.target.bundle import Bundle
from tests.target.registry import Registry

OLD, NEW = "0.1.0", "0.2.0"
# The newer release does not know the last one of these any more.
EXAMPLE = {
    "ACCESS_TOKEN_EXPIRE_MINUTES=60\n": "ACCESS_TOKEN_EXPIRE_MINUTES=30\nUPLOAD_FILE_SIZE_LIMIT=15\n",
    "PIP_MIRROR_URL=\n": "",
}
# The second and the third do harm where a table says so; what the first one does is committed by then.
MIGRATIONS = {
    "001.sql": "ALTER TABLE IF EXISTS written ADD COLUMN IF NOT EXISTS note text;",
    "002.sql": "DO $$ BEGIN IF to_regclass('trap') IS NOT NULL THEN RAISE EXCEPTION 'half way'; END IF; END $$;",
    "003.sql": "DO $$ BEGIN IF to_regclass('loses') IS NOT NULL THEN TRUNCATE messages; END IF; END $$;",
}


def make(registry: Registry, work: Path, name: str = "newer", options: Sequence[str] = ()) -> Bundle:
    """Build the bundle of the next release: other tags, settings and migrations, and another nginx of the same name."""
    source = work / f"source-{name}"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(bundles.SAMPLE, source)
    compose = source / "docker/docker-compose.yaml"
    compose.write_text(compose.read_text().replace(f":{OLD}\n", f":{NEW}\n"))
    example = source / "docker/.env.example"
    text = example.read_text()
    for before, after in EXAMPLE.items():
        assert before in text
        text = text.replace(before, after)
    example.write_text(text)
    scripts = {f"standin/migrations/{name}": script.encode() for name, script in MIGRATIONS.items()}
    scripts |= dict([images.revision(images.REVISIONS + 1)])
    layers = {"api": [_layer(work, "migrations", scripts)], "nginx": [_layer(work, "newer", {"newer": b""})]}
    with registry:
        return bundles.make(name, source, registry, work, layers, options)


def _layer(work: Path, name: str, held: dict[str, bytes]) -> Path:
    path = work / "images" / f"{name}.tar"
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for each, content in held.items():
            info = tarfile.TarInfo(each)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
