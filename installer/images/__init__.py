"""How the images of a bundle come into the engine: loaded from the archive, or mounted as a store."""
