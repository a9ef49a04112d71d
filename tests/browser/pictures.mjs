// Pictures for docs/: the status page of a running sidecar, and a terminal (tmux capture-pane -e -p) as text with colors.
// usage: node pictures.mjs page http://ADMIN OUT_DIR | node pictures.mjs terminal CAPTURE OUT.png
import { readFileSync } from "node:fs";
import { launch } from "./browser.mjs";

const [kind, from, to] = process.argv.slice(2);
const browser = await launch();
if (kind === "page") {
  for (const [name, options] of Object.entries({
    "status-light": { viewport: { width: 1280, height: 1500 }, colorScheme: "light" },
    "status-dark": { viewport: { width: 1280, height: 1500 }, colorScheme: "dark" },
    "status-phone": { viewport: { width: 390, height: 1400 }, colorScheme: "light" },
  })) {
    const page = await (await browser.newContext(options)).newPage();
    await page.goto(from);
    await page.waitForFunction(() => document.getElementById("live").textContent === "live");
    await page.screenshot({ path: `${to}/${name}.png` });
  }
} else {
  const colors = ["#3b4252", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0"];
  const bright = ["#7f8794", "#ff7b86", "#b5e08f", "#f2d28b", "#7cc0ff", "#d89bf0", "#74d0dc", "#ffffff"];
  const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  let style = {};
  const span = (text) => {
    const { fg = "#d7dae0" } = style;
    const color = style.reverse ? `color:#15181d;background:${fg}` : `color:${fg}`;
    return `<span style="${color};font-weight:${style.bold ? 700 : 400}">${escaped(text)}</span>`;
  };
  const apply = (codes) => {
    // 38;5;n is a color of the first sixteen in another spelling.
    if (codes[0] === 38 && codes[1] === 5) codes = [codes[2] < 8 ? 30 + codes[2] : 82 + codes[2]];
    for (const code of codes.length ? codes : [0]) {
      if (code === 0) style = {};
      else if (code === 1) style.bold = true;
      else if (code === 7) style.reverse = true;
      else if (code === 22) style.bold = false;
      else if (code === 27) style.reverse = false;
      else if (code >= 30 && code <= 37) style.fg = colors[code - 30];
      else if (code >= 90 && code <= 97) style.fg = bright[code - 90];
      else if (code === 39) delete style.fg;
    }
  };
  const lines = readFileSync(from, "utf8").replace(/\n+$/, "").split("\n").map((line) => {
    let html = "";
    for (const [, codes, text] of line.matchAll(/(?:\x1b\[([0-9;]*)m)?([^\x1b]*)/g)) {
      if (codes !== undefined) apply(codes.split(";").filter(Boolean).map(Number));
      if (text) html += span(text);
    }
    return html || " ";
  });
  const page = await (await browser.newContext({ viewport: { width: 400, height: 300 } })).newPage();
  await page.setContent(`<body style="margin:0"><pre style="display:inline-block;margin:0;padding:14px 18px;background:#15181d;font:14px/1.17 'DejaVu Sans Mono',monospace">${lines.join("\n")}</pre>`);
  await page.locator("pre").screenshot({ path: to });
}
await browser.close();
