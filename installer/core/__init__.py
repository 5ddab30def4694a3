"""The ground: starting programs, files, the lock, the log, the console, errors, and every name in one place."""
