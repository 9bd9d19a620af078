"""Reading of weights files: checkpoints of super-gradients' trainer, plain state dicts, safetensors.

No code in a file is executed: torch's ``weights_only`` loader reads tensors, plain containers, and a short list of
inert records (NumPy scalars, OmegaConf lists) that super-gradients' trainer stores in its checkpoints.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..documents import parse
from ..errors import CheckpointError, UsageError
from ..files import check_readable
from ..skeleton import Skeleton
from .catalogue import MODELS
from .families import count_outputs, make
from .model import Model
from .processing import from_checkpoint

StateDict = dict[str, Tensor]
# Entries of checkpoints that hold the weights, averaged ones first; and what wrappers put before each key, such as
# DataParallel, torch.compile, Lightning and averaging.
_CONTAINERS = (
    "ema_net", "ema", "ema_state_dict", "model_ema", "net", "state_dict", "model", "model_state_dict", "network",
    "weights", "module", "params", "state",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "ema.", "ema_model.", "network.", "_forward_module.")
_COUNTERS = {"n_averaged", "total_ops", "total_params"}
_DEEPEST = 5  # prefixes one within another
_LARGEST_PICKLE = 64 << 20
_MOST_REPEATED = 4  # times that tensors, such as tied weights, may share the numbers of a file


class _OmegaNode:
    """A substitute for OmegaConf's classes while unpickling: keeps their state without running their code."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)


_OMEGACONF = (
    "listconfig.ListConfig", "dictconfig.DictConfig", "base.ContainerMetadata", "base.Metadata", "nodes.AnyNode",
    "nodes.IntegerNode", "nodes.FloatNode", "nodes.StringNode", "nodes.BooleanNode",
)  # fmt: skip


