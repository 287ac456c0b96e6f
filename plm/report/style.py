"""Colours, layout and the read-out of a report, all inline: the page needs no network."""

_LIGHT = """--page:#f6f7f9;--card:#fff;--ink:#17191d;--soft:#5c6470;--line:#e3e6ea;--axis:#aab1bb;
--good:#0b7a43;--warn:#a35200;--accent:#2a6fc9;--b0:#2a6fc9;--b1:#d98200;--b2:#1a9a6c;
--b3:#8a52c4;--c0:#2a6fc9;--c1:#dd5b22;--c2:#14946a;--c3:#b87c00;--c4:#c9478a;
--c5:#5a48b5;--c6:#3f8f1f;--c7:#c93a3a"""
_DARK = """--page:#111318;--card:#1a1d23;--ink:#eceef1;--soft:#a2abb8;--line:#2c313a;--axis:#59616d;
--good:#4cc38a;--warn:#e5a34b;--accent:#6aa5f2;--b0:#6aa5f2;--b1:#e0a33c;--b2:#3fbd8c;
--b3:#b48be8;--c0:#5b9bf0;--c1:#f0804d;--c2:#2fb98a;--c3:#d9a227;--c4:#e57bb0;
--c5:#a394f0;--c6:#7cc35c;--c7:#ee7575"""

VARIABLES = f":root{{{_LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
"""Colours for light and dark surroundings, by the names that the drawings use."""

_PALETTE = "".join(f".c{i}{{stroke:var(--c{i});--me:var(--c{i})}}" for i in range(8)) + "".join(
    f".b{i}{{fill:var(--b{i})}}" for i in range(4)
)

DRAWING = (
    """svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft);
font-variant-numeric:tabular-nums}
.x,.band-name{text-anchor:middle}.y{text-anchor:end}svg .band-name{fill:var(--ink);opacity:.75}
.band{opacity:.09}.grid{stroke:var(--line);fill:none}.axis{stroke:var(--axis);fill:none}
.s{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.faint{stroke-width:1;opacity:.45}.asked{stroke-width:1.4;stroke-dasharray:2 5}
.grey{stroke:var(--soft)}.again{stroke-dasharray:7 4}
.dot{fill:var(--me);stroke:var(--card);stroke-width:1}
.heat{fill:var(--accent)}.edge{stroke:var(--ink);stroke-dasharray:3 3;opacity:.5}
"""
    + _PALETTE
)
"""Rules of the drawings alone, which a picture of its own carries too."""

PAGE = """*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1168px;margin:0 auto;padding:28px 16px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 12px}h3{font-size:14px;margin:0 0 6px}
h3 small{font-weight:400;color:var(--soft);margin-left:6px}
p{margin:0 0 12px;color:var(--soft)}header p{margin:0;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;
margin-top:16px}section>:last-child{margin-bottom:0}
.pill{display:inline-block;font-size:13px;font-weight:600;border:1px solid;border-radius:99px;
padding:1px 10px;margin-left:8px;vertical-align:4px}.good{color:var(--good)}.warn{color:var(--warn)}
.warning{color:var(--warn);margin-top:12px}.missing{font-style:italic}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:14px 24px;margin:0}
.tiles div{min-width:0}.tiles dt{color:var(--soft);font-size:13px}
.tiles dd{margin:0;font-size:13px;color:var(--soft)}
.tiles dt+dd{font-size:27px;line-height:1.25;font-weight:650;color:var(--ink)}
figure{margin:0 0 20px;position:relative;min-width:0}figure:last-child{margin-bottom:0}
figcaption{font-weight:600;font-size:14px;margin-bottom:4px}
figure>svg{display:block;width:100%;height:auto}figure>.phone{display:none}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:20px 28px;margin-bottom:20px}
.pair:last-child{margin-bottom:0}.pair figure{margin:0}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:0 0 4px;padding:0;
font-size:13px;color:var(--soft)}.legend .faint{stroke-width:2}
.legend svg{vertical-align:middle;margin-right:6px}
.key{font-size:13px;margin:0 0 4px}.key span{display:inline-flex;vertical-align:-1px}
.key i{width:14px;height:12px;background:var(--accent)}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft);font-weight:500;font-size:13px;vertical-align:bottom}
th:first-child{text-align:left;padding-left:0}tbody th{font-weight:600}
td:last-child,thead th:last-child{padding-right:0}tbody tr:last-child>*{border-bottom:0}
.notes{list-style:none;margin:10px 0 0;padding:0;color:var(--soft);font-size:13px;
overflow-wrap:anywhere}.notes li+li{margin-top:4px}.notes+.pair{margin-top:16px}
.beaten{color:var(--good)}.ahead{color:var(--warn)}.ours{font-weight:700}
dl:not(.tiles){display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:8px 24px;
margin:0 0 12px;font-size:14px}dl:not(.tiles)>div{min-width:0}dt{color:var(--soft)}
dl:not(.tiles) dt{font-size:13px}dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--page);border:1px solid var(--line);border-radius:8px;padding:12px;margin:0;
overflow:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.sample,.command{white-space:pre-wrap;overflow-wrap:anywhere}.sample{max-height:420px}
.sample b{color:var(--accent);font-weight:700}.cut{color:var(--soft)}
article+article{margin-top:16px}summary{cursor:pointer;color:var(--accent)}
details pre{margin-top:12px;max-height:70vh}
.tip{position:absolute;pointer-events:none;background:var(--card);border:1px solid var(--axis);
border-radius:8px;padding:5px 9px;font-size:12.5px;line-height:1.45;white-space:pre;z-index:2;
box-shadow:0 2px 10px #0003}
@media(max-width:899px){.pair{grid-template-columns:1fr}
figure>.wide,figure>.half{display:none}figure>.phone{display:block;max-width:600px}}
@media(max-width:699px){section{padding:16px 14px}main{padding:18px 10px 40px}h1{font-size:22px}
.tiles{grid-template-columns:1fr 1fr}
dl:not(.tiles){grid-template-columns:repeat(auto-fill,minmax(140px,1fr))}
thead{display:none}table,tbody{display:block}tr{display:block;padding:8px 0;
border-bottom:1px solid var(--line)}tr:last-child{border-bottom:0}
th[scope=row]{display:block;border:0;padding:0 0 2px}
td,td:last-child{display:flex;justify-content:space-between;gap:16px;border:0;padding:1px 0}
td:before{content:attr(data-head);color:var(--soft);text-align:left;flex:none}}
@media print{section{break-inside:avoid;border:0;padding:8px 0}.sample{max-height:none}}
"""

