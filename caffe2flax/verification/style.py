"""The style of a report's page."""

STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color:#1c2230;background:#fff}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.result{border-left:6px solid #2c8a4b;padding:.4rem 1rem;margin:1rem 0;
background:#f1f8f3}
.bad .result{border-color:#c0392b;background:#fdf2f0}
table{border-collapse:collapse;font-size:13.5px}
th{text-align:left;border-bottom:2px solid #ccd2dc;position:sticky;top:0;
background:#fff}
td,th{padding:.22rem .9rem .22rem 0;vertical-align:top}
td{border-bottom:1px solid #eceff4}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.broken td{background:#fdf2f0;color:#a32a1d}
code,pre,.c{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px}
a{color:#1d5fa8;text-decoration:none}a:hover{text-decoration:underline}
.scroll{overflow-x:auto}
pre{background:#f7f8fa;padding:.8rem 0;line-height:1.45;overflow-x:auto}
pre span{display:block;padding-right:1rem}
pre span:target,tr:target td{background:#fff3bf}
pre a{display:inline-block;width:3.2rem;text-align:right;margin-right:1rem;
color:#9aa3b2;user-select:none}
.proof{overflow-wrap:anywhere}
.proof td:first-child{white-space:nowrap;color:#5b6475}
.beside{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
.beside img{display:block;max-width:100%}
.net{position:relative;width:max-content;background:#fff}
.net img,.net svg{display:block}
.net svg{position:absolute;left:0;top:0}
.net rect{fill:transparent}
.net a:hover rect,.net a:focus rect{fill:#1d5fa833}
.net .wrong rect{fill:#c0392b55}
.card{display:none}
.card:target{display:block;position:fixed;left:0;right:0;bottom:0;max-height:40vh;
overflow:auto;padding:.6rem 1rem;background:#f7f8fa;border-top:3px solid #1d5fa8}
svg text{font:11px system-ui,sans-serif;fill:#5b6475}
@media(prefers-color-scheme:dark){
:root{color-scheme:dark}
body,th{color:#d5dae4;background:#14171d}th{border-color:#434b5a}
td{border-color:#272d38}.result{background:#15251b}
.bad .result,.broken td{background:#321c19}.broken td{color:#f2a99f}
a{color:#82b4ef}pre{background:#1b1f27}
pre span:target,tr:target td{background:#4b4216}
.card:target{background:#1b1f27}.proof td:first-child{color:#98a1b1}
svg text{fill:#98a1b1}svg line:not([stroke-dasharray]){stroke:#2c333f}
img{background:#fff}
}
"""
