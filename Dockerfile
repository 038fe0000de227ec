# growth-pretraining on a machine with NVIDIA GPUs.
#
# This file was NOT built or run where it was written: there was neither a container runtime nor a GPU there. What is known by
# tests is the list of packages: constraints.txt (`make test`, Python 3.11), and the lowest releases (`make test-lowest`, Python 3.12).
#
#   docker build --tag growth-pretraining .
#   docker run --gpus all --ipc=host --volume "$PWD/runs:/workspace/runs" growth-pretraining \
#       deepspeed --module pipeline.cli.pretrain --ds_config ds_configs/zero3.json
#
# The names of the project's own recipes and DeepSpeed configurations are understood everywhere.
#
# `--ipc=host` (or `--shm-size=8g`) gives NCCL the shared memory that it needs.

FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS base
# Compilers and Python's headers: `compile: true` (Triton) and DeepSpeed's CPU Adam compile at their first start; libaio is for
# optimizer state on a disk. torch's wheel brings CUDA's libraries with it.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc g++ libaio-dev make ninja-build python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUTF8=1

FROM base AS wheel
COPY pyproject.toml setup.py README.md LICENSE /source/
COPY data_prep /source/data_prep
COPY pipeline /source/pipeline
# pipeline/built_in links to recipes and configurations there, which become files of the wheel.
COPY launch /source/launch
COPY ds_configs /source/ds_configs
RUN pip wheel --no-deps --wheel-dir /wheels /source

FROM base
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt torch
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /tmp/wheels/*.whl)[monitors]"
WORKDIR /workspace
CMD ["growth-pretrain", "--help"]
