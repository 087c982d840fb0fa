// Runs models in onnxruntime-web (WebAssembly) inside a headless browser: node browser.cjs CHROMIUM JOBS
// JOBS is a JSON file: [{model, request, answer}], all of them paths.
"use strict";
const fs = require("fs");
const http = require("http");
const path = require("path");
const { chromium } = require("playwright-core");

const TYPES = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".png": "image/png",
  ".wasm": "application/wasm",
};

// Serves the runtime from node_modules, this folder, and nothing else.
function serve(roots) {
  const server = http.createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const file = roots.map((root) => path.join(root, name)).find((candidate) => fs.existsSync(candidate));
    if (!file) {
      response.writeHead(404);
      response.end();
      return;
    }
    response.writeHead(200, { "Content-Type": TYPES[path.extname(file)] || "application/octet-stream" });
    fs.createReadStream(file).pipe(response);
  });
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server)));
}

async function launch(executablePath) {
  const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"];
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-sync", ...quiet] });
}

async function main([executable, list]) {
  const runtime = path.join(__dirname, "node_modules", "onnxruntime-web");
  const server = await serve([path.join(runtime, "dist"), __dirname]);
  const browser = await launch(executable);
  try {
    const page = await browser.newPage();
    page.on("pageerror", (error) => console.error(String(error)));
    await page.goto(`http://127.0.0.1:${server.address().port}/page.html`);
    for (const job of JSON.parse(fs.readFileSync(list, "utf8"))) {
      const model = fs.readFileSync(job.model).toString("base64");
      const request = JSON.parse(fs.readFileSync(job.request, "utf8"));
      const answer = await page.evaluate(([m, r]) => window.runModel(m, r), [model, request]);
      fs.writeFileSync(job.answer, JSON.stringify(answer));
    }
  } finally {
    await browser.close();
    server.close();
  }
}

module.exports = { serve, launch };
if (require.main === module) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}
