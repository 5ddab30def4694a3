"""Sends images from the archives into a registry, by the OCI Distribution Specification 1.1."""
