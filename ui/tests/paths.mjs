// What `run` starts: node paths.mjs ADDRESS, with CHROMIUM, KILTER, PROJECT and SCREENSHOTS in the environment.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const base = process.argv[2];
const screenshots = process.env.SCREENSHOTS;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** Bytes over the wire before the first page is complete, without its lazily loaded charts. */
const MAIN_BUNDLE = 300_000;
/** How long decisions stream in while long tasks are watched. */
const STREAM_SECONDS = Number(process.env.STREAM_SECONDS ?? 10);
mkdirSync(screenshots, { recursive: true });

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const get = async (path) => (await fetch(base + path)).json();

/** A tab that fails the test on any error in its console: a breach of the Content-Security-Policy is one. */
async function tab(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, bypassCSP: false, ...options });
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => {
    // The browser tells of each 4xx; the page has said what it means.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.problems.push(message.text());
  });
  page.done = async () => {
    assert.deepEqual(page.problems, [], `problems on ${page.url()}`);
    await context.close();
  };
  return page;
}

/** Until the page has its heading and nothing is on its way any more. */
async function settled(page) {
  await page.locator("main h1").first().waitFor();
  await page.waitForFunction(() => !/^(Loading|Waiting|Drawing)/m.test(document.querySelector("main").innerText));
}

async function open(page, path) {
  await page.goto(base + path);
  await settled(page);
}

/** Moves the focus on until it is on what is looked for, as a person with a keyboard does. */
async function tabTo(page, locator, most = 400) {
  await locator.first().waitFor();
  for (let i = 0; i < most; i += 1) {
    const reached = await locator
      .first()
      .evaluate((element) => element === element.getRootNode().activeElement || element.contains(document.activeElement));
    if (reached) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`no way by keyboard to ${locator}`);
}

