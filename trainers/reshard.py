"""A checkpoint of one layout (engine, ZeRO stage, number of processes) becomes one of any other.

The whole state is a value and Adam's two moments for every parameter name. What ZeRO 1 to 3 shared out over files is
put together by DeepSpeed's universal checkpoint (`deepspeed.checkpoint.ds_to_universal`); what the plain engine and
stage 0 wrote is whole as it stands. The whole state is then put into the parts that each rank of this run holds.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from schemas.errors import IntegrityError
from trainers.ranks import barrier, rank
from trainers.weight_average import held, share, whole_shape
from vtok import console
from vtok.files import TEMP_MARK

if TYPE_CHECKING:
    from trainers.engine import Layout

BUFFERS, EXTRAS = "buffers.pt", "extras.pt"
MOMENTS = ("exp_avg", "exp_avg_sq")


class WholeState(NamedTuple):
    """Everything that training goes on from.

    Attributes:
        values: weights by parameter name, fp32.
        moments: `exp_avg` and `exp_avg_sq` by parameter name; empty where no step was taken yet.
        step: optimiser steps taken.
        buffers: by name.
        extras: `average` (of the weights) and `scale` (of the loss), where there are any.
    """

    values: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    step: float
    buffers: dict[str, Tensor]
    extras: dict[str, Any]


def same(a: Layout, b: Layout) -> bool:
    """Whether a checkpoint of layout `a` can be loaded by an engine of layout `b` as it stands."""
    whole = a["zero_stage"] == 0
    return a["engine"] == b["engine"] and a["zero_stage"] == b["zero_stage"] and (whole or a["world"] == b["world"])


def read(folder: Path, layout: Layout, module: nn.Module, order: list[str]) -> WholeState:
    """The whole state of an engine's checkpoint. Called on every rank, within `trainers.only_data`.

    Args:
        folder: what the engine's `save` wrote.
        layout: of the checkpoint.
        module: of the present run; gives the names.
        order: parameter names as the optimiser counts them (`order_of`).

    Raises:
        IntegrityError: DeepSpeed cannot put the parts together.
    """
    if layout["engine"] == "plain":
        state = torch.load(folder / "plain.pt", weights_only=True, map_location="cpu")
        return _from_whole(state, state["module"], module, order)
    buffers = torch.load(folder / BUFFERS, weights_only=True, map_location="cpu")
    extras = read_extras(folder)
    if layout["zero_stage"] == 0:
        path = folder / "state" / "mp_rank_00_model_states.pt"
        state = torch.load(path, weights_only=True, map_location="cpu")
        return _from_whole({"optimizer": state["optimizer"], **extras}, {**state["module"], **buffers}, module, order)
    target = folder.parent.parent / f"{TEMP_MARK}universal-{folder.name}"
    if rank() == 0:
        shutil.rmtree(target, ignore_errors=True)
        _convert(folder / "state", target / "whole")  # beside it goes a file that names it
    barrier()
    try:
        return _from_universal(target / "whole" / "zero", buffers, module)._replace(extras=extras)
    finally:
        barrier()
        if rank() == 0:
            shutil.rmtree(target, ignore_errors=True)


def read_extras(folder: Path) -> dict[str, Any]:
    """`average` and `scale` of a DeepSpeed engine's checkpoint, where there are any."""
    path = folder / EXTRAS
    return dict(torch.load(path, weights_only=True, map_location="cpu")) if path.exists() else {}


def order_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Parameter names as the optimiser counts them; to be asked for before DeepSpeed regroups them."""
    names = {id(p): name for name, p in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _from_whole(
    state: Mapping[str, Any], tensors: Mapping[str, Tensor], module: nn.Module, order: list[str]
) -> WholeState:
    found = {order[index]: entry for index, entry in state["optimizer"]["state"].items()}
    return WholeState(
        values={name: tensors[name] for name, _ in module.named_parameters()},
        moments={name: {key: entry[key] for key in MOMENTS} for name, entry in found.items()},
        step=max((float(entry["step"]) for entry in found.values()), default=0.0),
        buffers={name: tensors[name] for name, _ in module.named_buffers() if name in tensors},
        extras={key: state[key] for key in ("average", "scale") if key in state},
    )


def _convert(source: Path, target: Path) -> None:
    """DeepSpeed's conversion, in this process and without its pool of workers."""
    options = argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    try:
        from deepspeed.checkpoint import ds_to_universal

        with console.quiet_stdout():
            ds_to_universal.main(options)
    except pickle.UnpicklingError:  # `only_data` says what of it
        raise
    except Exception as error:
        raise IntegrityError(
            "the checkpoint cannot be converted for this engine, ZeRO stage and number of processes: "
            f"{type(error).__name__}: {error}",
            at=str(source),
            hint="resume with those that wrote it (state.json names them under `layouts`), or from another checkpoint",
        ) from error


