// Clicks through the demo page in a headless browser: node demo_page.cjs CHROMIUM SITE REQUEST
// REQUEST is a JSON file: {picture, target, answer, pictures: {name: path}}; what the page says goes to `answer`.
"use strict";
const fs = require("fs");
const { serve, launch } = require("./browser.cjs");

const DONE = () => document.body.dataset.state === "done";

// What a user reads, and the figures behind it.
function seen() {
  const text = (id) => document.getElementById(id).textContent;
  const rows = [...document.querySelectorAll("#scores tbody tr")].map((row) => row.innerText);
  const label = document.getElementById("map").getAttribute("aria-label");
  const words = { prediction: text("prediction"), status: text("status"), proof: text("proof") };
  return { ...words, rows, label, legend: text("legend"), result: window.explained };
}

// Controls without a name, and what sticks out of the window.
function faults() {
  const controls = [...document.querySelectorAll("input, select, button")];
  const named = (c) => c.labels?.length || c.getAttribute("aria-label") || c.querySelector("img[alt]");
  return {
    unnamed: controls.filter((c) => !named(c)).map((c) => c.outerHTML),
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}

async function main([executable, site, list]) {
  const job = JSON.parse(fs.readFileSync(list, "utf8"));
  const server = await serve([site]);
  const browser = await launch(executable);
  const answer = { errors: [], requests: [] };
  try {
    const page = await browser.newPage({ viewport: { width: 1100, height: 900 } });
    page.on("pageerror", (error) => answer.errors.push(String(error)));
    page.on("console", (message) => message.type() === "error" && answer.errors.push(message.text()));
    page.on("request", (request) => answer.requests.push({ url: request.url(), method: request.method() }));
    await page.addInitScript(() => document.addEventListener("explained", (e) => (window.explained = e.detail)));
    await page.goto(`http://127.0.0.1:${server.address().port}/index.html`);
    await page.waitForFunction(() => document.body.dataset.state === "ready");
    await page.setInputFiles("#file", job.picture);
    await page.waitForFunction(DONE);
    answer.first = await page.evaluate(seen);
    await page.selectOption("#class", String(job.target));
    await page.waitForFunction((t) => document.body.dataset.state === "done" && window.explained.target === t, job.target);
    answer.second = await page.evaluate(seen);
    await page.screenshot({ path: job.pictures.wide, fullPage: true });
    await page.setViewportSize({ width: 360, height: 740 });
    answer.faults = await page.evaluate(faults);
    await page.screenshot({ path: job.pictures.phone, fullPage: true });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.screenshot({ path: job.pictures.dark, fullPage: true });
    // By keyboard alone: the first sample is focused and pressed.
    await page.selectOption("#class", "-1");
    await page.focus("#file");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    const label = await page.getAttribute("#samples button[aria-pressed=true]", "title");
    await page.waitForFunction((name) => document.getElementById("status").textContent === `${name}: done.`, label);
    answer.third = await page.evaluate(seen);
    await page.setInputFiles("#file", { name: "no.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
    await page.waitForFunction(() => document.body.dataset.state === "error");
    answer.last = await page.evaluate(() => document.getElementById("status").textContent);
  } finally {
    await browser.close();
    server.close();
    fs.writeFileSync(job.answer, JSON.stringify(answer));
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
