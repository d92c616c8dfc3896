#!/bin/sh
# The locked packages into .venv, for an image: install-packages.sh cpu | cuda
#
# The lock names PyTorch as PyPI has it, with CUDA. For a processor alone it comes, in the same version, from
# PyTorch's own index, which the lock has no hashes of; all others are held to theirs.
set -eu
lock=requirements.txt
cuda='^(torch|torchvision|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)=='

without_torch() {  # the lock without the entries that $cuda matches, and their lines of hashes
  awk -v entry="$cuda" '/^[a-z0-9]/ { keep = $0 !~ entry } /^#/ { keep = 1 } keep' "$lock"
}

case ${1:?"Say which: cpu or cuda"} in
  cuda)
    .venv/bin/pip install --require-hashes --no-deps --requirement "$lock"
    ;;
  cpu)
    without_torch > without-torch.txt
    .venv/bin/pip install --require-hashes --no-deps --requirement without-torch.txt
    .venv/bin/pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
      $(sed -nE 's/^(torch|torchvision)==([0-9.]+).*/\1==\2/p' "$lock")
    rm without-torch.txt
    ;;
  show)  # what a cpu image takes from the lock
    without_torch
    exit
    ;;
  *) echo "There is no variant $1: cpu and cuda are." >&2; exit 1 ;;
esac
.venv/bin/python -c 'import cv2, torch, torchvision'
