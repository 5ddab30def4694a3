"""The host's container engine, podman or docker, and how podman and podman-compose come onto a host."""
