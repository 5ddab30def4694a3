"""Makes a bundle on a connected machine: the executable, the image archive and their hashes."""
