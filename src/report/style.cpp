// SPDX-License-Identifier: Apache-2.0
#include "report/style.h"

namespace biqa {

// The colours of lines keep apart for all common kinds of colour blindness, and from the background by at least 3:1.
const char* const kPageStyle = R"css(
:root{color-scheme:light dark;--page:#fff;--card:#f7f7f4;--text:#1b1d1f;--soft:#5a6067;--rule:#d9dad4;--grid:#e3e4de;--link:#0b5a9c;
--mark:#fff3c4;--bad:#a8321a;--c0:#0a66ad;--c1:#c8500a;--c2:#0b7d5c;--c3:#93429a;--c4:#7d6608;--c5:#4d5560;
--serif:Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,"DejaVu Serif",serif;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--card:#1c2024;--text:#e6e7e3;--soft:#a0a7ae;--rule:#363c43;--grid:#2c3238;
--link:#7db8ee;--mark:#4a3f12;--bad:#ff9d84;--c0:#62aef0;--c1:#f2924e;--c2:#46c49b;--c3:#d79ae0;--c4:#d9bd4a;--c5:#b4bcc6}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0 auto;max-width:76rem;padding:2.5rem 1.5rem 3rem;background:var(--page);color:var(--text);font:1rem/1.6 var(--serif);
overflow-wrap:break-word}
h1,h2,h3,h4{line-height:1.25;font-weight:600;margin:0;text-wrap:balance}
h1{font-size:2rem;letter-spacing:-.01em}
h2{font-size:1.4rem;margin:0 0 .75rem}
h3{font-size:1.1rem;margin:2rem 0 .6rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--link);text-underline-offset:.15em}
:focus-visible{outline:3px solid var(--c0);outline-offset:2px;border-radius:2px}
.skip{position:absolute;left:-100rem;background:var(--page);padding:.5rem 1rem;z-index:1}
.skip:focus{left:1rem;top:.5rem}
header p{color:var(--soft)}
section{border-top:1px solid var(--rule);margin-top:2.75rem;padding-top:1.5rem}
nav{font:.875rem/1.4 var(--sans);margin-top:1.25rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;margin:0;padding:0}
footer{border-top:1px solid var(--rule);margin-top:2.75rem;padding-top:1rem;color:var(--soft);font:.8125rem/1.5 var(--sans)}
.soft,.caption{color:var(--soft)}
.caption{font-size:.9375rem}
.notes{font:.875rem/1.5 var(--sans);color:var(--soft);padding-left:1.2rem;margin:.6rem 0;max-width:52rem}
.notes li{margin:.2rem 0}
.scroll{overflow-x:auto;max-width:100%;margin:.75rem 0}
table{border-collapse:collapse;font:.875rem/1.45 var(--sans);font-variant-numeric:tabular-nums lining-nums}
caption{text-align:left;color:var(--soft);padding:0 0 .4rem;font-size:.8125rem}
th,td{padding:.32rem .75rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{padding-left:0}
thead th{border-bottom:1px solid var(--text);font-weight:600;vertical-align:bottom}
th.long{min-width:12rem}
tbody th{font-weight:400}
tbody tr:last-child>*{border-bottom:1px solid var(--text)}
.number{text-align:right}
.number span{display:inline-block;white-space:nowrap;color:var(--soft)}
.settings td{overflow-wrap:anywhere;min-width:9rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));gap:1.25rem 1.5rem;margin:1rem 0;align-items:start}
.charts.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),28rem))}
figure{margin:0;min-width:0}
.bars{max-width:34rem}
figcaption{font:600 .875rem/1.35 var(--sans);margin-bottom:.15rem}
figcaption span{font-weight:400;color:var(--soft);margin-left:.4rem}
figure svg{display:block;width:100%;height:auto}
details{font:.8125rem/1.5 var(--sans)}
summary{cursor:pointer;color:var(--soft);width:fit-content}
details .scroll{max-height:22rem;overflow:auto}
svg text{font:11px var(--sans);fill:var(--soft);font-variant-numeric:tabular-nums}
svg .strong{fill:var(--text);font-weight:600}
.grid{stroke:var(--grid);stroke-width:1}
.axis{stroke:var(--soft);stroke-width:1}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.dashed{stroke-dasharray:6 4}
.dotted{stroke-dasharray:1 4}
.band{fill:var(--c);opacity:.18}
.dot{fill:var(--c);stroke:var(--page);stroke-width:1}
.hollow{fill:var(--page);stroke:var(--c);stroke-width:1.75}
.cloud{fill:none;stroke:var(--c);stroke-width:5;stroke-linecap:round;opacity:.5}
.bar{fill:var(--c)}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;margin:.6rem 0;font:.8125rem/1.5 var(--sans)}
.legend svg{width:30px;height:12px;vertical-align:-1px;margin-right:.4rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,10.5rem),1fr));gap:1rem;margin:1rem 0 1.5rem}
.tile{border-top:3px solid var(--text);padding-top:.5rem;font:.8125rem/1.45 var(--sans)}
.tile h3{margin:0;font:600 .8125rem/1.35 var(--sans)}
.tile p{margin:.35rem 0 0;color:var(--soft)}
.tile b{display:block;font:600 1.5rem/1.2 var(--serif);color:var(--text);font-variant-numeric:tabular-nums lining-nums;white-space:nowrap}
.tile b i{font-style:normal;font-weight:400;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,33rem),1fr));gap:1.25rem;margin:1rem 0}
.card{background:var(--card);border:1px solid var(--grid);border-radius:4px;padding:1rem;display:grid;grid-template-columns:11rem minmax(0,1fr);gap:1rem;
break-inside:avoid}
@media (max-width:34rem){body{padding:1.5rem 1rem 2rem}h1{font-size:1.6rem}.tile b{font-size:1.25rem}.card{grid-template-columns:minmax(0,1fr)}
.card .picture{max-width:14rem}th,td{padding:.3rem .5rem}}
.picture img{display:block;width:100%;height:auto;background:var(--grid)}
.missing{display:grid;place-items:center;aspect-ratio:4/3;border:1px dashed var(--soft);color:var(--soft);padding:.5rem;text-align:center;
font:.8125rem/1.4 var(--sans)}
.card h4{font:600 .9375rem/1.35 var(--sans);overflow-wrap:anywhere}
.card h4 span{font-weight:400;color:var(--soft);margin-left:.3rem}
.card dl{margin:.6rem 0 0;font-size:.9375rem}
.card dt{font:600 .75rem/1.4 var(--sans);color:var(--soft);margin-top:.45rem}
.card dd{margin:0;unicode-bidi:isolate;white-space:pre-line;overflow-wrap:anywhere}
.card .marks{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.35rem 0 0;font:.8125rem/1.5 var(--sans)}
.card .marks b{font-variant-numeric:tabular-nums}
.card .scale{display:block;width:100%;max-width:20rem;height:auto;margin-top:.25rem}
.flag{display:inline-block;font:600 .75rem/1.5 var(--sans);color:var(--bad);border:1px solid currentColor;border-radius:3px;padding:0 .35rem;margin:.3rem .4rem 0 0}
@media print{:root{--page:#fff;--card:#fff;--text:#000;--soft:#444;--rule:#999;--grid:#ccc;--link:#000;--c0:#0a66ad;--c1:#c8500a;--c2:#0b7d5c;
--c3:#93429a;--c4:#7d6608;--c5:#4d5560}
body{max-width:none;padding:0;font-size:10pt}nav,.skip,details{display:none}section{margin-top:1.2rem;padding-top:.8rem}
h2,h3,figcaption{break-after:avoid}figure,tr,.tile{break-inside:avoid}.scroll{overflow:visible;max-height:none}
.charts{grid-template-columns:repeat(3,1fr)}.charts.wide,.cards{grid-template-columns:repeat(2,1fr)}.card{grid-template-columns:7rem 1fr}table{font-size:7pt}th,td{padding:.15rem .3rem}thead{break-after:avoid}}
)css";

}  // namespace biqa
