"""Stands in for Dify's web front end, with what it asks for outside unless it is kept from that.

As seen of the real one: pm2, which runs it, asks for its newest version; Next.js tells of itself; browsers ask the api
whether there is a newer Dify and, on the page of tools, the marketplace at the address that the front end has.
"""

import os

import outside
import web

ENV = os.environ
# A request that the page waits for, so that whoever sees it loaded has seen what it asks for.
PAGE = """<!doctype html><title>Dify</title><script>
for (const url of %s) {
  const asked = new XMLHttpRequest(); asked.open("GET", url, false); try { asked.send() } catch {}
}
</script>"""
COMMON = ["/console/api/system-features", "/console/api/version?current_version=0.1.0"]
PAGES = dict.fromkeys(("/", "/install", "/signin", "/apps", "/datasets"), COMMON)
PAGES["/tools"] = [*COMMON, ENV.get("MARKETPLACE_API_URL", "") + "/api/v1/collections"]

if ENV.get("PM2_DISCRETE_MODE") != "true":
    outside.ask("https://version.pm2.io/")
if ENV.get("NEXT_TELEMETRY_DISABLED") != "1":
    outside.ask("https://telemetry.nextjs.org/")


def page(urls):
    return lambda _request: (200, (PAGE % urls).encode())


web.serve(3000, {path: page(urls) for path, urls in PAGES.items()})
