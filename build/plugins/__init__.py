"""Plugins for a bundle: their packages as their authors signed them, and one wheelhouse for all of them."""
