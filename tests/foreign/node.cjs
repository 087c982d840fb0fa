// Runs a model in onnxruntime-node: node node.cjs MODEL REQUEST ANSWER
// REQUEST and ANSWER are JSON files: {name: {type, dims, data}}.
"use strict";
const fs = require("fs");
const ort = require("onnxruntime-node");
const { decode, encode } = require("./tensors.cjs");

async function main([model, request, answer]) {
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 });
  const found = await session.run(decode(ort, JSON.parse(fs.readFileSync(request, "utf8"))));
  fs.writeFileSync(answer, JSON.stringify(encode(found)));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
