"""Makes the tables of `make scale`: SCALE.md, and what was measured, scale.json, beside this file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.scale_pulls import Image, Mirrored, Served

if TYPE_CHECKING:
    from tests.bench.scale import Placed

HERE = Path(__file__).resolve().parent
# Networks in Gbit/s, whose bytes are all the layers': an upper bound.
NETWORKS = (1, 10)
HEAD = """\
# What a cluster pulls

Made by `make scale`; never edited by hand. [docs/scale.md](../../docs/scale.md) says what follows from it.

The images are those of the benchmark's bundle, in gzip as `push` sends them: as large as Dify's.

"""
PULLED = """
## Simulated: which nodes pull what

Nodes of 8 processors and 32 GiB that are objects of a real Kubernetes; its scheduler places the pods, and nothing runs.
A pair is an image on a node that did not have it. The upgrade brings another of each image, with no layer of before:
the most that an upgrade can pull. The node that is gone is, of those with a pod, the one that had most bytes of images.
Chosen nodes are the only ones that may have pods, but for the job's.

"""
SERVED = """
## Measured: what one registry takes

Debian's docker-registry over loopback, beside its clients on the same processors, so that seconds say little; its own
processor seconds are those of its process. A client pulls every image, hashes it, and throws it away; it is written in
Python, and takes more of the machine than the registry. With https there is a login. Load is that of the machine's last
minute at the end of a round, clients included.

"""
MIRROR = """
## Measured: a mirror before it

Another docker-registry, as a cache that pulls through (`proxy.remoteurl`), which all clients ask at the same time. What
the registry behind it has sent are the bytes that its process has written.

"""
PAPER = """
## On paper: every node pulls every image

As where images are pulled ahead, on every node. Seconds are bytes by the network's rate alone, and by the registry's
processor seconds for each GB, on one processor as this one.

"""


def write(
    images: Sequence[Image],
    placed: Sequence[Placed],
    served: Sequence[Served],
    mirrored: Sequence[Mirrored],
    facts: Mapping[str, str],
) -> None:
    """Write the tables, and the figures; `facts` says what they depend on."""
    whole = sum({digest: size for image in images for digest, size in image.blobs.items()}.values())
    shown = {"images": f"{len(images)}, {whole / 1e9:.2f} GB", **facts}
    parts = [HEAD, _table(["", ""], shown.items()), PULLED]
    parts.append(
        _table(
            ["overlay", "nodes", "event", "pods", "pairs", "nodes that pull", "GB", "GB of the one that pulls most"],
            map(_placed, placed),
        )
    )
    parts.append(SERVED)
    parts.append(
        _table(
            ["", "clients", "GB", "seconds", "processor, s", "processor, s for each GB", "load"], map(_served, served)
        )
    )
    parts.append(MIRROR)
    parts.append(_table(["", "clients", "GB to the clients", "GB from the registry"], map(_mirrored, mirrored)))
    parts.append(PAPER)
    costs = {scheme: cost(served, scheme) for scheme in dict.fromkeys(each.scheme for each in served)}
    head = ["nodes", "GB", *(f"{rate} Gbit/s" for rate in NETWORKS), *(f"processor, {name}" for name in costs)]
    counts = sorted({each.nodes for each in placed})
    parts.append(_table(head, ([str(count), *_paper(count * whole, costs)] for count in counts)))
    (HERE / "SCALE.md").write_text("".join(parts))
    kept = {
        "images": [dataclasses.asdict(each) for each in images],
        "placed": [dataclasses.asdict(each) for each in placed],
        "served": [dataclasses.asdict(each) for each in served],
        "mirrored": [dataclasses.asdict(each) for each in mirrored],
        "facts": dict(facts),
    }
    (HERE / "scale.json").write_text(json.dumps(kept, indent=1) + "\n")


def cost(served: Sequence[Served], scheme: str) -> float:
    """Return the registry's processor seconds for each GB, over all rounds of http or https."""
    runs = [each for each in served if each.scheme == scheme]
    return sum(each.processor for each in runs) / (sum(each.bytes for each in runs) / 1e9)


def _placed(each: Placed) -> list[str]:
    counts = [str(number) for number in (each.pods, each.pairs, each.pulling)]
    return [each.overlay, str(each.nodes), each.event, *counts, f"{each.bytes / 1e9:.2f}", f"{each.most / 1e9:.2f}"]


def _served(each: Served) -> list[str]:
    gigabytes = each.bytes / 1e9
    figures = [f"{gigabytes:.2f}", f"{each.seconds:.1f}", f"{each.processor:.1f}"]
    return [each.scheme, str(each.clients), *figures, f"{each.processor / gigabytes:.2f}", f"{each.load:.1f}"]


def _mirrored(each: Mirrored) -> list[str]:
    return [each.event, str(each.clients), f"{each.bytes / 1e9:.2f}", f"{each.upstream / 1e9:.2f}"]


def _paper(count: int, costs: Mapping[str, float]) -> list[str]:
    networks = [f"{count * 8 / (rate * 1e9):.0f} s" for rate in NETWORKS]
    return [f"{count / 1e9:.0f}", *networks, *(f"{count / 1e9 * each:.0f} s" for each in costs.values())]


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


# -- docs/scale.md


def rows(kept: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the rows of the tables in docs/scale.md, whatever its language, from what is kept in scale.json."""
    whole = sum({digest: size for image in kept["images"] for digest, size in image["blobs"].items()}.values())
    pulled: dict[str, list[str]] = {}
    for each in kept["placed"]:
        overlay, _, chosen = each["overlay"].partition(", ")
        place = f"| `{overlay}` | {each['nodes']}{f' ({chosen.split()[0]})' if chosen else ''} |"
        pulled.setdefault(place, []).append(f"{each['bytes'] / 1e9:.1f} / {each['pulling']}")
    runs = [Served(**each) for each in kept["served"]]
    costs = {scheme: cost(runs, scheme) for scheme in dict.fromkeys(run.scheme for run in runs)}
    found = {(run.scheme, run.clients): f"{run.processor / run.bytes * 1e9:.2f}" for run in runs}
    clients = sorted({run.clients for run in runs})
    most = max(each["bytes"] for each in kept["placed"])
    paper = [most, *(count * whole for count in sorted({each["nodes"] for each in kept["placed"]}))]
    return {
        "pulled": [f"{place} {' | '.join(events)} |" for place, events in pulled.items()],
        "served": [
            f"| {scheme} | {' | '.join(found.get((scheme, each), '') for each in clients)} |" for scheme in costs
        ],
        "mirrored": [f"{each['bytes'] / 1e9:.1f} | {each['upstream'] / 1e9:.1f} |" for each in kept["mirrored"]],
        "paper": [_reckoned(count, list(costs.values())) for count in paper],
    }


def _reckoned(count: int, costs: Sequence[float]) -> str:
    gigabytes = count / 1e9
    seconds = [*(gigabytes * 8 / rate for rate in NETWORKS), *(gigabytes * each for each in costs)]
    return f"| {gigabytes:.1f} | {' | '.join(f'{each:.0f}' for each in seconds)} |"
