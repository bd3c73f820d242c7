"""The typed frame of a configuration: what Hydra checks while it composes.

Nodes with a `_target_` (parts, data, losses, optimizers, schedulers) are typed by the signature of their
target and checked in `preflight`; they are `Any` here, so that no constructor is described twice.
Intervals count optimizer updates unless their name says otherwise.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt
from omegaconf import MISSING

from fluxflow_exp.config.bounds import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Real,
    Share,
    ShareBelowOne,
    Whole,
)


@dataclass
class Model:
    """The parts of a text-to-image model; each has a `_target_`. `activation` acts in all but the text encoder."""

    name: str = MISSING
    activation: str = MISSING  # bezier | silu | gelu | relu
    spade: bool = MISSING  # SPADE layers in the expander; by default as the stage asks
    vae_dim: PositiveInt = MISSING  # latent channels
    text_dim: PositiveInt = MISSING  # width of the text encoder's tokens
    learning_rate: PositiveFloat = MISSING  # what this width trains well at; the optimizer files read it
    autoencoder: Any = None  # of model/autoencoder=diffusers: its path, or its config alone; null: another one
    compressor: Any = MISSING
    expander: Any = MISSING
    flow_processor: Any = MISSING
    text_encoder: Any = MISSING
    discriminator: Any = MISSING

    def activations(self, parts: Iterable[str]) -> dict[str, str]:
        """Part → its activation, of those of `parts` that have one."""
        nodes: dict[str, dict[str, Any]] = {part: getattr(self, part) for part in parts}
        return {part: node["activation"] for part, node in nodes.items() if "activation" in node}


@dataclass
class Ema:
    """Exponential moving average of weights; the decay warms up as min(decay, (1 + n) / (10 + n))."""

    decay: ShareBelowOne = 0.999  # 0.99 acts from update 891 on, 0.999 from 8,991, 0.9999 from 89,991


@dataclass
class Transition:
    """When a step ends early. Values that an update did not log, or that are not finite, count for nothing."""

    metric: str | None = None  # a logged loss or a held-out metric; null: the step has its n_epochs
    below: Real | None = None  # ends when the smoothed metric is below this
    above: Real | None = None  # or above this
    patience: PositiveInt | None = None  # or has not improved for so many epochs (held-out: evaluations)
    min_delta: NonNegativeFloat = 0.0  # what counts as an improvement
    max_epochs: PositiveInt | None = None  # or after so many epochs
    smoothing: PositiveInt = 20  # values of a logged loss that are averaged; held-out metrics are taken as they are


@dataclass
class Step:
    """One step of the pipeline."""

    description: str = ""  # shown when the step begins
    n_epochs: PositiveInt = MISSING  # passes over the data
    max_updates: PositiveInt | None = None  # ends the step early
    minutes: PositiveFloat | None = None  # in the place of n_epochs: as many updates as that time holds
    batch_size: PositiveInt = MISSING  # global: images an update
    trainer: Any = MISSING  # _target_ with the losses; an absent (null) loss is off
    freeze: list[str] = field(default_factory=list)  # parts that this step must not change
    unfreeze: list[str] = field(default_factory=list)  # pretrained parts that this step trains (text_encoder)
    init_from: str | None = None  # run folder or weights file that gives the parts at the start
    data: Any = None  # null: the run's; with data=multi a name, or weights by name
    optimizers: dict[str, Any] = field(default_factory=dict)  # by player
    schedulers: dict[str, Any] = field(default_factory=dict)  # by player
    gradient_clip: NonNegativeFloat | None = 1.0  # L2 norm over a player's gradients; 0 or null: off
    ema: Ema | None = field(default_factory=Ema)
    cfg_dropout_prob: Share = 0.0  # share of captions replaced by the empty one (flow steps)
    transition_on: Transition = field(default_factory=Transition)  # ends the step before its n_epochs


@dataclass
class Stage:
    name: str = MISSING
    spade: bool = False  # some step conditions the expander through SPADE
    steps: dict[str, Step] = field(default_factory=dict)


@dataclass
class MicroBatch:
    """Images a forward pass, by kind of trainer. auto: the whole batch, or as much of it as turns out to fit."""

    autoencoder: Annotated[Any, Ge(1)] = "auto"  # images | auto (null is the same)
    flow: Annotated[Any, Ge(1)] = "auto"  # images | auto (null is the same)


@dataclass
class Slurm:
    """A job's demands of SLURM (hydra/launcher=slurm); null: the cluster's default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None  # of a node, e.g. gpu:a6000:1; null: gpu:DEVICES, nothing on a CPU
    cpus_per_task: PositiveInt | None = None  # null: one, and one for each data loading process
    mem_per_cpu: str | None = None  # e.g. 4G
    nodes: PositiveInt = 1  # of a job; under torchrun, as many as it has started
    minutes: PositiveInt = 360  # time limit of a job; it saves and is requeued before
    signal_seconds: PositiveInt = 180  # warning before that: longer than an update and a save
    requeues: NonNegativeInt = 1000  # how often a job that ran out of time is queued again
    setup: list[str] = field(default_factory=list)  # shell lines before the program, e.g. module load cuda


