"""Judges ports, addresses and the firewall."""

from __future__ import annotations

from collections.abc import Iterable

from installer.core.finding import Finding
from installer.host.facts import Host, Wanted

LOW_PORT_KEY = "net.ipv4.ip_unprivileged_port_start"
PORT_OPTIONS = {"http": "--port 8080", "https": "--https-port 8443", "plugin debugging": "--plugin-port 15003"}
# The port for debugging plugins is nobody's but a developer's: it stays closed.
FOR_BROWSERS = ("http", "https")

Findings = Iterable[Finding]


def ports(host: Host, wanted: Wanted) -> Findings:
    """The ports are free, or held by this installation; else who holds them."""
    if host.network.listeners is None:
        yield Finding("ports", "warning", "`ss` failed: whether they are free is unknown", "see what `ss -tln` says")
        return
    held = {listener.port: listener for listener in host.network.listeners if not listener.ours}
    taken = [(name, port) for name, port in wanted.ports.items() if port in held]
    for name, port in taken:
        yield Finding(
            "ports",
            "error",
            f"port {port} ({name}) is held by {held[port].holder}",
            f"stop it, or choose another port: {PORT_OPTIONS[name]}",
        )
    if not taken:
        yield Finding("ports", "ok", f"{', '.join(map(str, wanted.ports.values()))} are free or ours")


def low_ports(host: Host, wanted: Wanted) -> Findings:
    """Without root, ports below the kernel's limit (1024) cannot be opened."""
    if not host.engine.rootless:
        return
    low = {name: port for name, port in wanted.ports.items() if port < host.network.low_port}
    if low:
        options = " ".join(PORT_OPTIONS[name] for name in low)
        yield Finding(
            "low ports",
            "error",
            f"{host.user.name} may not open {', '.join(map(str, low.values()))}: "
            f"for users, ports begin at {host.network.low_port}",
            f"choose others: {options}; or as root: `sysctl -w {LOW_PORT_KEY}={min(low.values())}`, "
            "and the same setting in /etc/sysctl.d/90-dify.conf",
        )
    else:
        yield Finding("low ports", "ok", f"no port below {host.network.low_port}")


def address(host: Host, wanted: Wanted) -> Findings:
    """The address given is one of this host's."""
    if wanted.address is None or not any(character in wanted.address for character in ".:"):
        return
    if wanted.address.replace(".", "").isdecimal() or ":" in wanted.address:
        if host.network.addresses is None or wanted.address in host.network.addresses:
            yield Finding("address", "ok", wanted.address)
        else:
            mine = ", ".join(each for each in host.network.addresses if not each.startswith(("127.", "::1", "fe80")))
            yield Finding(
                "address",
                "warning",
                f"{wanted.address} is not one of this host's addresses ({mine or 'it has none'})",
                "nothing, if a load balancer or NAT leads here; else give one of these with --ip",
            )


def browser_ports(wanted: Wanted) -> list[int]:
    """Return the ports for browsers."""
    return [port for name, port in wanted.ports.items() if name in FOR_BROWSERS]


def closed_ports(host: Host, wanted: Wanted) -> list[int]:
    """Return the ports for browsers that firewalld does not let in, as far as we may ask it."""
    if not host.network.firewalld or not host.engine.asks_firewall:
        return []
    return [port for port in browser_ports(wanted) if port not in host.network.open_ports]


def opening(ports: Iterable[int]) -> str:
    """Return the command that has firewalld let ports in, for good and now."""
    adding = " ".join(f"--add-port={port}/tcp" for port in ports)
    return f"firewall-cmd --permanent {adding} && firewall-cmd {adding}"


def firewall(host: Host, wanted: Wanted) -> Findings:
    """firewalld lets the ports in; as root the installer opens them, unless --no-firewall."""
    closed = closed_ports(host, wanted)
    if host.network.firewalld and not host.engine.asks_firewall:
        yield Finding("firewall", "ok", f"{host.engine.name} lets the ports that it publishes past firewalld")
    elif not closed:
        yield Finding(
            "firewall", "ok", "firewalld lets the ports in" if host.network.firewalld else "firewalld does not run"
        )
    elif host.user.root and wanted.firewall:
        yield Finding("firewall", "ok", f"{', '.join(map(str, closed))} will be opened in firewalld")
    else:
        yield Finding(
            "firewall",
            "warning",
            f"firewalld may keep others from {', '.join(map(str, closed))}",
            f"as root: `{opening(closed)}`",
        )
