// Runs a compiled file with ONNX Runtime's C++ interface: a picture in, the answer and the map out.
//
//   g++ -std=c++17 -I INCLUDE explain.cpp -L LIB -l:libonnxruntime.so.1 -Wl,-rpath,LIB -o explain
//   ./explain fashion-mnist.explained.onnx picture.f32 -1 map.f32
//
// picture.f32 holds float32 numbers in the model's order; -1 explains the likeliest class.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s MODEL PICTURE CLASS MAP\n", argv[0]);
    return 2;
  }
  try {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "explain");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    // With a CUDA build: options.AppendExecutionProvider("CUDA", {{"device_id", "0"}});
    Ort::Session session(env, argv[1], options);

    auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    std::replace_if(shape.begin(), shape.end(), [](std::int64_t size) { return size < 0; }, 1);
    std::size_t count = 1;
    for (auto size : shape) count *= static_cast<std::size_t>(size);

    std::ifstream file(argv[2], std::ios::binary);
    std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    if (bytes.size() != count * sizeof(float)) {
      std::fprintf(stderr, "%s has %zu bytes; the model takes %zu\n", argv[2], bytes.size(), count * sizeof(float));
      return 2;
    }
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::array<std::int64_t, 1> target{std::stoll(argv[3])}, one{1};
    std::vector<Ort::Value> inputs;
    inputs.push_back(Ort::Value::CreateTensor<float>(
        memory, reinterpret_cast<float*>(bytes.data()), count, shape.data(), shape.size()));
    inputs.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, target.data(), 1, one.data(), 1));

    Ort::AllocatorWithDefaultOptions allocator;
    const auto picture = session.GetInputNameAllocated(0, allocator);
    const auto answer = session.GetOutputNameAllocated(0, allocator);
    const char* given[] = {picture.get(), "target"};
    const char* wanted[] = {answer.get(), "saliency", "residual"};
    auto results = session.Run(Ort::RunOptions{nullptr}, given, inputs.data(), 2, wanted, 3);

    const float* scores = results[0].GetTensorData<float>();
    const auto classes = results[0].GetTensorTypeAndShapeInfo().GetElementCount();
    const auto best = std::max_element(scores, scores + classes) - scores;
    std::printf("class %td, score %.6f, residual %.1e\n", best, scores[best], results[2].GetTensorData<float>()[0]);

    const auto cells = results[1].GetTensorTypeAndShapeInfo().GetElementCount();
    std::ofstream(argv[4], std::ios::binary)
        .write(reinterpret_cast<const char*>(results[1].GetTensorData<float>()), cells * sizeof(float));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