def _safe_globals() -> list[Any]:
    import collections
    import typing

    try:
        from numpy._core import multiarray
    except ImportError:  # NumPy 1.26.0
        from numpy.core import multiarray  # type: ignore[no-redef]

    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"}
    inert = [(_OmegaNode, f"omegaconf.{name}") for name in _OMEGACONF]
    scalars = [(multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    builtin = [(kind, f"builtins.{kind.__name__}") for kind in (dict, list, int, float, str, bool, tuple)]
    return [*inert, *scalars, *builtin, np.dtype, *dtypes, collections.defaultdict, typing.Any]


def initialize(name: str, joints: int | None, classes: int | None, seed: int) -> Model:
    """Creates a model initialised from ``seed``, without weights. Warns that its predictions are meaningless."""
    warnings.warn(
        f"{name} has no weights (initialised from seed {seed}): what it finds is meaningless."
        " Give pretrained_weights or checkpoint_path.",
        stacklevel=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(name, joints, classes)
    model.weights = f"seed {seed}"
    return model.eval()


def load(
    name: str, path: Path, joints: int | None = None, classes: int | None = None, origin: str | None = None
) -> Model:
    """Creates a model with the weights of a file.

    Args:
        name: name of the model.
        path: weights file: ``.pth``, ``.pt`` or ``.safetensors``.
        joints: number of joints the file must have; None accepts any.
        classes: number of classes the file must have; None accepts any.
        origin: name of the weights in the description of exported files; the file name when None.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or of another model, has another number of joints or
            classes, or names unknown image steps.
    """
    record = _read(path)
    state, peeled = _state_dict(record, path)
    counts: dict[str, int | None] = {"joints": joints, "classes": classes}
    for kind, found in (count_outputs(state) or {}).items():
        if counts[kind] not in (None, found):
            raise CheckpointError(
                f"loading {path}: it was trained for {found} {kind}, {counts[kind]} were asked for. Leave the number"
                f" out or give {found}."
            )
        counts[kind] = found
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = make(name, **counts)
    if model.built_on != "meta":
        with torch.random.fork_rng(devices=[]):
            model = make(name, **counts)
    state = dict(model.upgrade(state))
    _check_keys(model, state, name, path, peeled)
    if model.built_on == "meta":
        model.to_empty(device="cpu")
    placeholders = {key: torch.zeros_like(own) for key, own in model.state_dict().items() if key not in state}
    model.load_state_dict({**state, **placeholders})
    _check_finite(model, path)
    model.adopt(path)
    params = record.get("processing_params")
    if isinstance(params, Mapping) and params:
        model.processing = from_checkpoint(_plain(params), model.processing, str(path))
    if isinstance(record.get("trt_pose"), Mapping):  # our trainer also stores flip pairs and sigmas
        model.processing = replace(model.processing, skeleton=_own_skeleton(record["trt_pose"], model, path))
    model.weights = origin or path.name
    return model.eval()


def _own_skeleton(entry: Mapping[str, Any], model: Model, path: Path) -> Skeleton:
    known = model.processing.skeleton
    try:
        skeleton = Skeleton.from_dict(entry["skeleton"])
        if skeleton.num_joints == known.num_joints:
            return skeleton
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        pass
    raise CheckpointError(
        f"loading {path}: its entry 'trt_pose' describes no set of {known.num_joints} joints. Remove the entry."
    )


def _read(path: Path) -> dict[str, Any]:
    check_readable(path, "loading", CheckpointError)
    _check_archive(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_safe_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            record = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            is_checkpoint = file.read(2)[:1] in (b"P", b"\x80")  # a zip archive or a pickle
        if is_checkpoint:
            raise CheckpointError(
                f"loading {path}: it holds Python objects, which can run code when read, so it is not opened. If you"
                " trust the author, re-save only the tensors, in the environment that created the file:"
                " c = torch.load(PATH, weights_only=False); torch.save({k: c[k] for k in ('ema_net', 'net',"
                " 'processing_params') if k in c}, NEW_PATH)."
            ) from error
        raise CheckpointError(f"loading {path}: not a weights file, or a damaged one. Fetch it again.") from error
    except Exception as error:  # torch's readers raise many exception types for damaged files
        if "TorchScript" in str(error):
            raise CheckpointError(f"loading {path}: a TorchScript archive. Save model.state_dict() instead.") from error
        raise CheckpointError(
            f"loading {path}: not a weights file, or a damaged one ({type(error).__name__}). Fetch it again."
        ) from error
    if not isinstance(record, dict):
        raise CheckpointError(
            f"loading {path}: it holds a {type(record).__name__}, expected a state dict or a checkpoint dict."
            " Save model.state_dict()."
        )
    return record


def _check_archive(path: Path) -> None:
    """Raises CheckpointError for a zip archive that is larger inside than torch.save makes it."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(f"loading {path}: not a weights file, or a damaged one. Fetch it again.") from error
    # torch.save stores tensors as they are, and describes them in a pickle of a few hundred bytes each.
    total = sum(item.file_size for item in entries)
    if total > _MOST_REPEATED * path.stat().st_size + (1 << 20) or any(
        item.filename.endswith("data.pkl") and item.file_size > _LARGEST_PICKLE for item in entries
    ):
        raise CheckpointError(
            f"loading {path}: {path.stat().st_size >> 20} MB hold {total >> 20} MB, which torch.save does not write."
            " Save model.state_dict() again."
        )


def _check_size(state: StateDict, path: Path) -> None:
    """Raises CheckpointError when the tensors repeat the numbers of the file many times."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if total > _MOST_REPEATED * path.stat().st_size + (1 << 20):
        raise CheckpointError(
            f"loading {path}: its tensors have {total >> 20} MB, the file {path.stat().st_size >> 20}. Save"
            " model.state_dict() again, with contiguous tensors."
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Reads the tensors, and ``processing_params`` from the JSON entry of that name in the file's metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            record: dict[str, Any] = {"net": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
            params = (file.metadata() or {}).get("processing_params")
    except SafetensorError as error:
        raise CheckpointError(f"loading {path}: not a safetensors file, or a damaged one. Fetch it again.") from error
    if params:
        record["processing_params"] = parse(params)
    return record


def _state_dict(record: Mapping[str, Any], path: Path) -> tuple[StateDict, tuple[str, ...]]:
    """Returns the state dict in a checkpoint, and what was taken away to find it: entries and prefixes of wrappers."""
    place, inner = _find_tensors(record)
    # Counters of wrappers (AveragedModel, FLOP counters), which are no weights.
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    state = {key: value for key, value in state.items() if key.rpartition(".")[2] not in _COUNTERS}
    if not state:
        raise CheckpointError(
            f"loading {path}: no tensors in it (keys: {_some(list(record))}). Expected a state dict, or a checkpoint"
            f" with one of {', '.join(_CONTAINERS)}."
        )
    _check_size(state, path)
    prefixes, state = _peel(state)
    return state, (*place, *prefixes)


def _find_tensors(record: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Returns the first entry that holds tensors, in the order of :data:`_CONTAINERS`, and its place."""
    for key in _CONTAINERS:
        inner = record.get(key)
        if not isinstance(inner, Mapping) or not inner:
            continue
        if any(isinstance(value, Tensor) for value in inner.values()):
            return (key,), inner
        place, found = _find_tensors(inner)
        if place:
            return (key, *place), found
    return (), record


def _peel(state: StateDict) -> tuple[tuple[str, ...], StateDict]:
    """Takes the prefixes of wrappers away, in any order and depth, until the outputs of a known model appear.

    Without one, the prefixes that all keys share are taken away.
    """
    queue: list[tuple[tuple[str, ...], StateDict]] = [((), state)]
    shared: tuple[tuple[str, ...], StateDict] = ((), state)
    for prefixes, keys in queue:
        if count_outputs(keys) is not None:
            return prefixes, keys
        if len(prefixes) == _DEEPEST:
            continue
        for prefix in _PREFIXES:
            rest = {key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)}
            if rest:
                queue.append(((*prefixes, prefix), rest))
                if len(rest) == len(keys) and prefixes == shared[0]:
                    shared = queue[-1]
    return shared


def _check_keys(model: Model, state: StateDict, name: str, path: Path, peeled: tuple[str, ...]) -> None:
    own = model.state_dict()
    missing = [key for key in own if key not in state and not _may_miss(key)]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if not (missing or unexpected or shapes):
        return
    likely = _likely_model(state)
    hint = f"It looks like {likely}." if likely and likely != name else "Check which model it was trained as."
    if "backbone.stem.conv.rbr_reparam.weight" in state and "backbone.stem.conv.post_bn.weight" not in state:
        hint = "It was saved after fuse(): save the state dict before fusing."
    parts = [
        f"{len(keys)} {what} ({_some(keys)})"
        for keys, what in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if keys
    ]
    taken = f" after taking {', '.join(peeled)} away" if peeled else ""
    raise CheckpointError(f"loading {path} as {name}{taken}: tensors {', '.join(parts)}. {hint}")


def _may_miss(key: str) -> bool:
    """Returns whether a key may be absent: a placeholder, or a counter that only training uses."""
    return ".rbr_reparam." in key or key.endswith(".num_batches_tracked")


def _likely_model(state: StateDict) -> str | None:
    """Returns the model that shares the most tensor shapes with ``state``, if it shares more than half."""
    found = count_outputs(state)
    if found is None:
        return None
    best, best_share = None, 0.5
    for name in (card.name for card in MODELS.values() if set(card.counts) == set(found)):
        with torch.device("meta"):
            own = make(name, **found).state_dict()
        share = sum(key in state and state[key].shape == tensor.shape for key, tensor in own.items()) / len(own)
        if share > best_share:
            best, best_share = name, share
    return best


def _check_finite(model: Model, path: Path) -> None:
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"loading {path}: {key} holds NaN or infinite values. Use an earlier checkpoint.")


def _plain(value: Any) -> Any:
    """Converts OmegaConf and NumPy values of a checkpoint to plain lists, dicts and numbers."""
    if isinstance(value, _OmegaNode):
        state = vars(value)
        return _plain(state.get("_content", state.get("_val")))
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, Tensor)):
        return value.tolist()
    return value


def _some(keys: list[str], most: int = 3) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(map(str, keys[:most])) + more
