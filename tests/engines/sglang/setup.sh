#!/usr/bin/env bash
# A virtual environment in which the real SGLang 0.5.23 serves small models without a GPU, for the engine tests.
# usage: setup.sh FOLDER     (2.8 GB; a few minutes the first time, nothing after that)
#
# Four things stand between the CUDA wheel and a CPU; none of them is the HTTP server, the argument parser or
# the scheduler: the CUDA kernels (a stand-in lets their names import and raises when one is called),
# torchvision's registrations for CUDA operators, an undeclared dependency (dill), and the pinned CUDA torch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
want=$(cat "$here/setup.sh" "$here/requirements.txt" "$here/sgl_kernel/__init__.py" | sha256sum)
[ "$(cat "$folder/installed" 2>/dev/null)" = "$want" ] && exit 0

echo "setting up SGLang on the CPU in $folder (2.8 GB, a few minutes) ..."
rm -rf "$folder"
mkdir -p "$folder"
"${PYTHON:-python3}" -m venv "$folder"
pip() { "$folder/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip -r "$here/requirements.txt"
pip --no-deps triton==3.9.0 torchvision==0.28.0 sglang==0.5.23
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
sed -i 's/^@torch\.library\.register_fake(.*)$/@(lambda function: function)/' "$site/torchvision/_meta_registrations.py"
rm -rf "$site/sgl_kernel"
cp -r "$here/sgl_kernel" "$site/sgl_kernel"
printf '%s\n' "$want" > "$folder/installed"
