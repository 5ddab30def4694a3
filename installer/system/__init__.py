"""What we change on a host outside of the engine: the unit for the boot, the firewall, our own copy."""
