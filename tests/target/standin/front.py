"""Stands in for Dify's web front end."""

import web

PAGE = b"<!doctype html><title>Dify</title>"

web.serve(3000, {path: lambda _request: (200, PAGE) for path in ("/", "/install", "/signin", "/apps")})
