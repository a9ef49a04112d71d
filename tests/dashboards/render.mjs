// Draws every dashboard of dashboards/ in Chromium against a Prometheus and writes a picture and a report of each.
//
//   node render.mjs --prometheus http://127.0.0.1:9090 --to 1764201600 --hours 24 --out DIR [--only UID] [--scrape 30]
//
// In: the shipped JSON, a running Prometheus. Out: DIR/<uid>.png, DIR/report.json; exit 1 if a page could not be drawn at all.
// What is drawn is judged by tests/dashboards.rs. The bundle of the page is kept beside node_modules while its sources stay.
// Needs: NODE_PATH-free resolution, so it is run from where `npm install` was done (tests/tools/install.sh copies it there).

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const { values: args } = parseArgs({ options: {
  prometheus: { type: 'string' }, to: { type: 'string' }, hours: { type: 'string', default: '24' }, out: { type: 'string' },
  dashboards: { type: 'string' }, only: { type: 'string' }, scrape: { type: 'string', default: '30' }, theme: { type: 'string', default: 'dark' },
} });
const here = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const WIDTH = 1500;
const CELL = 38; // height of a row of Grafana's grid with its gap
const PATIENCE = 120_000;

async function bundle() {
  const hash = createHash('sha256');
  for (const name of readdirSync(path.join(here, 'page')).sort()) {
    hash.update(readFileSync(path.join(here, 'page', name)));
  }
  hash.update(readFileSync(path.join(here, 'package.json'))).update(readFileSync(path.join(here, 'render.mjs')));
  const dir = path.join(here, 'bundle', hash.digest('hex').slice(0, 16));
  if (!existsSync(path.join(dir, 'done'))) {
    await build({
      absWorkingDir: here, entryPoints: [path.join(here, 'page/main.tsx')], bundle: true, outdir: dir, format: 'esm', splitting: true, minify: true, jsx: 'automatic',
      loader: { '.svg': 'text' }, define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
      alias: { 'react-router-dom-v5-compat': 'react-router-dom', 'monaco-editor': path.join(here, 'page/nothing.ts') },
      logLevel: 'error',
    });
    writeFileSync(path.join(dir, 'done'), '');
  }
  return dir;
}

const TYPES = { '.js': 'text/javascript', '.css': 'text/css', '.woff2': 'font/woff2', '.svg': 'image/svg+xml', '.json': 'application/json' };

