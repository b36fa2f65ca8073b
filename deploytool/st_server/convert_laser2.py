"""LASER2's published files -> a folder that can be served: `python -m deploytool.st_server.convert_laser2`.

The weights come as a pickle (laser2.pt). It is read once, here, with `weights_only=True`, which takes tensors
and plain containers and refuses everything that could run code; what is served is safetensors and JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploytool.st_server.errors import BadUsage, LoadFailed, Missing, StartError
from deploytool.st_server.laser2 import BOS, EOS, FIGURES, PAD, PIECES, UNK, WEIGHTS, WORDS
from deploytool.st_server.model_folder import LASER2
from deploytool.st_server.stages import say_fatal

SPECIAL = {"<s>": BOS, "<pad>": PAD, "</s>": EOS, "<unk>": UNK}
DEFAULTS = {"embed_dim": 320, "hidden_size": 512, "num_layers": 1}  # LaserLstmEncoder's own


def convert(weights: Path, pieces: Path, target: Path) -> None:
    """Write the folder. Raises StartError; nothing is left half written."""
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise BadUsage(f"{target} is there already", hint="give a folder that is new or empty")
    for path in (weights, pieces):
        if not path.is_file():
            raise Missing(f"there is no file {path}", hint="the published ones: laser2.pt and laser2.spm")
    config, words, state = _checked(_read(weights), weights)
    made = target.with_name(target.name + ".partial")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    from safetensors.torch import save_file

    save_file({name: tensor.float().contiguous() for name, tensor in state.items()}, made / WEIGHTS)
    (made / WORDS).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    (made / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(pieces, made / PIECES)
    if target.is_dir():
        target.rmdir()
    made.rename(target)


def _read(weights: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LoadFailed(
            f"{weights} holds more than tensors and plain values, or is no file of torch: it is not read",
            hint="take laser2.pt as facebookresearch/LASER publishes it; nothing in the file was executed",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise LoadFailed(f"{weights} cannot be read: {error}", hint="download it again") from error


def _checked(found: Any, weights: Path) -> tuple[dict[str, Any], dict[str, int], Mapping[str, Any]]:
    """config.json, the dictionary and the tensors. Raises LoadFailed."""
    parts = found if isinstance(found, dict) else {}
    given, words, state = parts.get("params"), parts.get("dictionary"), parts.get("model")
    if not isinstance(given, dict) or not isinstance(words, dict) or not isinstance(state, Mapping):
        raise LoadFailed(
            f"{weights} is not LASER2: it lacks params, dictionary or model",
            hint="LASER3's encoders are transformers of fairseq: they are not converted",
        )
    if not given.get("bidirectional"):
        raise LoadFailed(f"{weights}: its LSTM reads one way only, LASER2's reads both")
    figures = {name: given.get(name, DEFAULTS.get(name)) for name in FIGURES}
    config = {"model_type": LASER2, "architectures": ["Laser2"], **figures}
    return config, {str(word): int(number) for word, number in words.items()} | SPECIAL, state


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploytool.st_server.convert_laser2", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("weights", type=Path, help="laser2.pt")
    parser.add_argument("pieces", type=Path, help="laser2.spm")
    parser.add_argument("folder", type=Path, help="where to write; `deploytool up FOLDER` serves it")
    given = parser.parse_args(argv)
    try:
        convert(given.weights, given.pieces, given.folder)
    except StartError as error:
        say_fatal(error)
        return error.exit_code
    sys.stdout.write(f"{given.folder} can be served: deploytool up {given.folder} --profile cpu\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
