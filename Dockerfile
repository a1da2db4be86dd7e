# vtok on the CPU; for CUDA, start from an image with a CUDA build of torch and leave `torch` out of constraints.txt.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/vtok
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY schemas schemas
COPY vtok vtok
COPY pipelines pipelines
COPY trainers trainers
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt -e .
ENTRYPOINT ["vtok"]
CMD ["--help"]