@dataclass
class Hardware:
    name: str = MISSING
    device: str = MISSING  # auto | cpu | cuda
    devices: PositiveInt = 1  # GPUs (or processes, on a CPU) of a machine; one rank each
    parallel: str = "ddp"  # ddp | fsdp (the flow transformer spread over the ranks)
    gpu: str | None = None  # part of the card's name; another card gets a warning
    precision: str = MISSING  # fp32 | bf16 | fp16 | auto (bf16 on a GPU, fp32 on a CPU)
    exact: bool | None = None  # bit-identical continuation; null: on CPUs only
    tf32: bool = True  # for what stays in fp32 on a GPU; convolutions in half precision runs have it anyway
    micro_batch: MicroBatch = field(default_factory=MicroBatch)
    compile: bool | None = None  # torch.compile of the models' blocks; null: on a GPU
    cuda_graphs: bool | None = None  # GPUs replay passes; null: one does, with compile, but for fp16
    activation_checkpointing: bool = False
    num_workers: NonNegativeInt = 0  # data loading processes; 0 reads in the training process
    threads: PositiveInt | None = None  # CPU threads of torch; null: one beside a GPU, else torch's own choice
    slurm: Slurm = field(default_factory=Slurm)
    memory_gib: PositiveFloat | None = None  # that a run can use of a card; for fluxflow_exp.plan, as what follows
    bf16_tflops: PositiveFloat | None = None  # of a large dense matrix product
    memory_bandwidth_gbs: PositiveFloat | None = None  # GB/s
    price_per_hour: NonNegativeFloat | None = None  # of a card, in US dollars

    @property
    def ranks(self) -> int:
        return self.devices * self.slurm.nodes


@dataclass
class Checkpoint:
    every_minutes: Annotated[Any, Gt(0)] = "auto"  # minutes; auto: by a save's cost and the odds of a kill; null: never
    every_updates: PositiveInt | None = None
    keep: PositiveInt = 2  # newest files kept, beside each step's last one
    mirror: str | None = None  # folder on a volume that outlives the machine; every save is copied there


@dataclass
class Samples:
    """Pictures made while training, with EMA weights; originals and noise stay the same all along."""

    every_epochs: Annotated[Any, Ge(1)] = "auto"  # end-of-epoch pictures; auto: as evaluation's; null: none
    every_updates: PositiveInt | None = None  # mid-epoch pictures
    samples_per_checkpoint: PositiveInt | None = None  # pictures at every n-th checkpoint as well; null: none
    count: PositiveInt = 8  # held-out images or prompts, spread over all
    sample_captions: list[str] | None = None  # null: held-out captions of the data
    sample_sizes: list[Any] | None = None  # pixels: 512, or [width, height]; null: the training size
    test_image_address: list[str] | None = None  # image files to reconstruct; null: held-out images
    steps: PositiveInt = 25  # sampler steps
    sampler: str = "euler"  # euler | heun (two evaluations a step) | ab2 (second order, one evaluation a step)
    shift: PositiveFloat | None = None  # of the sampler's times; null: that of training
    guidance_scale: NonNegativeFloat = 4.0
    guidance_interval: list[Share] | None = None  # [low, high]: times that are guided, 1 is noise; null: all