def _from_universal(folder: Path, buffers: dict[str, Tensor], module: nn.Module) -> WholeState:
    values, moments, step = {}, {}, 0.0
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad and not (folder / name).is_dir():
            continue
        shape = whole_shape(parameter)
        values[name] = _tensor(folder / name / "fp32.pt").reshape(shape)
        if (folder / name / "exp_avg.pt").exists():
            moments[name] = {key: _tensor(folder / name / f"{key}.pt").reshape(shape) for key in MOMENTS}
        if (folder / name / "step.pt").exists():
            step = max(step, float(_tensor(folder / name / "step.pt")))
    if moments and not step:
        step = _stage_3_step(folder / "optimizer_state.pt")
    return WholeState(values, moments, step, buffers, {})


def _stage_3_step(path: Path) -> float:
    """Adam's counter, which the conversion of stage 3 leaves among the states of the parts."""
    state = torch.load(path, weights_only=True, map_location="cpu")["optimizer_state_dict"]["state"]
    return max(float(entry["step"]) for entry in state.values())


def _tensor(path: Path) -> Tensor:
    found = torch.load(path, weights_only=True, map_location="cpu")
    tensor = found["param"] if isinstance(found, dict) else found
    return tensor if isinstance(tensor, Tensor) else torch.tensor(float(tensor))


@torch.no_grad()
def fill_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Puts the saved buffers in place."""
    for name, buffer in module.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])


@torch.no_grad()
def fill_whole(module: nn.Module, optimizer: torch.optim.Optimizer, state: WholeState) -> None:
    """Puts a whole state into a module and its optimiser that hold everything (plain engine, ZeRO stage 0)."""
    fill_buffers(module, state.buffers)
    for name, parameter in module.named_parameters():
        if name in state.values:
            parameter.copy_(state.values[name])
        if name in state.moments:
            moments = {key: value.to(parameter.device).clone() for key, value in state.moments[name].items()}
            optimizer.state[parameter] = {"step": _step(state, parameter, optimizer), **moments}


@torch.no_grad()
def fill_sharded(module: nn.Module, zero: Any, stage: int, state: WholeState) -> None:
    """Puts a whole state into the parts that this rank holds under ZeRO stage 1, 2 or 3.

    Args:
        module: the module.
        zero: DeepSpeed's optimiser around torch's.
        stage: of ZeRO.
        state: the whole state.
    """
    fill_buffers(module, state.buffers)
    flats = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
    optimizer = zero.optimizer
    for flat in flats:
        moments = {key: torch.zeros_like(flat) for key in MOMENTS} if state.moments else {}
        optimizer.state[flat] = {"step": _step(state, flat, optimizer), **moments} if moments else {}
    for name, parameter in module.named_parameters():
        if name not in state.values:
            continue
        held(parameter).copy_(share(parameter, state.values[name]))
        if not parameter.requires_grad:
            continue
        if stage == 3:
            _fill_stage_3(parameter, name, state)
        else:
            _fill_part(parameter, name, state, zero)


def _fill_stage_3(parameter: nn.Parameter, name: str, state: WholeState) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    safe_set_local_fp32_param(parameter, share(parameter, state.values[name]))
    for key, value in state.moments.get(name, {}).items():
        safe_set_local_optimizer_state(parameter, share(parameter, value), key)


def _fill_part(parameter: Any, name: str, state: WholeState, zero: Any) -> None:
    """Stages 1 and 2: a slice of the parameter lies in this rank's flat partition, if any of it does."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return
    there, here = mapping.lp_fragment_address, mapping.hp_fragment_address

    def part(value: Tensor) -> Tensor:
        return value.reshape(-1)[there.start : there.start + there.numel]

    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    flat.data.narrow(0, here.start, here.numel).copy_(part(state.values[name]))
    for key, value in state.moments.get(name, {}).items():
        zero.optimizer.state[flat][key].narrow(0, here.start, here.numel).copy_(part(value))


def _step(state: WholeState, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Adam's counter, on the device where it belongs: beside the weights for the fused kernel, else on the CPU."""
    device = parameter.device if optimizer.defaults.get("fused") else "cpu"
    return torch.tensor(state.step, dtype=torch.float32, device=device)
