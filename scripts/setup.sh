#!/usr/bin/env bash
# Builds .venv with pinned dependencies, once; a second call finds its stamp and returns at once.
# Environment: PYTHON (interpreter to use), PV_TORCH (a requirement or a wheel's path, instead of the pinned torch).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

pick_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "expected Python 3.11 or later with venv, found none. Install it (Debian: apt-get install python3 python3-venv) or set PYTHON=..."
  exit 2
}

# The file that pip would take for a requirement, without downloading it.
file_for() {
  .venv/bin/python -m pip install -qq --dry-run --no-deps --ignore-installed --report - "$1" 2>/dev/null |
    .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["download_info"]["url"].rsplit("/", 1)[-1])' 2>/dev/null || true
}

install_torch() {
  if .venv/bin/python -c 'import torch' 2>/dev/null; then return; fi
  local want="${PV_TORCH:-torch==$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements/constraints.txt)}" file
  if [ -n "${PV_TORCH:-}" ]; then
    say "installing torch from PV_TORCH"
    .venv/bin/python -m pip install -qq "$want"
    return
  fi
  file=$(file_for "$want")
  # On Linux an unmarked wheel is the CUDA build, several gigabytes: taken only where there is a card for it.
  if [[ "$file" == *cpu* || "$(uname -s)" == Darwin ]] || { [ -n "$file" ] && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; then
    say "installing torch ($file)"
    .venv/bin/python -m pip install -qq "$want"
  else
    say "torch is NOT installed: pip would take '${file:-nothing}' for $want, which is not a CPU build, and this machine has no NVIDIA GPU."
    say "Contracts can be validated without it; checks that need the engine are BLOCKED. Next step: PV_TORCH=/path/to/a/cpu/wheel make setup"
  fi
}

main() {
  local stamp
  stamp=".venv/.pv-setup-$(cat pyproject.toml requirements/*.txt scripts/setup.sh | cksum | tr ' ' -)"
  bash scripts/install-vulkan.sh
  if [ -e "$stamp" ]; then return; fi
  local python
  python=$(pick_python)
  say "first run: building .venv with $("$python" --version) (a minute or two)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install -qq --upgrade -c requirements/constraints.txt pip setuptools
  install_torch
  # torch is in no list here on purpose: a resolver that meets it would fetch gigabytes.
  .venv/bin/python -m pip install -qq -c requirements/constraints.txt -r requirements/all.txt
  .venv/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
  rm -f .venv/.pv-setup-*
  touch "$stamp"
  say "ready"
}

main
