"""Watches the containers of an installation for a time, each in its own network, and the bridges between them.

What a container sends is seen in its own network namespace, where it is known whose it is, whatever the engine. One
that has just started is seen on the bridge until it is found. Nothing is started or changed.
"""

from __future__ import annotations

import ipaddress
import selectors
import signal
import time
from dataclasses import dataclass, field

from installer.core import errors
from installer.core.console import Console
from installer.egress import namespaces, taps
from installer.egress.kernel_filter import Network
from installer.egress.packets import Address
from installer.egress.record import Record, Target
from installer.engine.base import Engine
from installer.host import parse

# How long a container may run before it is found; until then the bridge shows what it asks for.
LOOK_SECONDS = 1.0
POLL_SECONDS = 0.2


@dataclass(slots=True)
class Watched:
    """What was watched, and what came of it; containers by their names, and by their addresses."""

    record: Record
    seconds: float = 0.0
    ended_early: bool = False
    containers: set[str] = field(default_factory=set)
    addresses: dict[Address, str] = field(default_factory=dict)
    networks: set[Network] = field(default_factory=set)
    resolvers: set[Address] = field(default_factory=set)
    search: set[str] = field(default_factory=set)
    host: set[Address] = field(default_factory=set)
    missed: int = 0  # packets for which there was no room
    unseen: set[str] = field(default_factory=set)  # containers that have no network of their own


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace that is watched: that of a container or, without a name, of the bridges."""

    name: str
    view: namespaces.View
    tap: taps.Tap


def watch(engine: Engine, owner: int, seconds: float, console: Console) -> Watched:
    """Watch the containers of the user `owner` for some seconds, or until Ctrl-C. Raises CommandFailed."""
    watched = Watched(Record(time.time))
    places: dict[int, Place] = {}
    began = time.monotonic()
    try:
        look(engine, owner, watched, places)
        console.line(f"watching, Ctrl-C ends it: {', '.join(sorted(watched.containers)) or 'nothing runs yet'}")
        with console.progress("watched", round(seconds), unit="s") as bar:
            told, looked = 0, began
            while (gone := time.monotonic() - began) < seconds:
                wait(places, min(seconds - gone, POLL_SECONDS))
                for place in places.values():
                    keep(place, watched, places)
                if time.monotonic() - looked >= LOOK_SECONDS:
                    looked = time.monotonic()
                    look(engine, owner, watched, places)
                bar.update(int(gone) - told)
                told = int(gone)
    except errors.Interrupted as interruption:
        if interruption.signal != signal.SIGINT:
            raise
        watched.ended_early = True
    finally:
        watched.seconds = round(time.monotonic() - began, 1)
        for number in list(places):
            leave(number, watched, places)
    return watched


def wait(places: dict[int, Place], seconds: float) -> None:
    """Wait until a packet has come, but no longer than some seconds."""
    with selectors.DefaultSelector() as selector:
        for place in places.values():
            selector.register(place.tap, selectors.EVENT_READ)
        selector.select(seconds)


def look(engine: Engine, owner: int, watched: Watched, places: dict[int, Place]) -> None:
    """Find the containers that run, and where their bridges are; watch what is new, and leave what has gone."""
    found = engine.find_processes(owner)
    views = {process: view for process in found.all if (view := namespaces.look(process)) is not None}
    bridges = {views[process].number for process in found.bridges if process in views}
    for name, process in found.containers.items():
        if process in views and views[process].number in bridges:
            watched.unseen.add(name)
        elif process in views:
            learn(name, process, views[process], watched)
            visit(name, process, views[process], watched, places)
    for process in found.bridges:
        if process in views:
            watched.host |= views[process].addresses - gateways(views[process], watched)
            visit("", process, views[process], watched, places)
    for number in set(places) - {view.number for view in views.values()}:
        leave(number, watched, places)
    inside = sorted(watched.networks, key=str)
    for place in places.values():
        place.tap.restrict(inside, None if place.name else inside)


def gateways(view: namespaces.View, watched: Watched) -> set[Address]:
    """Return the addresses that the bridges have in the stack's networks."""
    return {each for each in view.addresses if is_in(each, watched.networks)}


def learn(name: str, process: int, view: namespaces.View, watched: Watched) -> None:
    """Keep what a container's network is like."""
    watched.containers.add(name)
    watched.networks |= set(view.networks)
    watched.addresses |= dict.fromkeys(view.addresses, name)
    resolv_conf = namespaces.read_resolv_conf(process)
    watched.resolvers.update(map(ipaddress.ip_address, parse.parse_resolvers(resolv_conf)))
    watched.search.update(parse.parse_search(resolv_conf))


def visit(name: str, process: int, view: namespaces.View, watched: Watched, places: dict[int, Place]) -> None:
    """Watch a namespace from now on; what a new container has opened before is read from its table."""
    known = places.get(view.number)
    if known is not None:
        places[view.number] = Place(known.name, view, known.tap)
        return
    tap = taps.open_tap(process)
    if tap is None:
        return
    places[view.number] = Place(name, view, tap)
    for each in namespaces.list_connections(process) if name else ():
        watched.record.add_target(name, Target(each.target, "tcp", each.port))


def leave(number: int, watched: Watched, places: dict[int, Place]) -> None:
    """Watch a namespace no longer."""
    place = places[number]
    keep(place, watched, places)
    watched.missed += place.tap.count_missed()
    place.tap.close()
    del places[number]


def keep(place: Place, watched: Watched, places: dict[int, Place]) -> None:
    """Keep what the packets that have come to a namespace ask for."""
    if place.name:
        for packet, direction, _ in place.tap.read():
            watched.record.add(place.name, packet, direction)
        return
    bridges = {place.view.networks[each] for each in watched.networks & set(place.view.networks)}
    # Who is watched himself, and the bridge.
    others = {address for each in places.values() if each.name or each is place for address in each.view.addresses}
    for packet, _, interface in place.tap.read():
        if interface in bridges:
            is_new = packet.source not in others and is_in(packet.source, watched.networks)
            watched.record.add(packet.source, packet, "out" if is_new else "in")


def is_in(address: Address, networks: set[Network]) -> bool:
    """Tell whether an address is in one of the networks."""
    return any(address.version == network.version and address in network for network in networks)
