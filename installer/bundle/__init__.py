"""What a bundle is and the proof that it is what was built: manifest, verification, seal."""
