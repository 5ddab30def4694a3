"""`status` as a screen: what a person sees at one glance."""

from __future__ import annotations

from typing import Any

import pytest

from installer.commands import overview

NOW = 1_800_000_000


def service(name: str = "api", **fields: Any) -> overview.Service:
    return overview.Service(
        **{
            "name": name,
            "state": "healthy",
            "since": NOW - 7500,
            "restarts": 0,
            "image": f"docker.io/langgenius/dify-{name}:1.11.3",
            "reason": "",
            **fields,
        }
    )


def glance(*services: overview.Service, **fields: Any) -> overview.Overview:
    return overview.Overview(
        **{
            "dify": "1.11.3",
            "url": "http://10.0.0.5",
            "folder": "/opt/dify",
            "engine": "podman 5.4.2",
            "services": services,
            "image_bytes": 3_300_000_000,
            "data_bytes": {"db": 800_000_000, "app": 2_000_000_000, "redis": 1_000_000, "certbot": 0},
            "certificate_days": None,
            "not_ours": (),
            "last_backup": "",
            "kept": "",
            "changed": (),
            **fields,
        }
    )


def test_it_is_a_table_of_services_below_what_is_installed() -> None:
    ended = service("init_permissions", state="done", since=NOW - 9000, image="busybox:latest")
    missing = service("worker", state="not created", since=0, image="", reason="not created")
    assert overview.as_text(glance(service(restarts=3), ended, missing), NOW) == (
        "Dify 1.11.3 at http://10.0.0.5, in /opt/dify, with podman 5.4.2\n"
        "images 3.1 GiB; data 2.6 GiB (app 1.9 GiB, db 762.9 MiB, redis 976.6 KiB)\n"
        "last backup: never (`dify-installer backup PATH`)\n"
        "\n"
        "service           state        for        restarts  image\n"
        "api               healthy      2 h 5 min  3         docker.io/langgenius/dify-api:1.11.3\n"
        "init_permissions  done                              busybox:latest\n"
        "worker            not created\n"
    )


def test_what_was_changed_by_hand_is_told_with_what_to_do() -> None:
    text = overview.as_text(glance(changed=(".env was edited and is not in effect",)), NOW)
    assert ".env was edited and is not in effect\n       do: run the install command again" in text


def test_the_certificate_s_days_and_sizes_that_are_not_known() -> None:
    text = overview.as_text(glance(certificate_days=12, data_bytes=None), NOW)
    assert "certificate: 12 days left" in text
    assert "data not counted within 15 s" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (65, "1 min"), (7500, "2 h 5 min"), (86400 * 3 + 7200, "3 d 2 h")]
)
def test_durations_have_two_parts_at_most(seconds: int, text: str) -> None:
    assert text in overview.as_text(glance(service(since=NOW - seconds)), NOW)
