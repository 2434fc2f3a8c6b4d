// What `bench/dashboard` starts: node stream.mjs ADDRESS PAGE..., with CHROMIUM, SECONDS_WATCHED and EVERY in the environment.
//
// Opens each page in a window of its own and says every few seconds, as a line of JSON for each: what is in its memory once rubbish is collected,
// and which tasks of its main thread took long since the look before, by the clock and in CPU time. Where others use the machine too the clock says how
// long a task waited for a core, CPU time what the page itself asks for.

import { chromium } from "playwright-core";

const [base, ...paths] = process.argv.slice(2);
const seconds = Number(process.env.SECONDS_WATCHED);
const every = Number(process.env.EVERY) * 1000;
const LONG = 50;

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const whole = await browser.newBrowserCDPSession();

/** What the main threads did, by process, from here to `stop`. */
async function trace() {
  const events = [];
  const take = ({ value }) => events.push(...value);
  whole.on("Tracing.dataCollected", take);
  const complete = new Promise((done) => whole.once("Tracing.tracingComplete", done));
  await whole.send("Tracing.start", {
    transferMode: "ReportEvents",
    traceConfig: {
      recordMode: "recordUntilFull",
      traceBufferSizeInKb: 200 * 1024,
      includedCategories: ["devtools.timeline", "disabled-by-default-devtools.timeline"],
    },
  });
  const from = Date.now();
  return {
    async stop() {
      const to = Date.now();
      await whole.send("Tracing.end");
      await complete;
      whole.off("Tracing.dataCollected", take);
      const main = new Set(
        events.filter((e) => e.name === "thread_name" && e.args.name === "CrRendererMain").map((e) => `${e.pid}/${e.tid}`),
      );
      const own = events.filter((e) => e.ph === "X" && main.has(`${e.pid}/${e.tid}`));
      const times = own.map((e) => e.ts);
      // A buffer that was full early would have seen little.
      const seconds = (times.reduce((a, b) => Math.max(a, b), 0) - times.reduce((a, b) => Math.min(a, b), Infinity)) / 1e6;
      const tasks = own
        .filter((e) => e.name === "RunTask" && e.dur > LONG * 1000)
        .map((task) => {
          const within = own.filter(
            (e) => e !== task && e.pid === task.pid && e.ts >= task.ts && e.ts < task.ts + task.dur && e.dur > 5000,
          );
          const what = within.map(
            (e) =>
              `${e.name}${e.args?.data?.url ? ` ${e.args.data.url.split("/").at(-1)}:${e.args.data.lineNumber}` : ""} ${(e.dur / 1000).toFixed(0)}`,
          );
          return {
            pid: task.pid,
            clock: task.dur / 1000,
            cpu: (task.tdur ?? task.dur) / 1000,
            what: what.slice(0, 8).join(", ") || "nothing inside of it over 5 ms",
          };
        });
      return { tasks, seconds, from, to };
    },
  };
}

const pages = [];
for (const path of paths) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  const page = await context.newPage();
  const one = { path, page, errors: 0 };
  page.on("pageerror", () => (one.errors += 1));
  page.on("console", (message) => (one.errors += message.type() === "error" ? 1 : 0));
  await page.goto(base + path);
  await page.locator("main h1").first().waitFor();
  one.client = await context.newCDPSession(page);
  await one.client.send("Performance.enable", { timeDomain: "threadTicks" });
  await page.evaluate(() => {
    globalThis.longTasks = [];
    new PerformanceObserver((list) => {
      for (const { startTime, duration } of list.getEntries())
        globalThis.longTasks.push({ at: performance.timeOrigin + startTime, duration });
    }).observe({ type: "longtask" });
  });
  pages.push(one);
}

/** Which process draws which page: tasks of a trace know only the process. */
const processes = new Map();
for (const { path, page } of pages) {
  const mark = `kilter-${path}`;
  await whole.send("Tracing.start", { transferMode: "ReportEvents", traceConfig: { includedCategories: ["blink.user_timing"] } });
  const found = new Promise((done) => {
    const take = ({ value }) => {
      for (const e of value) if (e.name === mark) processes.set(e.pid, path);
    };
    whole.on("Tracing.dataCollected", take);
    whole.once("Tracing.tracingComplete", () => done(whole.off("Tracing.dataCollected", take)));
  });
  await page.evaluate((mark) => performance.mark(mark), mark);
  await whole.send("Tracing.end");
  await found;
}

/** Rubbish is collected by us, and the trace is read: what those take is no task of the page. */
async function look(one, since, { tasks, seconds: traced, from, to }) {
  const observed = await one.page.evaluate(() => globalThis.longTasks.splice(0));
  await one.client.send("HeapProfiler.collectGarbage");
  const [heap, counters, metrics] = [
    await one.client.send("Runtime.getHeapUsage"),
    await one.client.send("Memory.getDOMCounters"),
    await one.client.send("Performance.getMetrics"),
  ];
  const metric = (name) => metrics.metrics.find((m) => m.name === name)?.value ?? 0;
  const text = await one.page.evaluate(() => document.querySelector("main").innerText);
  const line = {
    page: one.path,
    seconds: since,
    heap: heap.usedSize,
    nodes: counters.nodes,
    listeners: counters.jsEventListeners,
    documents: counters.documents,
    cpu: metric("TaskDuration"),
    moved: text !== one.text,
    observed: observed.filter((task) => task.at >= from && task.at < to).length,
    tasks: tasks.filter((task) => processes.get(task.pid) === one.path),
    traced,
    errors: one.errors,
  };
  one.text = text;
  console.log(JSON.stringify(line));
}

const began = Date.now();
for (;;) {
  const since = (Date.now() - began) / 1000;
  if (since > seconds) break;
  const tracing = await trace();
  await new Promise((done) => setTimeout(done, every));
  const seen = await tracing.stop();
  const at = (Date.now() - began) / 1000;
  for (const one of pages) await look(one, at, seen);
}
await browser.close();
