// What `run` starts before paths.mjs: node tracking.mjs ADDRESS, with CHROMIUM and SCREENSHOTS in the environment. Logs its own runs, traces and models by the
// API that MLflow's clients speak, and looks at them in a browser. A server of `kilter tracking` will do as well.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const base = process.argv[2];
const screenshots = process.env.SCREENSHOTS;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
mkdirSync(screenshots, { recursive: true });

async function api(path, body, method = "POST", headers = { "content-type": "application/json" }) {
  const answer = await fetch(base + path, { method, headers, body: typeof body === "string" ? body : JSON.stringify(body) });
  const text = await answer.text();
  assert.ok(answer.ok, `${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : {};
}
const mlflow = (path, body) => api(`/api/2.0/mlflow/${path}`, body);

/** Three runs with histories, one of them with two below it, files, a trace with an error, and a registered model. */
async function logged() {
  const name = `browser-${Date.now()}`;
  const { experiment_id } = await mlflow("experiments/create", { name });
  const run = async (run_name, depth, parent) => {
    const tags = parent ? [{ key: "mlflow.parentRunId", value: parent }] : [];
    const start_time = Date.now();
    const { run_id, artifact_uri } = (await mlflow("runs/create", { experiment_id, run_name, tags, start_time })).run.info;
    const metrics = Array.from({ length: 300 }, (_, step) => ({
      key: "loss",
      value: step === 200 ? "NaN" : 1 / (step + depth),
      timestamp: start_time + step,
      step,
    }));
    const params = [
      { key: "depth", value: String(depth) },
      { key: "booster", value: depth % 2 ? "dart" : "gbdt" },
    ];
    await mlflow("runs/log-batch", { run_id, metrics, params });
    await mlflow("runs/update", { run_id, status: "FINISHED", end_time: Date.now() });
    return { run_id, artifact_uri };
  };
  const first = await run("first", 2);
  await run("second", 3);
  await run("third", 4);
  await run("below", 5, first.run_id);
  const folder = first.artifact_uri.replace("mlflow-artifacts:/", "/api/2.0/mlflow-artifacts/artifacts/");
  const html = "<script>document.title = 'run'</script><h1>a report</h1>";
  for (const [file, text] of [
    ["reports/page.html", html],
    ["reports/table.csv", "feature,gain\r\na,1\r\nb,2\r\n"],
  ]) {
    await api(`${folder}/${file}`, text, "PUT", { "content-type": "application/octet-stream" });
  }
  const trace = Array.from({ length: 16 }, () =>
    Math.floor(Math.random() * 256)
      .toString(16)
      .padStart(2, "0"),
  ).join("");
  const span = (spanId, parentSpanId, name, from, to, code) => ({
    traceId: trace,
    spanId,
    parentSpanId,
    name,
    startTimeUnixNano: `${Date.now() + from}000000`,
    endTimeUnixNano: `${Date.now() + to}000000`,
    attributes: [{ key: "mlflow.spanInputs", value: { stringValue: '{"question": "where is it?"}' } }],
    status: { code },
  });
  const spans = [
    span("00000000000000a1", "", "answer", 0, 90, 1),
    span("00000000000000a2", "00000000000000a1", "search", 5, 30, 1),
    span("00000000000000a3", "00000000000000a1", "order", 35, 80, 2),
  ];
  await api("/v1/traces", { resourceSpans: [{ scopeSpans: [{ spans }] }] }, "POST", {
    "content-type": "application/json",
    "x-mlflow-experiment-id": experiment_id,
  });
  await mlflow("registered-models/create", { name });
  await mlflow("model-versions/create", { name, source: "s3://models/one", description: "the first" });
  return {
    name,
    experiment: `/ui/experiments/${experiment_id}`,
    run: `/ui/experiments/runs/${first.run_id}`,
    trace: `/ui/traces/tr-${trace}`,
  };
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const problems = [];
async function tab(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  const page = await context.newPage();
  page.on("pageerror", (error) => problems.push(`${page.url()}: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) problems.push(message.text());
  });
  return page;
}
const param = (page, name) => new URL(page.url()).searchParams.get(name);

const it = await logged();
const page = await tab();

// Runs: selected by keyboard, compared, narrowed down, folded.
await page.goto(base + it.experiment);
await page.getByLabel("Select third").focus();
for (const key of ["Space", "ArrowDown", "Space"]) await page.keyboard.press(key);
await page.getByText("2 selected").waitFor();
await page.getByRole("button", { name: "Compare" }).focus();
await page.keyboard.press("Enter");
const compared = page.getByRole("region", { name: "Runs side by side" }).locator("table");
await compared.getByRole("link", { name: "second" }).waitFor();
await compared.locator("tr.differs", { hasText: "depth" }).waitFor();
await page.reload();
await compared.getByRole("link", { name: "third" }).waitFor();
assert.equal(param(page, "runs").split(",").length, 2);
await page.getByRole("link", { name: "Curves" }).click();
await page.getByText("2 points are NaN or infinite and left out").waitFor();