const tests = {
  async "headers: hashed files for ever, pages never, nothing inline"() {
    const first = await fetch(base + "/");
    const html = await first.text();
    assert.equal(first.headers.get("cache-control"), "no-cache");
    const policy = first.headers.get("content-security-policy");
    assert.match(policy, /default-src 'none'/);
    assert.doesNotMatch(policy, /unsafe/);
    const script = html.match(/src="(\/ui\/assets\/[^"]+\.js)"/)[1];
    const answer = await fetch(base + script);
    assert.match(answer.headers.get("cache-control"), /immutable/);
    assert.equal(answer.headers.get("content-encoding"), "gzip");
    for (const path of ["/v1/nothing", "/api/nothing", "/nothing"]) assert.equal((await fetch(base + path)).status, 404, path);
    assert.equal((await fetch(base + "/ui/assets/gone.js")).status, 404);
  },

  async "the first load is small and quick"() {
    const page = await tab();
    const client = await page.context().newCDPSession(page);
    await client.send("Network.enable");
    let bytes = 0;
    const scripts = new Set();
    client.on("Network.responseReceived", ({ requestId, response }) => {
      if (response.url.includes("/assets/index") && response.url.endsWith(".js")) scripts.add(requestId);
    });
    client.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
      if (scripts.has(requestId)) bytes += encodedDataLength;
    });
    await open(page, "/");
    const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
    console.log(`  main bundle ${(bytes / 1000).toFixed(1)} kB, first paint after ${paint?.toFixed(0)} ms`);
    assert.ok(bytes > 0 && bytes < MAIN_BUNDLE, `${bytes} bytes`);
    await page.done();
  },

  async "every page, in both colours and at two widths, has no serious fault by axe"() {
    const page = await tab();
    await open(page, "/");
    const paths = await page.locator("nav a").evaluateAll((links) => links.map((link) => link.getAttribute("href")));
    await page.done();
    assert.ok(paths.length >= 4, `${paths}`);
    const [{ decision_id }] = (await get("/v1/decisions?limit=1")).decisions;
    paths.push(`/ui/decisions/${decision_id}`, "/ui/decisions?outcome=decline", "/ui/nowhere");
    for (const { model } of (await get("/v1/models")).models) paths.push(`/ui/models/${model}`);
    const [run] = (await get("/v1/runs?limit=1")).runs;
    if (run) paths.push(`/ui/runs/${run.id}`);
    const [alert] = (await get("/v1/alerts?limit=1")).alerts;
    if (alert) paths.push(`/ui/drift?monitor=${alert.monitor}&feature=${alert.subject}&at=${alert.at}`);
    const question = new URLSearchParams({
      q: "SELECT outcome, count(*) AS n, avg(score) AS mean FROM decisions GROUP BY outcome",
    });
    paths.push(`/ui/sql?${question}`, `/ui/sql?${question}&view=chart`, "/ui/sql?q=SELECT+nothing+FROM+nowhere");
    const project = await get("/v1/project");
    const [{ source, name }] = project.decisions;
    paths.push(`/ui/performance?segment=${source}.amount`);
    const more = [`/ui/policies/${name}`, `/ui/project?object=source/${source}`];
    const [{ model, latest, in_service }] = (await get("/v1/models")).models;
    more.push(`/ui/models/${model}/versions/${in_service}`);
    for (const other of [1, latest]) more.push(`/ui/models/${model}/compare?a=${latest}&b=${other}`);
    const [view] = project.views;
    const busiest = (await get("/v1/status")).state.find((state) => state.view === view.name)?.busiest[0]?.entity ?? 1;
    more.push(`/ui/features/${view.name}`, `/ui/features/${view.name}/${view.features[0].name}`);
    more.push(`/ui/features/${view.name}?key=${busiest}`, `/ui/features/${view.name}?key=nobody`);
    more.push("/ui/decisions/loan-0", "/ui/decisions?min_score=2", "/ui/runs/nothing", "/ui/models/nothing");
    const faults = [];
    let [ways, waysWithin] = [0, 0];
    const fault = (line) => {
      console.log(`  fault: ${line}`);
      faults.push(line);
    };
    const look = async (width, height, colorScheme) => {
      if (process.env.WAYS && !process.env.WAYS.includes(`${width}-${colorScheme}`)) return;
      const page = await tab({ viewport: { width, height }, colorScheme, bypassCSP: true });
      // What lies within pages is made of the same parts: each width once, each colour once.
      const within = (width === 1280) === (colorScheme === "light") ? more : [];
      ways += 1;
      waysWithin += within.length ? 1 : 0;
      for (const path of [...paths, ...within]) {
        await open(page, path);
        // A link brings a question, and a person asks it.
        if (path.startsWith("/ui/sql?")) await page.getByRole("button", { name: "Run", exact: true }).click();
        await page.waitForTimeout(1500);
        const name = path.replace(/^\/(ui\/?)?/, "").replace(/[^\w-]+/g, "-") || "now";
        await page.evaluate(() => scrollTo(0, 0));
        await page.screenshot({ path: join(screenshots, `${name}-${width}-${colorScheme}.png`), fullPage: true });
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (over > 0) fault(`${path} at ${width}: ${over} pixels too wide`);
        await page.evaluate(axe);
        const found = await page.evaluate(() =>
          globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
        );
        for (const { id, impact, nodes } of found.violations) {
          const line = `${path} at ${width}, ${colorScheme}: ${impact} ${id}: ${nodes
            .slice(0, 2)
            .map((node) => node.html.slice(0, 140) + " " + (node.any[0]?.message ?? ""))
            .join(" | ")}`;
          if (impact === "serious" || impact === "critical") fault(line);
          else console.log(`  note: ${line}`);
        }
      }
      await page.done();
    };
    // Two tabs at once: a page waits for charts to be drawn, and two cores are there.
    for (const [width, height] of [
      [1280, 860],
      [390, 844],
    ]) {
      await Promise.all(["light", "dark"].map((colorScheme) => look(width, height, colorScheme)));
    }
    console.log(`  ${paths.length} pages, ${ways} ways each; ${more.length} more, ${waysWithin} ways each`);
    assert.deepEqual(faults, []);
  },

  async "by keyboard: from an alert to what caused it"() {
    const page = await tab();
    await open(page, "/");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await tabTo(page, page.getByRole("link", { name: "Alerts", exact: true }));
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "Alerts" }).waitFor();
    await settled(page);
    await page.waitForFunction(() => document.activeElement?.tagName === "H1");
    const subject = page.getByRole("region", { name: "Alerts" }).getByRole("link");
    const feature = await subject.first().textContent();
    await tabTo(page, subject);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "Drift" }).waitFor();
    assert.equal(new URL(page.url()).searchParams.get("feature"), feature);
    await page.locator("tr.highlighted, [data-at].selected").first().waitFor();
    const cell = page.locator("[data-at]");
    if (await cell.count()) {
      await tabTo(page, page.getByRole("grid"));
      for (const key of ["ArrowDown", "ArrowLeft", "Home", "Enter"]) await page.keyboard.press(key);
      await page.getByRole("img", { name: /now and in training/ }).waitFor();
    }
    await page.done();
  },

  async "by keyboard: a decision, replayed"() {
    const page = await tab();
    await open(page, "/ui/decisions");
    const outcome = page.getByLabel("Outcome");
    await tabTo(page, outcome);
    await page.keyboard.type("d");
    await page.waitForFunction(() => new URLSearchParams(location.search).get("outcome") === "decline");
    const link = page.getByRole("region", { name: "Newest decisions" }).getByRole("link");
    await page.waitForFunction(() =>
      [...document.querySelectorAll("tbody tr td:nth-child(2)")].every((cell) => cell.textContent.trim() === "decline"),
    );
    await tabTo(page, link);
    const id = await link.first().textContent();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: id }).waitFor();
    await tabTo(page, page.getByRole("button", { name: "Replay" }));
    await page.keyboard.press("Enter");
    await page.getByText("The same to the last bit.").waitFor({ timeout: 60_000 });
    await page.getByText("Newest event of view").first().waitFor();
    // The address alone leads back here.
    await page.reload();
    await page.getByRole("heading", { level: 1, name: id }).waitFor();
    await page.getByRole("img", { name: /^Margin/ }).waitFor();
    await page.done();
  },

  async "by keyboard: two versions side by side, and one put into service"() {
    const [{ model, latest, in_service }] = (await get("/v1/models")).models;
    if (latest === null || latest < 2) return console.log("  left out: the demo trained fewer than two versions");
    const other = latest === in_service ? latest - 1 : latest;
    const page = await tab();
    await open(page, `/ui/models/${model}/compare?a=${in_service}&b=${other}`);
    const button = page.getByRole("button", { name: /^Promote version/ });
    await tabTo(page, button);
    const chosen = Number((await button.textContent()).match(/\d+/)[0]);
    await page.keyboard.press("Enter");
    const dialog = page.getByRole("dialog");
    await dialog.waitFor();
    // Escape lets everything be.
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
    await tabTo(page, button);
    await page.keyboard.press("Enter");
    await tabTo(page, dialog.getByRole("button").last(), 20);
    await page.keyboard.press("Enter");
    await page.getByText(/is in service from offset/).waitFor();
    assert.equal((await get(`/v1/models/${model}`)).in_service, chosen);
    await page.done();
  },

  async "by keyboard: a policy, edited, tried on the past and published"() {
    const page = await tab();
    const { decisions } = await get("/v1/project");
    const name = decisions[0].name;
    await open(page, `/ui/policies/${name}`);
    const type = async (text) => {
      await tabTo(page, page.getByLabel("Condition of line 1"));
      await page.keyboard.press("Control+A");
      await page.keyboard.type(text);
    };
    const press = async (button) => {
      await tabTo(page, page.getByRole("button", { name: button, exact: true }));
      await page.keyboard.press("Enter");
    };
    // What is wrong is said where it is.
    await type("scoer >= 0.17");
    await press("Try on the past");
    await page.getByRole("alert").getByText("did you mean `score`?").waitFor();
    await type("score >= 0.17");
    await press("Try on the past");
    await page.getByText("Decided otherwise").waitFor({ timeout: 120_000 });
    await page.getByRole("heading", { name: "What changes" }).waitFor();
    await page.getByText('{ when = "score >= 0.17"').waitFor();
    await press("Publish…");
    await tabTo(page, page.getByRole("dialog").getByRole("button", { name: "Publish", exact: true }), 20);
    await page.keyboard.press("Enter");
    await page.getByText("The policy is in force").waitFor({ timeout: 120_000 });
    assert.equal((await get("/v1/project")).decisions[0].policy[0].when, "score >= 0.17");
    await page.done();
  },

  async "by keyboard: other definitions on the past, and what would have come out otherwise"() {
    const page = await tab();
    await open(page, "/ui/project");
    const press = async (name) => {
      await tabTo(page, page.getByRole("button", { name, exact: true }));
      await page.keyboard.press("Enter");
    };
    await press("Begin with those in force");
    const text = page.getByLabel("Definitions, the whole of a kilter.toml");
    await text.waitFor();
    const inForce = await text.inputValue();
    assert.match(inForce, /\[decision/);
    // What is wrong is shown as the command line shows it, with its place.
    await text.fill(inForce.replace(/score >= /, "scoer >= "));
    await press("Try on the past");
    await page.getByRole("alert").getByText("did you mean `score`?").waitFor();
    await text.fill(inForce.replace(/score >= [0-9.]+/, "score >= 0.05"));
    await press("Try on the past");
    await tabTo(page, page.getByRole("link", { name: "Its run" }));
    await page.keyboard.press("Enter");
    await page.getByText("Decisions compared").waitFor({ timeout: 120_000 });
    await page.getByRole("heading", { name: /: what changes$/ }).waitFor();
    await page.getByRole("img", { name: /^Shares of outcomes/ }).waitFor();
    const changed = await page.getByRole("region", { name: "Changed decisions" }).getByRole("link").count();
    assert.ok(changed > 0, "a lower limit changes decisions");
    await page.screenshot({ path: join(screenshots, "backtested-1280-light.png"), fullPage: true });
    await page.done();
  },

  async "decisions are followed as they come, until told otherwise"() {
    const page = await tab();
    await open(page, "/ui/decisions");
    const ids = () => page.locator("tbody tr td:first-child").allTextContents();
    const before = await ids();
    await page.getByRole("button", { name: "Follow" }).click();
    await page.waitForURL(/follow=true/);
    const body = { application_id: `follow-${Date.now()}`, account_id: 1, amount: 1200, months: 12, payment: 118 };
    const answer = await fetch(`${base}/v1/decide/loan`, { method: "POST", body: JSON.stringify(body) });
    const { decision_id } = await answer.json();
    await page.getByRole("link", { name: decision_id, exact: true }).waitFor({ timeout: 10_000 });
    await page.getByRole("button", { name: "Follow" }).click();
    await page.waitForFunction(() => !location.search.includes("follow"));
    assert.ok(!before.includes(decision_id));
    await page.done();
  },

  async "by keyboard: a question in SQL, its rows, a chart of them, and a file"() {
    const page = await tab();
    await open(page, "/ui/sql");
    const editor = page.getByRole("textbox", { name: "Question in SQL" });
    await tabTo(page, editor);
    // The editor lets go of the focus.
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Run");
    await page.keyboard.press("Shift+Tab");
    // Escape closes what is offered, so that Tab and Enter are themselves again.
    await page.keyboard.type("SELECT outcom FROM decisions");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Control+Enter");
    await page
      .getByRole("alert")
      .getByText(/"outcom" does not exist/)
      .waitFor();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("SELECT outcome, count(*) AS n FROM decisions GROUP BY outc");
    await page.getByRole("option", { name: "outcome" }).waitFor();
    // What is offered is taken after a moment only, so that nobody takes what they have not seen.
    await page.waitForTimeout(200);
    await page.keyboard.press("Enter");
    await page.keyboard.type(" ORDER BY n DESC");
    await page.keyboard.press("Escape");
    assert.match(await editor.innerText(), /GROUP BY outcome ORDER BY n DESC$/);
    await page.keyboard.press("Control+Enter");
    await tabTo(page, page.getByRole("grid"));
    for (const key of ["ArrowDown", "Enter"]) await page.keyboard.press(key);
    await page.getByRole("region", { name: "Row 2" }).getByText("outcome").waitFor();
    await tabTo(page, page.getByRole("link", { name: "Chart", exact: true }));
    await page.keyboard.press("Enter");
    await page.getByRole("img", { name: /^n by outcome/ }).waitFor();
    await tabTo(page, page.getByRole("button", { name: "Save all rows as CSV" }));
    const [download] = await Promise.all([page.waitForEvent("download"), page.keyboard.press("Enter")]);
    const lines = readFileSync(await download.path(), "utf8")
      .trim()
      .split(/\r?\n/);
    assert.equal(lines[0], "outcome,n");
    assert.ok(
      lines.slice(1).some((line) => /^approve,\d+$/.test(line)),
      lines.join("\n"),
    );
    // The address alone asks again what this tab has asked, and nobody else's tab.
    await page.reload();
    await page.getByRole("img", { name: /^n by outcome/ }).waitFor();
    const address = page.url();
    await page.done();
    const other = await tab();
    let asked = 0;
    other.on("request", (request) => (asked += request.method() === "POST" && request.url().endsWith("/v1/sql") ? 1 : 0));
    await open(other, new URL(address).pathname + new URL(address).search);
    await other.getByText("A link brought this question. Run asks it.").waitFor();
    assert.equal(asked, 0);
    await other.done();
  },

  async "by keyboard: how a model does in service, and for groups of cases"() {
    const page = await tab();
    await open(page, "/ui/performance");
    await tabTo(page, page.getByLabel("Figure"));
    await page.keyboard.type("base");
    await page.waitForURL(/figure=rate/);
    await page.getByRole("img", { name: /^Base rate of/ }).waitFor();
    await tabTo(page, page.getByLabel("Groups by"));
    await page.keyboard.type("amount");
    await page.waitForURL(/segment=/);
    await page.getByRole("heading", { name: /^Who gets/ }).waitFor({ timeout: 60_000 });
    await page.getByRole("img", { name: /^Impact ratio by/ }).waitFor();
    await tabTo(page, page.getByRole("button", { name: "Everything as CSV" }).last());
    const [download] = await Promise.all([page.waitForEvent("download"), page.keyboard.press("Enter")]);
    const [names, ...rows] = readFileSync(await download.path(), "utf8")
      .trim()
      .split("\r\n");
    for (const name of ["group", "favourable.share.low", "impact_ratio.value"]) assert.ok(names.split(",").includes(name), names);
    assert.ok(rows.length > 1);
    await page.reload();
    await page.getByRole("heading", { name: /^Who gets/ }).waitFor({ timeout: 60_000 });
    await page.done();
  },

  async "a link leads to the state it was taken from, and back undoes a filter"() {
    const page = await tab();
    await open(page, "/ui/decisions?outcome=review");
    assert.equal(await page.getByLabel("Outcome").inputValue(), "review");
    await page.getByLabel("Outcome").selectOption("approve");
    await page.waitForURL(/outcome=approve/);
    await page.goBack();
    await page.waitForURL(/outcome=review/);
    assert.equal(await page.getByLabel("Outcome").inputValue(), "review");
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save Decisions as CSV" }).click(),
    ]);
    const text = readFileSync(await download.path(), "utf8");
    assert.match(text, /^Decision,Outcome,Score/);
    assert.ok(text.split("\r\n").length > 2);
    await open(page, "/");
    const [picture] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save Scores as PNG" }).click(),
    ]);
    assert.deepEqual(
      [...readFileSync(await picture.path()).subarray(1, 4)],
      [..."PNG"].map((c) => c.charCodeAt(0)),
    );
    await page.done();
  },

  async "colours and zones are chosen, and stay chosen"() {
    const page = await tab({ colorScheme: "light", timezoneId: "Asia/Tokyo" });
    await open(page, "/ui/decisions");
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const [light, utc] = [await ground(), await page.locator("tbody td:nth-child(4)").first().textContent()];
    await page.getByLabel("Colours").selectOption("dark");
    await page.getByLabel("Times").selectOption("local");
    await page.reload();
    await settled(page);
    assert.notEqual(await ground(), light);
    assert.notEqual(await page.locator("tbody td:nth-child(4)").first().textContent(), utc);
    await page.getByRole("columnheader", { name: /Event time \(Asia\/Tokyo\)/ }).waitFor();
    await page.done();
  },

  async "decisions that stream in leave the page responsive"() {
    const page = await tab();
    await open(page, "/");
    await page.waitForTimeout(2000);
    await page.evaluate(() => {
      globalThis.longTasks = [];
      new PerformanceObserver((list) => globalThis.longTasks.push(...list.getEntries().map((entry) => entry.duration))).observe({
        type: "longtask",
      });
    });
    const body = JSON.stringify({ application_id: "x", account_id: 1, amount: 1200, months: 12, payment: 118 });
    let made = 0;
    let id = 0;
    const until = Date.now() + STREAM_SECONDS * 1000;
    const ask = async () => {
      while (Date.now() < until) {
        id += 1;
        const answer = await fetch(`${base}/v1/decide/loan`, { method: "POST", body: body.replace('"x"', `"stream-${id}"`) });
        await answer.arrayBuffer();
        made += answer.ok ? 1 : 0;
      }
    };
    await Promise.all(Array.from({ length: 16 }, ask));
    const tasks = await page.evaluate(() => globalThis.longTasks);
    const longest = Math.max(0, ...tasks);
    console.log(
      `  ${Math.round(made / STREAM_SECONDS)} decisions a second; ${tasks.length} tasks over 50 ms, the longest ${longest.toFixed(0)} ms`,
    );
    assert.ok(made > 0, "no decision was made");
    await page
      .getByText(/since the start/)
      .first()
      .waitFor();
    await page.done();
  },

  async "a server with keys asks for one"() {
    const secret = execFileSync(process.env.KILTER, ["-C", process.env.PROJECT, "key", "create", "reader", "--role", "read"], {
      encoding: "utf8",
    }).match(/kilter_[0-9a-f]{64}/)[0];
    const page = await tab();
    await page.goto(base + "/ui/decisions");
    // The file of keys is looked at once a second.
    await page.waitForFunction(() => fetch("/v1/status", { credentials: "omit" }).then((answer) => answer.status === 401));
    await page.reload();
    await page.getByRole("heading", { name: "This server wants a key" }).waitFor();
    await page.getByLabel("Key").fill("kilter_" + "0".repeat(64));
    await page.keyboard.press("Enter");
    await page.getByText("is not known here").waitFor();
    await page.getByLabel("Key").fill(secret);
    await page.keyboard.press("Enter");
    await page.getByRole("region", { name: "Newest decisions" }).waitFor();
    assert.equal(await page.evaluate(() => localStorage.getItem("kilter.key")), null);
    await page.reload();
    await page.getByRole("region", { name: "Newest decisions" }).waitFor();
    await page.done();
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  if (process.env.ONLY && !name.includes(process.env.ONLY)) continue;
  const before = Date.now();
  try {
    await test();
    console.log(`ok      ${name} (${((Date.now() - before) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
await browser.close();
console.log(failed ? `${failed} failed` : `all passed; screenshots in ${screenshots}`);
process.exit(failed ? 1 : 0);
