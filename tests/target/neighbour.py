"""Another host on a machine's LAN, as the one that a company's model servers run on.

It is a network namespace of the machine: containers reach it as they reach a host next door, whereas those of
rootless podman cannot reach the addresses of the machine that they run on.
"""

from __future__ import annotations

from tests.target.machine import Machine

NEIGHBOUR = "10.0.0.9"


class Neighbour:
    """A host with the address 10.0.0.9, and with more if asked; it has the machine's disk and is gone at a reboot."""

    def __init__(self, machine: Machine, *more: str) -> None:
        self.machine = machine
        commands = [
            "ip netns add neighbour",
            "ip link add port0 master lan0 up type veth peer name lan0 netns neighbour",
            f"ip -n neighbour address add {NEIGHBOUR}/24 dev lan0",
            *(f"ip -n neighbour address add {address}/32 dev lan0" for address in more),
            "ip -n neighbour link set lan0 up",
            "ip -n neighbour link set lo up",
            *(f"ip route add {address}/32 via {NEIGHBOUR}" for address in more),
        ]
        machine.run(" && ".join(commands))

    def start(self, command: str, log: str = "/dev/null") -> None:
        """Start a command there, and return at once."""
        self.machine.run(f"setsid ip netns exec neighbour {command} >{log} 2>&1 </dev/null &")

    def await_listening(self, port: int) -> None:
        """Wait until something there listens at a port."""
        self._await(f"ss -Hltn | grep -q :{port}")

    def await_asked(self, port: int) -> None:
        """Wait until somebody is connected with what listens there at a port."""
        self._await(f"ss -Htn state established | grep -q :{port}")

    def _await(self, condition: str) -> None:
        self.machine.run(f"until ip netns exec neighbour {condition}; do sleep 0.1; done", timeout=30)
