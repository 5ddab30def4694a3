"""What we know of a Dify release: its settings, its compose file and how ours departs from it, `.env`, https."""
