// Tensors to and from JSON.
"use strict";

function decode(ort, request) {
  const feeds = {};
  for (const [name, { type, dims, data }] of Object.entries(request)) {
    const values = type === "int64" ? BigInt64Array.from(data.map(BigInt)) : Float32Array.from(data);
    feeds[name] = new ort.Tensor(type, values, dims);
  }
  return feeds;
}

function encode(results) {
  const answer = {};
  for (const [name, tensor] of Object.entries(results)) {
    answer[name] = { type: tensor.type, dims: tensor.dims, data: Array.from(tensor.data, Number) };
  }
  return answer;
}

if (typeof module !== "undefined") module.exports = { decode, encode };
