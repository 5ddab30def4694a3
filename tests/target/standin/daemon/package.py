"""A plugin's package: what it declares, its identity, and whether it may be taken. decoder/*.go has the rules."""

import hashlib
import io
import os
import re
import zipfile
import zlib

import yaml
from daemon import signature

IDENTIFIER = re.compile(
    r"(?:[a-z0-9_-]{1,64}/)?[a-z0-9_-]{1,255}:[0-9]{1,4}(\.[0-9]{1,4}){1,3}(-\w{1,16})?@[a-f0-9]{32,64}"
)


class Refused(ValueError):
    """The package cannot be taken, or decoded."""


def read(data):
    """Return the package as a zipfile that is small enough. Raises Refused."""
    try:
        package = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:
        raise Refused("difypkg: not a valid difypkg file") from None
    largest = int(os.environ.get("MAX_PLUGIN_PACKAGE_SIZE") or 52428800)
    if sum(entry.file_size for entry in package.infolist()) > largest:
        raise Refused(
            f"plugin package size is too large, please ensure the uncompressed size is less than {largest} bytes"
        )
    return package


def _file(package, name):
    try:
        return package.read(name)
    except KeyError:
        raise Refused(f"open {name}: file does not exist") from None
    except (zipfile.BadZipFile, zlib.error):
        raise Refused("zip: checksum error") from None


def declaration(package):
    """Return what a package declares, with its provider of models. Raises Refused."""
    declared = yaml.safe_load(_file(package, "manifest.yaml"))
    for name, most in (("author", 64), ("name", 128)):
        if not re.fullmatch(rf"[a-z0-9_-]{{1,{most}}}", str(declared.get(name, ""))):
            raise Refused(f"{name} must be alphanumeric and less than {most} characters: ^[a-z0-9_-]{{1,{most}}}$")
    for name in declared.get("plugins", {}).get("models") or ():
        declared["model"] = _provider(package, yaml.safe_load(_file(package, name)))
    if not any(declared.get(kind) for kind in ("model", "tool", "endpoint", "agent_strategy", "datasource", "trigger")):
        raise Refused("at least one of endpoint, model, tool, agent_strategy, trigger, or datasource must be provided")
    icon = declared.get("icon")
    if icon and f"_assets/{icon}" not in package.namelist():
        raise Refused(f"failed to remap assets\nplugin icon not found: {icon}")
    declared["created_at"] = str(declared.get("created_at", ""))
    declared["tags"] = declared.get("tags") or []
    declared["category"] = "model" if declared.get("model") else "extension"
    keys = os.environ.get("THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS", "")
    more = os.environ.get("THIRD_PARTY_SIGNATURE_VERIFICATION_ENABLED", "").lower() == "true"
    declared["verified"] = signature.signed(package, [key for key in keys.split(",") if key] if more else [])
    return declared


def _provider(package, provider):
    """Return the provider of models with the models that it names itself; `extra` is for the SDK alone."""
    provider.setdefault("models", [])
    sources = provider.pop("extra", {}).get("python", {})
    for source in (sources.get("provider_source"), *sources.get("model_sources", ())):
        if source:
            _file(package, source)
    provider.setdefault("description", None)
    return provider


def identifier(package, declared):
    """Return AUTHOR/NAME:VERSION@CHECKSUM: decoder/checksum.go. Raises Refused."""
    digests = {entry.filename: hashlib.sha256(_file(package, entry.filename)).digest() for entry in package.infolist()}
    data = b"".join(hashlib.sha256(name.encode()).digest() + digests[name] for name in sorted(digests))
    found = f"{declared['author']}/{declared['name']}:{declared['version']}@{hashlib.sha256(data).hexdigest()}"
    if not IDENTIFIER.fullmatch(found):
        raise Refused(f"plugin_unique_identifier is not valid: {found}")
    return found


def plugin_id(identifier):
    """Return AUTHOR/NAME."""
    return identifier.partition(":")[0]
