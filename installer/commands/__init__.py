"""The commands, one pipeline each, read from top to bottom."""