@dataclass
class Evaluation:
    every_epochs: Annotated[Any, Ge(1)] = "auto"  # held-out metrics, with EMA weights; auto: about every 200 updates
    metrics: list[str] = field(default_factory=lambda: ["psnr"])  # docs/how-to/evaluating.md#while-training
    raw: bool = False  # the same with raw weights as well, in rows of kind held_out_raw
    features: str = "efficientnet_lite0"  # of rfd, fd, kid; inception, a timm or Hugging Face name, or a folder
    lpips_net: str = "alex"  # alex | vgg | squeeze
    lpips_weights_file: str | None = None  # torchvision's weights of it; null: the torch hub cache
    images: PositiveInt = 256  # held-out images read
    training_images: PositiveInt = 20000  # of copies: at most so many are looked through
    prompts: NonNegativeInt = 240  # images generated at the end of a flow step; 0: none
    steps: PositiveInt = 25  # sampler steps; this and what follows as in samples
    sampler: str = "euler"
    shift: PositiveFloat | None = None
    guidance_scale: NonNegativeFloat = 4.0
    guidance_interval: list[Share] | None = None
    reference: str = (
        "shipped"  # curves that a similar run is compared with: shipped | off | FILE of fluxflow_exp.reference
    )


@dataclass
class Health:
    """Signs of training going wrong, looked for whenever held-out metrics are due: docs/how-to/health.md."""

    images: PositiveInt | None = 64  # held-out images looked at; null: nothing is looked for


OF_BEST_POINT = ("best", "interpolated")  # choices of publish.weights that a step's best point is needed for


@dataclass
class Publish:
    weights: str = "last"  # of the last step: last | best (at its lowest held-out loss) | interpolated (between both)
    text_encoder: str = "embed"  # embed | reference (a Hugging Face encoder by its name alone)


@dataclass
class Cache:
    """Outputs of frozen parts for the training set, written to disk before a flow step begins and read instead."""

    mode: str = "auto"  # auto (where it can and pays: an epoch or more) | on (an error where it cannot) | off
    path: str | None = None  # folder of caches, which several runs may share; null: OUTPUT_ROOT/cache
    max_gib: PositiveFloat | None = (
        None  # of a step's caches; what exceeds it is encoded at each update; null: no bound
    )
    text_dtype: str = "auto"  # of kept tokens: float32 | float16 | bfloat16 | float8; auto: as cached latents
    recent_gib: PositiveFloat | None = None  # a rank's, of recent captions' tokens where not all are cached; null: none
    recent_on: str = "memory"  # memory | disk (below path)
    compiled: bool = True  # compiled code is kept for the next start: docs/how-to/quick-restarts.md


@dataclass
class Tracking:
    """Weights & Biases."""

    mode: str = "off"  # auto (online where a key is configured, else offline) | online | offline | off
    project: str = "fluxflow-exp"
    entity: str | None = None  # team or user; null: the key's own
    tags: list[str] = field(default_factory=list)  # beside stage and model
    notes: str | None = None
    init_seconds: PositiveFloat = 30.0  # then offline
    finish_seconds: NonNegativeFloat = 120.0  # for what is left to upload at the end; the rest is for fluxflow_exp.sync


@dataclass
class RunConfig:
    name: str = MISSING  # of the run's folder; by default the stage's
    seed: Whole = 0  # of everything that is drawn
    output_root: str = "outputs"  # folder of run folders
    resume: str = "auto"  # auto | fresh (moves the old folder aside) | extend (more epochs) | incomplete (lost rows)
    validate: bool = False  # check, print the plan, train nothing
    init_from: str | None = (
        None  # published weights that the first step starts from: a run folder (its final ones) or a file
    )
    minutes: PositiveFloat | None = None  # of the whole run, shared by its steps as their n_epochs say
    log_every: Annotated[Any, Ge(1)] = "auto"  # updates between lines and rows; auto: 20, fewer in a step under 200
    model: Model = MISSING
    data: Any = MISSING
    stage: Stage = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    hardware: Hardware = MISSING
    tracking: Tracking = field(default_factory=Tracking)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    samples: Samples = field(default_factory=Samples)
    evaluation: Evaluation = field(default_factory=Evaluation)
    health: Health = field(default_factory=Health)
    publish: Publish = field(default_factory=Publish)
    cache: Cache = field(default_factory=Cache)
    choices: dict[str, str] = field(default_factory=dict)  # group → file, as the command chose; written by it
