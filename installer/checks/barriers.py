"""Judges what of the host's own protection stands in Dify's way: firewalld and fapolicyd."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from installer.core import layout
from installer.core.finding import Finding
from installer.core.marker import Rule
from installer.core.runner import Runner
from installer.host.judge import network

ASK_SECONDS = 30.0
# fapolicyd(8) tells of denials in the audit log; a rule with deny_syslog or deny_log in the journal.
AUDITED = ("ausearch", "--input-logs", "--message", "FANOTIFY", "--start", "yesterday", "--interpret")
TOLD = ("journalctl", "--unit=fapolicyd", "--since=-24h", "--no-pager", "--output=cat", "--quiet")
DENIALS = ("resp=deny", "resp=2", "dec=deny")
# How PyInstaller's folder begins, into which the executable unpacks itself.
UNPACKED = "/_MEI"


def judge_firewall(open_ports: Sequence[int] | None, wanted: Iterable[int], gone: Sequence[Rule]) -> list[Finding]:
    """Judge the rules of a firewalld that runs; `open_ports` is None for who may not ask, `gone` are rules of ours."""
    if open_ports is None:
        return [Finding("firewall", "info", "firewalld runs, and this user may not ask it; as root, doctor does")]
    findings = []
    if gone:
        told = ", ".join(f"{each.value} in zone {each.zone}" for each in gone)
        seen = f"firewalld no longer has what the installation has added: {told}"
        findings.append(Finding("firewall", "warning", seen, "run the install command again: it adds them"))
    if closed := [port for port in wanted if port not in open_ports]:
        seen = f"firewalld may keep others from {', '.join(map(str, closed))}"
        findings.append(Finding("firewall", "warning", seen, f"as root: `{network.opening(closed)}`"))
    return findings or [Finding("firewall", "ok", "firewalld lets the ports in")]


def find_denials(runner: Runner) -> list[str] | None:
    """Return what fapolicyd has denied since yesterday, a line each; None where it runs and nothing may be read.

    Empty where it does not run.
    """
    if not runner.run(["systemctl", "is-active", "--quiet", "fapolicyd"], timeout=ASK_SECONDS, check=False).ok:
        return []
    audited = runner.run(AUDITED, timeout=ASK_SECONDS, check=False)
    told = runner.run(TOLD, timeout=ASK_SECONDS, check=False)
    denials = parse_denials(audited.stdout, told.stdout)
    # ausearch fails when it finds nothing, too, and says so.
    readable = audited.ok or "<no matches>" in audited.stdout + audited.stderr
    return denials if denials or readable else None


def parse_denials(audited: str, told: str) -> list[str]:
    """Return the denials in what ausearch shows, events between lines of `----`, and in a journal."""
    events = [" ".join(event.split()) for event in audited.split("----")]
    return [line for line in (*events, *told.splitlines()) if any(each in line for each in DENIALS)]


def judge_denials(denials: Sequence[str] | None, place: layout.Installation) -> list[Finding]:
    """Judge the denials of fapolicyd that concern our programs; those of others are not ours to tell."""
    if denials is None:
        return [Finding("fapolicyd", "info", "it runs, and this user may not read its log; as root, doctor does")]
    ours = [line for line in denials if f"{place.folder}/" in line or UNPACKED in line or layout.EXECUTABLE in line]
    if not ours:
        return []
    seen = f"it denied {len(ours)} times since yesterday, last: {ours[-1][-200:]}"
    trusted = " && ".join(f"fapolicyd-cli --file add {path}/ --trust-file dify" for path in (place.bin, place.venv))
    return [Finding("fapolicyd", "warning", seen, f"as root: `{trusted} && fapolicyd-cli --update`; see docs/hosts.md")]
