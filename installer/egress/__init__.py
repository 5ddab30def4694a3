"""Watches what the containers of an installation ask for outside: captures, parses, judges."""
