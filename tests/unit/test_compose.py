from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from installer.core import errors
from installer.release import compose


def document(tmp_path: Path, services: dict[str, object]) -> compose.Document:
    path = tmp_path / "docker-compose.yaml"
    path.write_text(yaml.safe_dump({"services": services}))
    return compose.load(path)


def test_profiles_decide_which_services_and_images_are_needed(tmp_path: Path) -> None:
    doc = document(
        tmp_path,
        {
            "api": {"image": "acme/api:1"},
            "worker": {"image": "acme/api:1"},
            "db": {"image": "${DB_IMAGE:-postgres:15}", "profiles": ["postgresql"]},
            "other": {"image": "mysql:8", "profiles": ["mysql"]},
            "built": {"build": ".", "profiles": ["couchbase"]},
        },
    )
    assert compose.images(doc, {"COMPOSE_PROFILES": "weaviate, postgresql"}) == {
        "docker.io/acme/api:1": ["api", "worker"],
        "docker.io/library/postgres:15": ["db"],
    }
    assert "docker.io/library/mysql:8" in compose.images(doc, {"COMPOSE_PROFILES": "mysql"})
    with pytest.raises(errors.UsageError, match="built"):
        compose.images(doc, {"COMPOSE_PROFILES": "couchbase"})
    assert compose.profiles(doc) == {"postgresql", "mysql", "couchbase"}


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("postgres:15-alpine", "docker.io/library/postgres:15-alpine"),
        ("langgenius/dify-api:1.11.3", "docker.io/langgenius/dify-api:1.11.3"),
        ("certbot/certbot", "docker.io/certbot/certbot:latest"),
        ("quay.io/coreos/etcd:v3.5.5", "quay.io/coreos/etcd:v3.5.5"),
        ("localhost/mine", "localhost/mine:latest"),
        ("registry:5000/mine", "registry:5000/mine:latest"),
    ],
)
def test_full_reference(short: str, full: str) -> None:
    assert compose.full_reference(short) == full


def test_a_reference_by_digest_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="digest"):
        compose.full_reference("nginx@sha256:" + "0" * 64)


def test_a_file_that_is_no_compose_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "docker-compose.yaml"
    for text in ("- a list", "services: none", "a: [", ""):
        path.write_text(text)
        with pytest.raises(errors.BundleDamaged):
            compose.load(path)
