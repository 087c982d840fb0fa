# onnxplain on NVIDIA GPUs. CUDA and cuDNN come as Python packages (onnxruntime-gpu[cuda,cudnn]); the driver, and the
# NVIDIA Container Toolkit that passes the device in, belong to the host.
#
#   docker build -f docker/gpu.Dockerfile -t onnxplain:gpu .
#   docker run --rm --gpus all -v "$PWD:/data" onnxplain:gpu explain net.onnx photo.jpg --provider cuda -o out.png
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/onnxplain && /opt/onnxplain/bin/pip install --no-cache-dir '.[gpu-cuda]'

FROM python:3.12-slim
COPY --from=build /opt/onnxplain /opt/onnxplain
ENV PATH=/opt/onnxplain/bin:$PATH MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home user
USER user
WORKDIR /data
# No device at build time: this says that the package works, and that CUDA does not load yet.
RUN onnxplain doctor
ENTRYPOINT ["onnxplain"]
