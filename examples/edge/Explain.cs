// Runs a compiled file with ONNX Runtime's C# interface (NuGet package Microsoft.ML.OnnxRuntime).
// Not tested: this project's CI has no .NET.
using System;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;

// Explain MODEL PICTURE CLASS MAP; PICTURE holds float32 numbers, CLASS is -1 for the likeliest.
using var options = new SessionOptions { IntraOpNumThreads = 1 };
// With Microsoft.ML.OnnxRuntime.Gpu: options.AppendExecutionProvider_CUDA(0);
using var session = new InferenceSession(args[0], options);

var (name, about) = session.InputMetadata.First(input => input.Key != "target");
var shape = about.Dimensions.Select(size => size < 0 ? 1L : size).ToArray();
var picture = MemoryMarshal.Cast<byte, float>(File.ReadAllBytes(args[1])).ToArray();

using var image = OrtValue.CreateTensorValueFromMemory(picture, shape);
using var target = OrtValue.CreateTensorValueFromMemory(new[] { long.Parse(args[2]) }, new[] { 1L });
using var run = new RunOptions();
var answer = session.OutputNames[0];
using var results = session.Run(run, new[] { name, "target" }, new[] { image, target }, new[] { answer, "saliency", "residual" });

var scores = results[0].GetTensorDataAsSpan<float>().ToArray();
var best = Array.IndexOf(scores, scores.Max());
Console.WriteLine($"class {best}, score {scores[best]:F6}, residual {results[2].GetTensorDataAsSpan<float>()[0]:E1}");
File.WriteAllBytes(args[3], MemoryMarshal.AsBytes(results[1].GetTensorDataAsSpan<float>()).ToArray());
