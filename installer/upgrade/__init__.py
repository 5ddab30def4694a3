"""From one release of Dify to a newer one, and back: what is kept of the one before, and what is compared."""
