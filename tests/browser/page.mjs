// The status page as people have it: light and dark, desk and phone, with and without JavaScript. Ends with 0 when all
// holds; the first thing that does not is on standard error.
// usage: node page.mjs http://ADMIN http://PROXY
import assert from "node:assert/strict";
import { axe, launch } from "./browser.mjs";

const [admin, proxy] = process.argv.slice(2);
// What a browser shows of a model's name that wants to be markup.
const hostile = "<img src=x onerror=window.owned=1><script>window.owned=1</script>";
const browser = await launch();

/// A page that fails the test for whatever it complains of: refused styles and scripts, exceptions, outside requests.
async function open(options, path = "/") {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => { if (message.type() !== "log") complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => { if (!request.url().startsWith(admin) && !request.url().startsWith("data:")) complaints.push(request.url()); });
  await page.goto(admin + path);
  return { page, complaints, context };
}

const desk = { width: 1280, height: 800 };
const phone = { width: 360, height: 740 };
const colors = new Set();
for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [desk, phone]) {
    for (const javaScriptEnabled of [true, false]) {
      const where = `${colorScheme} ${viewport.width} ${javaScriptEnabled ? "with" : "without"} script`;
      const { page, complaints, context } = await open({ colorScheme, viewport, javaScriptEnabled });
      assert.equal(await page.title(), "keytally: 1 key failing", where);
      const attention = page.locator("#attention li").first();
      assert.match(await attention.innerText(), /critical.*mail-prod.*at openai.*auth_invalid[^]*First fix: /, where);
      assert.equal(await page.locator("#keys tbody tr").count(), 2, where);
      assert.match(await page.locator("#keys tbody tr").first().innerText(), /^mail-prod/, where);
      assert.equal(await page.locator("#calls").getByText(hostile, { exact: true }).count(), 1, where);
      // The page as a whole does not move sideways; wide tables do, in their own frames.
      const [width, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(width <= room, `${where}: ${width} px in ${room}`);
      assert.equal(await page.locator("#pause").isVisible(), javaScriptEnabled, where);
      assert.equal(await page.evaluate(() => window.owned), undefined, where);
      if (viewport === desk) colors.add(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
      if (javaScriptEnabled) {
        await page.evaluate(axe());
        const { violations } = await page.evaluate(() => window.axe.run());
        const told = violations.map((it) => `${it.id}: ${it.help}: ${it.nodes.map((node) => node.html).join(" ").slice(0, 300)}`);
        assert.deepEqual(told, [], where);
      }
      assert.deepEqual(complaints, [], where);
      await context.close();
    }
  }
}
assert.equal(colors.size, 2, "light and dark differ");

// Without a script, the form filters.
{
  const { page, complaints, context } = await open({ javaScriptEnabled: false });
  await page.getByRole("combobox", { name: "Key" }).selectOption("chat-prod");
  await page.getByRole("button", { name: "Show" }).click();
  await page.waitForURL(/\?key=chat-prod&outcome=$/);
  assert.equal(await page.locator("#keys tbody tr").count(), 1);
  assert.equal(await page.locator("#calls tbody tr").count(), 1);
  assert.match(await page.locator("#key").innerText(), /Fingerprint\s+openai:[0-9a-f]{12}/);
  await page.getByRole("link", { name: "Show all" }).click();
  assert.equal(await page.locator("#keys tbody tr").count(), 2);
  assert.deepEqual(complaints, []);
  await context.close();
}

// What alerts and dashboards link to; a key that nobody has seen is no error.
for (const [path, rows] of [
  ["/?key=mail-prod&outcome=auth_invalid", 2],
  ["/?key=mail-prod&outcome=failed", 2],
  ["/?key=chat-prod&outcome=failed", 0],
  ["/?key=%3Cscript%3Ewindow.owned%3D1%3C%2Fscript%3E", 0],
]) {
  const { page, complaints, context } = await open({}, path);
  assert.equal(await page.locator("#calls tbody tr").count(), rows, path);
  assert.equal(await page.evaluate(() => window.owned), undefined, path);
  assert.deepEqual(complaints, [], path);
  await context.close();
}

// It is live, keeps the focus where it was, and can be told to stand still.
{
  const { page, complaints, context } = await open({ viewport: desk });
  const link = page.locator("#keys tbody a").last();
  await link.focus();
  const focused = await link.getAttribute("href");
  const before = await page.locator("#calls tbody tr").count();
  const call = () => fetch(`${proxy}/openai/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: "Bearer sk-made-up-chat-prod", "content-type": "application/json" },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [] }),
  });
  assert.equal((await call()).status, 200);
  await page.waitForFunction((count) => document.querySelectorAll("#calls tbody tr").length === count, before + 1, { timeout: 30000 });
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("href")), focused);
  assert.equal(await page.locator("#live").innerText(), "live");
  await page.getByRole("button", { name: "Pause" }).click();
  await page.waitForFunction(() => document.getElementById("live").textContent === "paused");
  assert.equal((await call()).status, 200);
  let asked = 0;
  page.on("request", () => { asked += 1; });
  await page.waitForTimeout(5000);
  assert.equal(asked, 0, "a page that stands still asks for nothing");
  await page.getByRole("button", { name: "Go on" }).click();
  await page.waitForFunction((count) => document.querySelectorAll("#calls tbody tr").length === count, before + 2, { timeout: 30000 });
  assert.deepEqual(complaints, []);
  await context.close();
}
await browser.close();
