// Chromium, driven by playwright-core, both as tests/tools/install.sh installs them.
import { createRequire } from "node:module";

const require = createRequire(new URL("../../target/test-tools/node/", import.meta.url));

/// A browser of the machine; as root it has no sandbox to run in.
export async function launch() {
  const { chromium } = require("playwright-core");
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
}

/// The source of axe-core, to be evaluated in a page.
export const axe = () => require("axe-core").source;