// Serves the bundle, Grafana's icons, the dashboards and, under /prometheus, the Prometheus.
function serve(dir) {
  const icons = path.join(here, 'node_modules/@grafana/ui/dist/public/img');
  const server = http.createServer(async (request, answer) => {
    const url = new URL(request.url, 'http://localhost');
    const give = (file) => {
      if (!existsSync(file)) {
        answer.writeHead(404).end();
        return;
      }
      answer.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' }).end(readFileSync(file));
    };
    if (url.pathname === '/') {
      answer.writeHead(200, { 'content-type': 'text/html' }).end(PAGE);
    } else if (url.pathname.startsWith('/prometheus/')) {
      try {
        const passed = await fetch(args.prometheus + url.pathname.slice('/prometheus'.length) + url.search);
        answer.writeHead(passed.status, { 'content-type': 'application/json' }).end(await passed.text());
      } catch (error) {
        answer.writeHead(502).end(JSON.stringify({ status: 'error', error: String(error) }));
      }
    } else if (url.pathname.startsWith('/dashboards/')) {
      give(path.join(args.dashboards, path.basename(url.pathname)));
    } else if (url.pathname.startsWith('/public/fonts/')) {
      give(path.join(here, 'node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2'));
    } else if (url.pathname.includes('/img/')) {
      give(path.join(icons, path.normalize(url.pathname.slice(url.pathname.indexOf('/img/') + 5))));
    } else {
      give(path.join(dir, path.basename(url.pathname)));
    }
  });
  return new Promise((done) => server.listen(0, '127.0.0.1', () => done(server)));
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>dashboard</title><link rel="stylesheet" href="/main.css">
<style>
  html { font-size: 14px; } body { margin: 0; }
  *, *::before, *::after { transition: none !important; animation: none !important; }
  .page { padding: 16px; width: ${WIDTH - 32}px; font-family: Inter, sans-serif; }
  .page > header { display: flex; justify-content: space-between; align-items: baseline; margin-bottom: 8px; }
  .page > header h1 { font-size: 20px; margin: 0; }
  .no-data { display: flex; height: 100%; align-items: center; justify-content: center; opacity: 0.7; text-align: center; }
</style><div id="root"></div><script type="module" src="/main.js"></script>`;

// Everything that can be told from the drawn page: cut titles, legends over each other, texts that do not fit.
function look() {
  const box = (element) => element.getBoundingClientRect();
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  // Pixels of a graph that have a color: lines and areas, not the grid.
  const ink = (canvas) => {
    if (!canvas) {
      return 0;
    }
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let colored = 0;
    for (let at = 0; at < data.length; at += 4) {
      colored += Math.max(data[at], data[at + 1], data[at + 2]) - Math.min(data[at], data[at + 1], data[at + 2]) > 50 ? 1 : 0;
    }
    return colored;
  };
  const cut = (element) => element.scrollWidth > element.clientWidth + 1;
  return [...document.querySelectorAll('section[data-testid*="Panel header"], [data-viz-panel-key] section')]
    .filter((section, index, all) => all.indexOf(section) === index)
    .map((section) => {
      const title = section.querySelector('h2');
      const legend = [...section.querySelectorAll('[data-testid^="data-testid VizLegend series"], tbody tr')].map(box);
      const plot = section.querySelector('.u-over');
      const overlaps = legend.flatMap((one, at) => legend.slice(at + 1).filter((other) => over(one, other))).length
        + (plot ? legend.filter((one) => over(one, box(plot))).length : 0);
      return {
        key: section.closest('[data-viz-panel-key]')?.getAttribute('data-viz-panel-key') ?? null,
        title: title?.textContent ?? '', titleCut: title ? cut(title) : false, legendItems: legend.length, legendOverlaps: overlaps,
        noData: section.querySelector('[data-no-data]')?.textContent ?? null,
        columnsCut: [...section.querySelectorAll('[role="columnheader"] *')].filter((cell) => cell.children.length === 0 && cell.textContent && cut(cell)).map((cell) => cell.textContent),
        wide: [...section.querySelectorAll('[role="grid"]')].some((grid) => grid.scrollWidth > grid.clientWidth + 2), plotShare: plot ? box(plot).width / box(section).width : null, ink: ink(section.querySelector('.uplot canvas')), error: section.querySelector('[data-testid*="Alert error"], [role="alert"]')?.textContent ?? null, text: section.textContent,
      };
    });
}

async function main() {
  mkdirSync(args.out, { recursive: true });
  const server = await serve(await bundle());
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--force-color-profile=srgb'],
  });
  const reports = {};
  try {
    const uids = readdirSync(args.dashboards).filter((name) => /^keytally-.*\.json$/.test(name)).map((name) => name.replace('.json', ''));
    for (const uid of uids.filter((uid) => !args.only || args.only === uid)) {
      reports[uid] = await draw(browser, server.address().port, uid);
    }
  } finally {
    await browser.close();
    server.close();
    server.closeAllConnections();
  }
  writeFileSync(path.join(args.out, 'report.json'), JSON.stringify(reports, null, 1));
}

async function draw(browser, port, uid) {
  const to = Number(args.to) * 1000;
  const model = JSON.parse(readFileSync(path.join(args.dashboards, `${uid}.json`), 'utf8'));
  const page = await browser.newPage({ viewport: { width: WIDTH, height: 900 }, timezoneId: 'UTC', locale: 'en-US' });
  await page.clock.setFixedTime(new Date(to));
  const problems = [];
  page.on('console', (message) => { if (message.type() === 'error') problems.push(message.text().slice(0, 400)); });
  page.on('response', (answer) => { if (answer.status() >= 400) problems.push(`${answer.status()} ${decodeURIComponent(answer.url()).slice(0, 600)}`); });
  page.on('pageerror', (error) => problems.push(`page: ${error.stack?.slice(0, 600)}`));
  const from = to - Number(args.hours) * 3600_000;
  await page.goto(`http://127.0.0.1:${port}/?dashboard=${uid}&from=${from}&to=${to}&scrape=${args.scrape}&theme=${args.theme}`);
  await page.waitForFunction(() => window.failure || window.report, undefined, { timeout: PATIENCE, polling: 200 });
  const failure = await page.evaluate(() => window.failure);
  if (failure) {
    throw new Error(`${uid}: ${failure}`);
  }
  const settled = () => page.waitForFunction(() => window.report().every((panel) => ['Done', 'Error'].includes(panel.state)), undefined, { timeout: PATIENCE, polling: 300 })
    .catch(() => undefined);
  await settled();
  const height = await page.evaluate(() => Math.ceil(document.querySelector('.page').scrollHeight));
  await page.setViewportSize({ width: WIDTH, height: Math.max(height, 600) + 16 });
  await settled();
  await page.evaluate(() => document.fonts.ready);
  await page.waitForTimeout(1_000); // the plots draw in the next frames and tell nobody when
  const panels = await page.evaluate(() => window.report());
  const seen = await page.evaluate(look);
  await page.screenshot({ path: path.join(args.out, `${uid}.png`) });
  await page.close();
  return { title: model.title, panels, seen, problems };
}

await main();