SCRIPT = """'use strict';
const units='kMBT';
function short(v){let u=-1;while(Math.abs(v)>=999.5&&u<3){v/=1e3;u++}
return +v.toPrecision(3)+(u<0?'':units[u])}
function say(v,unit){if(unit==='tokens')return short(v);
if(unit==='share')return (100*v).toFixed(1)+' %';
return Math.abs(v)<1e-3&&v!==0?v.toExponential(2):String(+v.toPrecision(4))}
for(const svg of document.querySelectorAll('svg[data-x]')){
const [x0,x1,l,r]=svg.dataset.x.split(',').map(Number);
const [y0,y1,b,t,log]=svg.dataset.y.split(',').map(Number);
const height=svg.viewBox.baseVal.height,width=svg.viewBox.baseVal.width;
let curves=null,tip=null,mark=null;
const value=py=>{const s=(b-py)/(b-t);return log?y0*Math.pow(y1/y0,s):y0+s*(y1-y0)};
const hide=()=>{if(tip){tip.remove();mark.remove();tip=null}};
svg.addEventListener('pointerleave',hide);
svg.addEventListener('pointermove',event=>{
if(!curves)curves=[...svg.querySelectorAll('polyline')].map(p=>({name:p.dataset.name,
at:[...p.points].map(q=>[q.x,q.y])})).filter(c=>c.at.length);
const box=svg.getBoundingClientRect(),x=(event.clientX-box.left)/box.width*width;
if(x<l||x>r||!curves.length){hide();return}
const near=curves.map(c=>c.at.reduce((p,q)=>Math.abs(q[0]-x)<Math.abs(p[0]-x)?q:p));
const at=near.reduce((p,q)=>Math.abs(q[0]-x)<Math.abs(p[0]-x)?q:p)[0];
if(!tip){tip=document.createElement('div');tip.className='tip';svg.parentNode.append(tip);
mark=document.createElementNS('http://www.w3.org/2000/svg','path');
mark.setAttribute('class','axis');
svg.append(mark)}
mark.setAttribute('d',`M${at} ${t}V${b}`);
tip.textContent=[short(x0+(at-l)/(r-l)*(x1-x0))+' tokens',...curves.map((c,i)=>
c.name+': '+say(value(near[i][1]),svg.dataset.unit))].join('\\n');
const top=box.top-svg.parentNode.getBoundingClientRect().top;
const left=at/width*box.width,room=svg.parentNode.clientWidth-tip.offsetWidth;
tip.style.left=Math.max(0,Math.min(room,left>room-12?left-tip.offsetWidth-12:left+12))+'px';
tip.style.top=top+t/height*box.height+4+'px'})}
"""