await page.goto(base + it.experiment);
await page.getByRole("button", { name: "Runs below first" }).focus();
await page.keyboard.press("Enter");
await page.getByRole("link", { name: "below" }).waitFor();
await page.getByLabel("Filter").fill("metrics.loss");
await page.keyboard.press("Enter");
await page.getByText("Invalid clause(s)").waitFor();
await page.getByLabel("Filter").fill("params.depth = '3'");
await page.keyboard.press("Enter");
await page.getByRole("link", { name: "third" }).waitFor({ state: "detached" });
await page.getByRole("link", { name: "second" }).waitFor();

await page.goto(`${base}${it.experiment}?view=parallel&nested=flat`);
await page.getByLabel("depth at least").fill("4");
await page.keyboard.press("Tab");
await page.getByText("2 of 4 runs within the ranges").waitFor();

// A file is shown and never run.
await page.goto(`${base}${it.run}?view=artifacts`);
await page.getByRole("button", { name: "reports/" }).click();
await page.getByRole("button", { name: "page.html" }).click();
await page.getByText("<h1>a report</h1>").waitFor();
assert.notEqual(await page.title(), "run");

// A tag that the server refuses is told where it was entered.
await page.goto(base + it.run);
const tags = page.getByRole("form", { name: "Set a tag of first" });
await tags.getByLabel("Name").fill("a*b");
await page.keyboard.press("Enter");
await page.getByText("Names may only contain").waitFor();
await tags.getByLabel("Name").fill("reviewed");
await tags.getByLabel("Value").fill("by ana");
await page.keyboard.press("Enter");
await page.getByText("reviewed is set.").waitFor();

// A span by keyboard, in the address, with feedback on it.
await page.goto(base + it.trace);
await page.locator("button.pick").first().focus();
for (const key of ["ArrowDown", "ArrowDown"]) await page.keyboard.press(key);
await page.getByRole("heading", { level: 2, name: "order" }).waitFor();
assert.equal(param(page, "span"), "00000000000000a3");
await page.reload();
await page.getByRole("heading", { level: 2, name: "order" }).waitFor();
await page.getByLabel("About").selectOption("span");
await page.getByLabel("Why").fill("there was no such order");
await page.keyboard.press("Enter");
await page.getByText("helpful is added.").waitFor();
await page.getByText(", on order").waitFor();

await page.goto(`${base}/ui/registry/${it.name}`);
// Without a version there is nothing that the alias could name.
await page.getByLabel("Version", { exact: true }).locator("option").first().waitFor({ state: "attached" });
await page.getByLabel("Alias", { exact: true }).fill("champion");
await page.keyboard.press("Enter");
await page.getByRole("button", { name: "Remove the alias champion" }).waitFor();
console.log("ok      runs, files, traces and registered models, by keyboard");

const pages = {
  experiment: it.experiment,
  "experiment-curves": `${it.experiment}?view=curves&smooth=0.9`,
  "experiment-parallel": `${it.experiment}?view=parallel`,
  "experiment-scatter": `${it.experiment}?view=scatter`,
  "experiment-compare": `${it.experiment}?view=compare`,
  "experiment-about": `${it.experiment}?view=about`,
  run: it.run,
  "run-metrics": `${it.run}?view=metrics`,
  "run-artifacts": `${it.run}?view=artifacts&file=reports/table.csv`,
  traces: "/ui/traces",
  trace: it.trace,
  "registry-model": `/ui/registry/${it.name}`,
  "registry-version": `/ui/registry/${it.name}/versions/1`,
};
const faults = [];
async function look(width, colorScheme) {
  const page = await tab({ viewport: { width, height: 860 }, colorScheme, bypassCSP: true });
  for (const [name, path] of Object.entries(pages)) {
    await page.goto(base + path);
    await page.waitForFunction(
      () => document.querySelector("main h1") && !/^Loading/m.test(document.querySelector("main").innerText),
    );
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(screenshots, `tracking-${name}-${width}-${colorScheme}.png`), fullPage: true });
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (over > 0) faults.push(`${path} at ${width}: ${over} pixels too wide`);
    await page.evaluate(axe);
    const found = await page.evaluate(() =>
      globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
    );
    for (const { id, impact, nodes } of found.violations) {
      const line = `${path} at ${width}, ${colorScheme}: ${impact} ${id}: ${nodes[0].html.slice(0, 140)} ${nodes[0].any[0]?.message ?? ""}`;
      if (impact === "serious" || impact === "critical") faults.push(line);
      else console.log(`  note: ${line}`);
    }
  }
}
// Two tabs at once, as in paths.mjs.
for (const width of [1280, 390]) await Promise.all(["light", "dark"].map((colorScheme) => look(width, colorScheme)));
await browser.close();
assert.deepEqual([...problems, ...faults], []);
console.log(`ok      ${Object.keys(pages).length} pages of the tracking API, 4 ways each, without a serious fault by axe`);
