"""What both trainers share: the loop's cadence, the engine and the optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.config.base import Config


class OptimConfig(Config):
    """One optimiser."""

    optimizer: Literal["adam", "adamw"] = Field("adamw", description="Adam (coupled decay) or AdamW (decoupled).")
    lr: float = Field(3e-4, gt=0, description="Peak learning rate, or what `lr_rule` multiplies.")
    lr_rule: Literal["exact", "tats_vqgan", "tats_gpt"] = Field(
        "exact",
        description="`exact`: lr as it stands. TATS scales it: `tats_vqgan` by accumulate x gpus/8 x clips a GPU/4, "
        "`tats_gpt` by accumulate x gpus x clips a GPU, that is by batch_size/32 and by batch_size.",
    )
    betas: tuple[float, float] = Field((0.9, 0.95), description="Adam's moving-average coefficients.")
    weight_decay: float = Field(0.01, ge=0, description="Decay of the weights of linear layers.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="After warm-up: constant, or cosine to 0.")
    clip_grad_norm: float | None = Field(1.0, gt=0, description="Largest global gradient norm; null: no clipping.")


class TrainConfig(Config):
    """The training loop."""

    engine: Literal["deepspeed", "plain"] = Field(
        "deepspeed", description="`deepspeed`, or `plain` torch in one process with the same results."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="DeepSpeed: what the processes share out among them. 0: nothing, 1: the optimiser's state, 2: the "
        "gradients too, 3: the weights too. 0 and 1 are the fastest as long as the model fits.",
    )
    steps: int = Field(1000, ge=1, description="Batches to train on.")
    batch_size: int = Field(8, ge=1, description="Clips in a batch, summed over all ranks and all parts.")
    accumulate: int = Field(
        1, ge=1, description="Parts that a rank's share of a batch is trained on in: more parts need less memory."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Of the forward and backward pass; weights and optimiser stay in fp32. fp16 scales the loss "
        "dynamically and needs a GPU.",
    )
    checkpoint_activations: bool = Field(
        False, description="Compute the activations of each block anew in the backward pass: less memory, more time."
    )
    compile: bool = Field(False, description="torch.compile each block; needs a C++ compiler on the CPU.")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Average the weights over steps with this decay; the average is validated and exported. null: no.",
    )
    threads: int | Literal["auto"] = Field(
        "auto",
        description="torch threads on the CPU; `auto` times a part of a batch with 1 and with all cores and keeps the "
        "faster for the whole run, says so when another becomes faster, lets several ranks share the cores, and takes "
        "all beside a GPU. A number that is given when a run is resumed holds from there on.",
    )
    log_every: int = Field(10, ge=1, description="Batches between two step lines.")
    validate_every: int = Field(200, ge=1, description="Batches between two validations (and previews).")
    validate_clips: int = Field(64, ge=1, description="Held-out clips used in a validation.")
    checkpoint_every: int = Field(500, ge=1, description="Batches between two checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Last checkpoints kept besides the export.")
    keep_best: bool = Field(
        True, description="Save when the validation is the best so far, and keep that checkpoint besides the last."
    )
    tensorboard: bool = Field(True, description="Write TensorBoard's event files beside metrics.jsonl.")
    wandb: str | None = Field(None, description="Weights & Biases project to log to; null: none. Needs `wandb`.")

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not divide into {self.accumulate} parts (accumulate)")
        if self.precision == "fp16" and self.engine == "deepspeed" and self.zero_stage == 3:
            raise ValueError("fp16 runs under ZeRO stages 0 to 2; set zero_stage=2, or precision=bf16")
        return self
