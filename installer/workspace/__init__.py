"""Works inside a running Dify, through its front door and its console's own API."""
