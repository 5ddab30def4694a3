"""Writes a Dify down as objects of Kubernetes: from the same compose file and `.env` as on one machine."""
