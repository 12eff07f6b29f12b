#!/usr/bin/env bash
# Measure refnet on a machine with a CUDA GPU: installs what is needed into an environment of its own, and writes all
# numbers into one JSON file.
#
#   benchmarks/gpu.sh [FILE] [OPTION...]
#
# FILE is gpu.json by default; options are those of `python -m benchmarks gpu`, such as --networks default. PYTHON names a
# Python that has everything installed already; then nothing is installed. VENV is where the environment is made.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=gpu.json
if [[ $# -gt 0 && $1 != -* ]]; then
    output=$1
    shift
fi

if [[ -z ${PYTHON:-} ]]; then
    venv=${VENV:-.venv-gpu}
    if [[ ! -x $venv/bin/python ]]; then
        python3 -m venv "$venv"
    fi
    PYTHON=$venv/bin/python
    "$PYTHON" -m pip install --upgrade pip >&2
    # onnx and onnxscript are what the extra export needs in addition to onnxruntime, which would overwrite onnxruntime-gpu; so
    # would the extra dev. The last two are imported by other benchmarks.
    "$PYTHON" -m pip install '.[gpu]' onnx onnxscript scikit-learn segmentation-models-pytorch >&2
    # Compiles against the torch that is there, for which it may be too old.
    if ! "$PYTHON" -m pip install --no-build-isolation 'mamba-ssm>=2.2' >&2; then
        echo "mamba-ssm could not be installed: its kernel is left out, as the results will tell." >&2
    fi
fi

if command -v nvidia-smi >/dev/null; then
    nvidia-smi >&2
else
    echo "There is no nvidia-smi: is there a GPU and its driver?" >&2
fi

"$PYTHON" -m benchmarks gpu "$@" >"$output.part"
mv "$output.part" "$output"
echo "$output"
