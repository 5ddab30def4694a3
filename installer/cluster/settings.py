"""ConfigMaps and Secrets: the environment of each service, and the files that it mounts from upstream's folder."""

from __future__ import annotations

import base64
import hashlib
import json

from installer.cluster import names
from installer.cluster.site import Object, Site, make
from installer.release import dify

# Lets the proxy reach the sandbox through its own port alone: squid sends plain requests there at every other try
# otherwise (dify#7053; docs/decisions/016). The networks that it may reach are the network policy's to say.
SQUID_FILE = "/etc/squid/conf.d/00-dify-installer.conf"
SQUID_RULES = """\
acl SSL_ports port 1025-65535
acl sandbox_port localport {port}
always_direct deny sandbox_port
always_direct allow all
"""


def environment(site: Site, service: str) -> tuple[Object, Object]:
    """Return a service's ConfigMap and Secret.

    `data`, and none that is empty: the API counts `stringData`, and what it leaves out itself, as a change each time.
    """
    values = site.environment(service)
    secret = site.secrets(values)
    plain = {key: value for key, value in sorted(values.items()) if key not in secret}
    hidden = {key: base64.b64encode(values[key].encode()).decode() for key in sorted(secret)}
    name = names.of(service)
    return (
        make(site, "v1", "ConfigMap", f"{name}-settings", service, **({"data": plain} if plain else {})),
        make(site, "v1", "Secret", f"{name}-secrets", service, type="Opaque", **({"data": hidden} if hidden else {})),
    )


def mounted_files(site: Site, service: str) -> dict[str, str]:
    """Return path in the container -> content, of upstream's files that a service mounts."""
    found = {}
    for volume in site.services[service].get("volumes") or ():
        source, target = str(volume).split(":")[:2]
        path = site.project / source
        if path.is_file():
            found[target] = _adapted(site, path.read_text("utf-8"))
        elif path.is_dir():
            for each in sorted(path.iterdir()):
                if each.is_file() and not each.name.startswith("."):
                    found[f"{target}/{each.name}"] = _adapted(site, each.read_text("utf-8"))
    if service == dify.SSRF_PROXY:
        port = site.variables.get("SSRF_REVERSE_PROXY_PORT") or "8194"
        found[SQUID_FILE] = SQUID_RULES.format(port=port)
    return found


def _adapted(site: Site, text: str) -> str:
    """Return a template with the hosts' names here, and with what browsers see instead of what nginx does."""
    text = names.translate(text.replace("\r\n", "\n"), site.services)
    scheme, port = ("https", "443") if site.tls_secret else ("http", "80")
    return text.replace("$server_port", port).replace("$scheme", scheme)


def file_key(target: str) -> str:
    """Return the key of a file in its ConfigMap."""
    return target.strip("/").replace("/", "_")


def files(site: Site, service: str) -> Object | None:
    """Return the ConfigMap with the files that a service mounts, if any."""
    found = mounted_files(site, service)
    if not found:
        return None
    data = {file_key(target): content for target, content in sorted(found.items())}
    return make(site, "v1", "ConfigMap", f"{names.of(service)}-files", service, data=data)


def digest(*objects: Object | None) -> str:
    """Return a hash of objects' data: pods begin anew when it changes."""
    data = [each.get("data", {}) for each in objects if each is not None]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
