# Brain XAI on a CPU:
#   docker build -t brain-xai --build-arg TORCH_INDEX=<address of PyTorch's index of CPU builds> .
#   docker run --rm -p 7860:7860 brain-xai
# Without TORCH_INDEX it also works, with builds for GPUs that are gigabytes larger.
FROM python:3.12-slim

WORKDIR /app
COPY requirements.txt constraints.txt ./
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" -c constraints.txt torch torchvision; fi \
    && pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY app.py ./
COPY brain_xai ./brain_xai

# This user can write to its home and to /tmp, not to the app.
RUN useradd --create-home --uid 1000 brain
USER brain

ENV GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 GRADIO_ANALYTICS_ENABLED=False PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['GRADIO_SERVER_PORT'], timeout=9)"]
CMD ["python", "app.py"]
