"""Asks services that run already, and that Dify is to use: whether it could, before anything is changed."""
