"""How the page looks: on a wide screen and a small one, light and dark, and on paper. No font comes from outside."""

from __future__ import annotations

STYLE = """
:root {
  --paper: #ffffff; --ink: #151515; --quiet: #4d4d4d; --line: #c7c7c7; --hair: #e0e0e0; --tint: #f5f5f5;
  --link: #0057b3; --bar: #4a6785; --ok: #2c6415; --warning: #7a4a00; --error: #a30d05;
  --text: "Red Hat Text", "Segoe UI", -apple-system, BlinkMacSystemFont, "Noto Sans", Cantarell, "Liberation Sans",
    Arial, "Noto Sans KR", "Noto Sans CJK KR", "Malgun Gothic", "Apple SD Gothic Neo", sans-serif;
  --mono: "Red Hat Mono", "Cascadia Mono", Consolas, Menlo, "Liberation Mono", "DejaVu Sans Mono", monospace;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #151515; --ink: #ececec; --quiet: #b4b4b4; --line: #575757; --hair: #363636; --tint: #202020;
    --link: #8cbcf0; --bar: #7f9fbf; --ok: #93c47d; --warning: #f0b64f; --error: #ff9b90;
  }
}
* { box-sizing: border-box; }
html { background: var(--paper); -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; color: var(--ink); font: 400 1rem/1.55 var(--text); overflow-wrap: break-word;
  border-top: 6px solid var(--ink);
}
:lang(ko) { word-break: keep-all; }
main, footer { max-width: 72rem; margin: 0 auto; padding: 0 2rem; }
a { color: var(--link); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
p { margin: 0 0 0.75rem; }
h1, h2, h3 { font-weight: 600; line-height: 1.25; margin: 0; }
h1 { font-size: 2.75rem; letter-spacing: -0.02em; }
h2 { font-size: 1.25rem; }
h3 { font-size: 1rem; margin: 2.25rem 0 0.5rem; }
code, .hash, .settings tbody, .hashes th[scope="row"] { font-family: var(--mono); }
code { font-size: 0.875em; overflow-wrap: anywhere; }

header { padding: 3.5rem 0 2.5rem; }
.kicker { color: var(--quiet); margin-bottom: 0.5rem; }
.verdict { font-size: 1.25rem; margin: 1rem 0 0; padding-left: 1rem; border-left: 4px solid currentColor; }
.verdict.ok { color: var(--ok); } .verdict.warning { color: var(--warning); } .verdict.error { color: var(--error); }
.address { font-size: 1.25rem; margin: 0.25rem 0 0; padding-left: calc(1rem + 4px); }
header .about { margin-top: 2.25rem; }

section { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: 0 2.5rem; padding: 2rem 0 3rem;
  border-top: 1px solid var(--line); }
section > div > :first-child { margin-top: 0; }
section > div > :last-child { margin-bottom: 0; }

dl { margin: 0 0 1rem; }
dl.about { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 0 2rem; }
dt { color: var(--quiet); font-size: 0.875rem; }
dd { margin: 0 0 0.75rem; overflow-wrap: anywhere; }
dl.told dd { white-space: pre-wrap; }
dl.commands { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 0 1.5rem; }
dl.commands dd { margin: 0.125rem 0 0.75rem; }
dl.commands code { display: block; background: var(--tint); padding: 0.5rem 0.75rem; }
ol, ul { margin: 0 0 1.25rem; padding-left: 1.25rem; }
li { margin-bottom: 0.5rem; padding-left: 0.25rem; }

table { width: 100%; border-collapse: collapse; table-layout: fixed; font-size: 0.9375rem; line-height: 1.45; }
th, td { text-align: left; vertical-align: top; padding: 0.5rem 1rem 0.5rem 0; border-bottom: 1px solid var(--hair);
  overflow-wrap: anywhere; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--quiet); font-size: 0.8125rem; font-weight: 400; border-bottom-color: var(--line); }
tbody th { font-weight: 600; }
tfoot th, tfoot td { font-weight: 600; border-bottom: 0; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.findings th:nth-child(1) { width: 13rem; } .findings th:nth-child(2) { width: 5.5rem; }
.times th:nth-child(1) { width: 13rem; } .times th:nth-child(3) { width: 6rem; text-align: right; }
.hashes th:nth-child(2) { width: 6.5rem; text-align: right; }
.settings th:nth-child(1) { width: 50%; }
.settings tbody, .hashes tbody th { font-size: 0.8125rem; }
.settings tbody th { font-weight: 400; }
.hash { color: var(--quiet); font-size: 0.75rem; font-weight: 400; margin-top: 0.125rem; }
.hash span { font-family: var(--text); }
.level { font-weight: 600; white-space: nowrap; }
.level.ok { color: var(--ok); } .level.warning { color: var(--warning); } .level.error { color: var(--error); }
.level.info { color: var(--quiet); font-weight: 400; }
.remedy { margin: 0.25rem 0 0; } .findings .remedy { color: var(--warning); }
.bar { display: block; margin: 0.375rem 0 0.25rem; } .bar rect { fill: var(--bar); }
.seen, .aside { color: var(--quiet); font-size: 0.875rem; }
.aside { margin-top: 0.75rem; }
footer { color: var(--quiet); font-size: 0.875rem; padding-top: 1.5rem; padding-bottom: 3rem; }
footer p { border-top: 1px solid var(--line); padding-top: 1.5rem; }

@media screen and (max-width: 48rem) {
  main, footer { padding-left: 1rem; padding-right: 1rem; }
  header { padding: 2rem 0 1.5rem; }
  h1 { font-size: 2rem; }
  section { display: block; padding: 1.5rem 0 2rem; }
  h2 { margin-bottom: 1rem; }
  th, td { padding-right: 0.625rem; }
  table { font-size: 0.875rem; }
  .findings th:nth-child(1) { width: 7.25rem; } .findings th:nth-child(2) { width: 5rem; }
  .times th:nth-child(1) { width: 7rem; } .times th:nth-child(3) { width: 4.25rem; }
  .hashes th:nth-child(2) { width: 5.25rem; }
}
@page { size: A4; margin: 16mm 16mm 18mm; }
@media print {
  html { font-size: 9.5pt; }
  body { border-top: 0; }
  main, footer { max-width: none; padding: 0; }
  header { padding-top: 0; }
  section { display: block; padding: 1.25rem 0 1.5rem; }
  h2 { margin-bottom: 0.75rem; }
  h2, h3, thead { break-after: avoid; }
  tr, li, dl > div, header { break-inside: avoid; }
  a { color: inherit; text-decoration: none; }
  dl.commands code { padding: 0; background: none; }
}
"""
