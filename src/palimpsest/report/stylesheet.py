"""The style sheet of the page: one column on a phone, figures in two on a desktop, dark mode, print."""

STYLESHEET = """
:root { color-scheme: light dark; --paper: #fbfbf9; --ink: #1c1c1a; --soft: #5d5d58; --line: #dcdcd4; --card: #ffffff;
  --link: #0a58a6; --pass: #00734f; --fail: #b34700; --open: #66665f; --shade: #f1f1ec; }
@media (prefers-color-scheme: dark) { :root { --paper: #161615; --ink: #e9e9e4; --soft: #a9a9a2; --line: #3a3a37;
  --card: #1f1f1d; --link: #84bdf5; --pass: #4cc79b; --fail: #f59a5c; --open: #b5b5ad; --shade: #272725; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5; font-size: 1rem;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word; }
main, body > header, body > footer { max-width: 72rem; margin: 0 auto; padding: 0 clamp(.75rem, 3vw, 2rem); }
body > header { padding-top: 1.75rem; }
.made { margin: 0; color: var(--soft); font-size: .85rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.15; margin: .1rem 0 .5rem; letter-spacing: -.015em; }
.question { font-size: clamp(1.05rem, 2.6vw, 1.25rem); max-width: 46rem; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 2.75rem 0 .4rem; padding-top: .6rem;
  border-top: 2px solid var(--ink);
  letter-spacing: -.01em; }
h3 { font-size: 1.02rem; line-height: 1.3; margin: 0 0 .4rem; }
p, li, dd { max-width: 46rem; text-wrap: pretty; }
section > p { margin: 0 0 1rem; color: var(--soft); }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .35rem .4rem; list-style: none; margin: 1rem 0 0; padding: 0;
  font-size: .88rem; }
nav a { display: inline-block; padding: .28rem .65rem; border: 1px solid var(--line); border-radius: 1rem;
  text-decoration: none; background: var(--card); }
@media (max-width: 40rem) { nav ul { flex-wrap: nowrap; overflow-x: auto; padding-bottom: .4rem; }
  nav a { white-space: nowrap; } }
nav a:hover { border-color: currentColor; }
.tally { display: flex; flex-wrap: wrap; gap: .5rem 1.4rem; list-style: none; padding: 0; margin: 0 0 .5rem;
  font-weight: 600; }
.tally li, .verdict > header { display: flex; align-items: center; gap: .5rem; }
.verdict > header { flex-wrap: wrap; overflow-wrap: anywhere; }
.mark { width: 1.5rem; height: 1.5rem; flex: none; }
.pass { --tone: var(--pass); } .fail { --tone: var(--fail); } .open { --tone: var(--open); }
.word { color: var(--tone); font-weight: 700; letter-spacing: .03em; }
.verdicts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.verdict { background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--tone);
  border-radius: .5rem;
  padding: .9rem 1rem; min-width: 0; }
.verdict h3 { margin: .45rem 0 .3rem; font-size: 1.08rem; }
.verdict p { margin: .3rem 0; }
.estimates { list-style: none; margin: .5rem 0; padding: .45rem .7rem; background: var(--shade);
  border-radius: .35rem; font-size: .9rem; }
.estimates li + li { margin-top: .3rem; }
.verdict .rule, .verdict .rests { color: var(--soft); font-size: .88rem; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr));
  align-items: start; }
figure { margin: 0; padding: .75rem .6rem .8rem; background: #ffffff; color: #1c1c1a; border: 1px solid var(--line);
  border-radius: .5rem; min-width: 0; }
.beside { min-width: 0; }
figure h3, figcaption { padding: 0 .25rem; }
figure svg { display: block; width: 100%; max-width: 31rem; height: auto; margin: 0 auto; }
figcaption { font-size: .88rem; line-height: 1.42; color: #4c4c48; margin-top: .5rem; }
.nothing { border: 1px dashed var(--line); border-radius: .5rem; padding: .8rem 1rem; color: var(--soft); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; background: var(--card); }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .85rem; width: 100%; font-variant-numeric: tabular-nums; }
.table { margin: .8rem 0; } .beside > .table { margin-top: 0; }
.caption { margin: 0 0 .35rem; color: var(--soft); font-size: .85rem; line-height: 1.4; }
  .file { font-size: .85rem; margin: .4rem 0; }
thead tr > * { border-top: 0; }
th, td { text-align: left; padding: .35rem .6rem; border-top: 1px solid var(--line); vertical-align: top;
  font-weight: normal; }
thead th { font-weight: 600; background: var(--shade); white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
td.number, .kind { white-space: nowrap; } td b { font-weight: 650; }
.interval, .n { color: var(--soft); font-size: .92em; } .n { white-space: nowrap; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .88em;
  background: var(--shade); padding: .08em .3em; border-radius: .25em; overflow-wrap: anywhere; }
dl.limits dt { font-weight: 600; margin-top: .7rem; } dl.limits dd { margin: 0; color: var(--soft); }
body > footer { margin-top: 3rem; padding-top: 1rem; padding-bottom: 2.5rem; color: var(--soft); font-size: .85rem; }
@media print { :root { --paper: #fff; --ink: #000; --soft: #333; --line: #bbb; --card: #fff; --shade: #f3f3f3;
  --link: #000;
  --pass: #00573b; --fail: #8a3600; --open: #444; }
  body { font-size: 10pt; } nav { display: none; } h2 { break-after: avoid; }
  figure, .verdict, tr { break-inside: avoid; }
  .scroll { overflow: visible; } .figures { grid-template-columns: 1fr 1fr; } a { text-decoration: none; } }
"""
