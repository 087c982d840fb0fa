# onnxplain on the CPU: the command line and the Python package, nothing else.
#
#   docker build -f docker/cpu.Dockerfile -t onnxplain:cpu .
#   docker run --rm -v "$PWD:/data" onnxplain:cpu explain net.onnx photo.jpg --preprocess imagenet -o out.png
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/onnxplain && /opt/onnxplain/bin/pip install --no-cache-dir '.[cpu]'

FROM python:3.12-slim
COPY --from=build /opt/onnxplain /opt/onnxplain
ENV PATH=/opt/onnxplain/bin:$PATH MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home user
USER user
WORKDIR /data
RUN onnxplain doctor
ENTRYPOINT ["onnxplain"]
