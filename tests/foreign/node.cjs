// Runs models in onnxruntime-node: node node.cjs JOBS
// JOBS is a JSON file: [{model, request, answer}], all of them paths; requests and answers are JSON files:
// {name: {type, dims, data}}.
"use strict";
const fs = require("fs");
const ort = require("onnxruntime-node");
const { decode, encode } = require("./tensors.cjs");

async function main([list]) {
  for (const job of JSON.parse(fs.readFileSync(list, "utf8"))) {
    const session = await ort.InferenceSession.create(job.model, { logSeverityLevel: 3, intraOpNumThreads: 1 });
    const found = await session.run(decode(ort, JSON.parse(fs.readFileSync(job.request, "utf8"))));
    fs.writeFileSync(job.answer, JSON.stringify(encode(found)));
    await session.release();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
