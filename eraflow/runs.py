"""A run of the loop on disk: what it goes on from after a kill, and the networks it ends with.

    <folder of the first member>/checkpoint.safetensors   all members after the last whole epoch; a single file, so
                                                           that no two generations can mix
    <folder of each member>/fitted.safetensors            its weights, once the run is finished or cut

Each file says what it was made from, and in its metadata the sha256 of that and of all tensors: one that was made from
anything else, or of which a bit has changed on the disk, is not gone on from, and what it held is trained again. Files
of an eraflow from before that hash have none and are taken as they are. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eraflow.errors import OutOfTimeError, TrainingError
from eraflow.models import Mlp

logger = logging.getLogger("eraflow")

FORMAT = 2
CHECKPOINT, FINISHED = "checkpoint.safetensors", "fitted.safetensors"

Told = dict[str, Any]


class Run:
    """What the members of a run carry from step to step and through a kill."""

    def __init__(
        self,
        nets: Sequence[Mlp],
        optimizer: torch.optim.Optimizer,
        masks: Sequence[torch.Generator],
        folders: Sequence[Path],
        identities: Sequence[str],
        rows: int,
    ) -> None:
        """Goes on from what lies in `folders`; `identities` are hashes of all that decides a member's weights."""
        self.nets, self.optimizer, self.masks = nets, optimizer, masks
        self.folders, self.identities, self.rows = folders, list(identities), rows
        self.device = next(nets[0].parameters()).device
        self.step, self.epochs = 0, list[list[Told]]()
        """`epochs` holds for each whole epoch an entry a member."""
        self._load_checkpoint()

    @property
    def seconds(self) -> float:
        """Spent so far [s], killed runs included."""
        return sum(float(entry["seconds"]) for entry in self.epochs[-1]) if self.epochs else 0.0

    def keep(self, step: int, entries: Sequence[Told]) -> None:
        """Write all that is needed to go on after `step` steps.

        Raises `TrainingError` for a weight that is not finite, before anything is written.
        """
        weights = [tensor for group in self.optimizer.param_groups for tensor in group["params"]]
        if not all(bool(tensor.isfinite().all()) for tensor in weights):
            raise TrainingError(
                f"all weights must be finite after step {step}, however the training diverged; lower"
                " training.learning_rate; the last whole epoch's checkpoint is kept"
            )
        self.step = step
        self.epochs.append([{"epoch": len(self.epochs) + 1} | entry for entry in entries])
        tensors: dict[str, Tensor] = {}
        for m, (net, masks) in enumerate(zip(self.nets, self.masks, strict=True)):
            tensors |= {f"{m}.{name}": tensor for name, tensor in _weights(net).items()}
            tensors[f"{m}.masks"] = masks.get_state()
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        told = {"identities": self.identities, "step": step, "device": str(self.device), "history": self.epochs}
        _write(self.folders[0] / CHECKPOINT, tensors, told)

    def finish(self) -> None:
        """Write the weights for good; from now on these folders are loaded and not trained again."""
        self._write_weights(complete=True)
        drop_checkpoint(self.folders)

    def cut(self, stage: str) -> None:
        """Go back to the last whole epoch and write its weights; the checkpoint stays, so a later run goes on there."""
        if not self.epochs:
            raise OutOfTimeError(f"{stage}: not one epoch could be finished in the time that is left")
        self._load_checkpoint()
        self._write_weights(complete=False)

    def _write_weights(self, *, complete: bool) -> None:
        for m, (net, folder, identity) in enumerate(zip(self.nets, self.folders, self.identities, strict=True)):
            told = {
                "identity": identity,
                "step": self.step,
                "rows": self.rows,
                "features": net.n_features,
                "targets": net.n_targets,
                "device": str(self.device),
                "history": [entries[m] for entries in self.epochs],
                "complete": complete,
            }
            _write(folder / FINISHED, _weights(net), told)

    def _load_checkpoint(self) -> None:
        tensors, told = _read_if_whole(self.folders[0] / CHECKPOINT)
        if told.get("identities") != self.identities:
            return  # nothing, or of another configuration, other rows or other members
        if torch.device(told["device"]).type != self.device.type:
            return  # another kind of device draws its masks in another way
        for m, (net, masks) in enumerate(zip(self.nets, self.masks, strict=True)):
            net.load_state_dict(part(tensors, f"{m}.model."))
            masks.set_state(tensors[f"{m}.masks"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part(tensors, "optimizer.").items():
            number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.epochs = told["step"], told["history"]


def are_finished(folders: Sequence[Path], identities: Sequence[str]) -> bool:
    """Whether each member's folder holds what it would be trained to."""
    tolds = [_read_if_whole(folder / FINISHED)[1] for folder in folders]
    return all(
        told.get("identity") == identity and told["complete"] for told, identity in zip(tolds, identities, strict=True)
    )


def drop_checkpoint(folders: Sequence[Path]) -> None:
    """Remove what a finished run went on from; it may have been killed just before it did so itself."""
    from eraflow.store import discard

    discard(folders[0] / CHECKPOINT)


def read(path: Path) -> tuple[dict[str, Tensor], Told]:
    """The tensors in a file of a run and what it says of them. Raises `TrainingError` if it is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            text, sha256 = metadata["eraflow"], metadata.get("sha256")
            told = json.loads(text)
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}, not {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if sha256 is not None and sha256 != _sha256(text, tensors):
            raise ValueError("it has changed since it was written")
        return tensors, told
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} must hold a trained network, however it cannot be read ({error}); train again"
        ) from error


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read_if_whole(path: Path) -> tuple[dict[str, Tensor], Told]:
    try:
        return read(path)
    except TrainingError:
        if path.exists():
            logger.warning("%s is damaged, or of another version of eraflow; what it held is trained again", path)
        return {}, {}


def _write(path: Path, tensors: dict[str, Tensor], told: Told) -> None:
    from safetensors.torch import save

    from eraflow.store import made_folder, write_atomically

    made_folder(path.parent)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT} | told)
    write_atomically(path, save(stored, {"eraflow": text, "sha256": _sha256(text, stored)}))


def _sha256(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _weights(net: Mlp) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
