"""The host: facts that are observed, and judges that are pure functions of them."""
