"""The needs of a step, in numbers and in words."""

from dataclasses import dataclass, replace
from typing import Any

from fluxflow_exp.config.schema import Hardware, RunConfig
from fluxflow_exp.data.protocols import Captioned, DataSet
from fluxflow_exp.machine import clock
from fluxflow_exp.plan import roofline
from fluxflow_exp.plan.dry_run import Rehearsal, rehearsal
from fluxflow_exp.step_length import Length

GIB = 2**30
# Beside what torch allocates: the CUDA context, and blocks that the allocator holds in pieces.
SPARE_GIB = 1.0


# One field for each key of plan.json.
@dataclass
class Forecast:
    """The needs of one step. What the card's facts do not tell is None."""

    step: str
    trainer: str  # autoencoder | flow
    updates: int
    batch_size: int
    micro_batch: int
    parameters: dict[str, int]  # by part
    trained: int  # parameters
    tflop: float  # an update, averaged over the step
    peak_gib: float  # of a card
    peak_gib_by_kind: dict[str, float]
    fits: bool | None
    largest_micro_batch: int | None
    seconds: float | None  # an update, averaged over the step
    hours: float | None  # the step
    dollars: float | None
    checkpoints_gib: float  # on the disk, at most
    latent_cache_gib: float | None  # of a flow step
    text_cache_gib: float | None  # the same, of a frozen text encoder; at most
    minutes: float | None = None  # what the step was given in the place of epochs
    measured: bool = False  # whether `seconds` were, on this machine


def forecast(
    config: RunConfig, name: str, length: Length, data: DataSet, *, ranks: int, measured: float | None = None
) -> Forecast:
    """Rehearse step `name`, whose length is `length`, on one of `ranks` cards.

    `measured`: seconds of an update, where they need not be estimated from a card's facts.
    """
    hardware = config.hardware
    share = replace(length, batch_size=length.batch_size // ranks)
    with rehearsal(config, name, share, data) as tried:
        kinds = tried.kinds()
        costs = {kind: tried.cost(kind, length.micro_batch) for kind in kinds}
        shares = {kind: count / length.updates for kind, count in kinds.items()}
        worst = max(costs, key=lambda kind: costs[kind].peak)
        peak = costs[worst].peak / GIB
        times = {kind: roofline.seconds(each.operations, hardware) for kind, each in costs.items()}
        known = [shares[kind] * time for kind, time in times.items() if time is not None]
        average = measured if measured is not None else sum(known) if known else None
        hours = None if average is None else average * length.updates / 3600
        modules = dict(tried.trainer.setup.parts)
        for player in tried.trainer.players.values():
            modules |= player.beside
        saved = config.checkpoint.keep + 1  # one is being written
        return Forecast(
            step=name,
            trainer=tried.trainer.MICRO_BATCH,
            updates=length.updates,
            batch_size=length.batch_size,
            micro_batch=length.micro_batch,
            parameters={part: _count(module) for part, module in modules.items()},
            trained=sum(p.numel() for player in tried.trainer.players.values() for p in player.parameters),
            tflop=ranks * sum(shares[kind] * each.flops for kind, each in costs.items()) / 1e12,
            peak_gib=peak,
            peak_gib_by_kind={", ".join(kind) or "plain": each.peak / GIB for kind, each in costs.items()},
            fits=_fits(peak, hardware),
            largest_micro_batch=_largest(tried, worst, peak, length, share.batch_size, hardware),
            seconds=average,
            hours=hours,
            dollars=roofline.money(None if hours is None else 3600 * hours, hardware, cards=ranks),
            checkpoints_gib=(saved * tried.checkpoint_bytes() + tried.weights_bytes()) / GIB,
            latent_cache_gib=_cache(tried, data),
            text_cache_gib=_text_cache(tried, data),
            measured=measured is not None,
        )


def timed(found: Forecast, minutes: float, hardware: Hardware, *, ranks: int) -> Forecast:
    """The forecast of a step that takes so many minutes, whatever an update takes; 0 updates: that is not known."""
    updates = int(60 * minutes / found.seconds) if found.seconds else 0
    dollars = roofline.money(60 * minutes, hardware, cards=ranks)
    return replace(found, updates=updates, hours=minutes / 60, dollars=dollars, minutes=minutes)


def lines(found: Forecast, hardware: Hardware) -> list[str]:
    """The forecast of a step, for the terminal."""
    kinds = found.peak_gib_by_kind
    each = (
        ""
        if len(kinds) == 1
        else " (by kind of update: " + "; ".join(f"{kind} {peak:.2f}" for kind, peak in kinds.items()) + ")"
    )
    used = sum(found.parameters.values()) - found.trained
    return [
        f"    parameters: {_millions(found.trained)} trained" + (f", {_millions(used)} used frozen" if used else ""),
        f"    work:       {found.tflop:.3g} TFLOP an update"
        + (f", {found.tflop * found.updates / 1e3:.3g} PFLOP in all" if found.updates else ""),
        f"    memory:     {found.peak_gib:.2f} GiB at the peak{each}",
        f"                {_room(found, hardware)}",
        f"    time:       {_time(found)}",
        f"    money:      {_dollars(found.dollars, found.hours)}",
        f"    disk:       checkpoints and weights {found.checkpoints_gib:.2f} GiB"
        + (f", latent cache {found.latent_cache_gib:.2f} GiB" if found.latent_cache_gib is not None else "")
        + (f", text cache at most {found.text_cache_gib:.2f} GiB" if found.text_cache_gib is not None else ""),
    ]


def total(found: list[Forecast]) -> dict[str, Any]:
    """Sum over all steps; what one of them does not know is None."""
    hours = [each.hours for each in found if each.hours is not None]
    dollars = [each.dollars for each in found if each.dollars is not None]
    return {
        "updates": sum(each.updates for each in found),
        "pflop": sum(each.tflop * each.updates for each in found) / 1e3,
        "peak_gib": max(each.peak_gib for each in found),
        "fits": None if any(each.fits is None for each in found) else all(each.fits for each in found),
        "hours": sum(hours) if len(hours) == len(found) else None,
        "dollars": sum(dollars) if len(dollars) == len(found) else None,
        "disk_gib": sum(
            each.checkpoints_gib + (each.latent_cache_gib or 0.0) + (each.text_cache_gib or 0.0) for each in found
        ),
    }


def total_line(values: dict[str, Any]) -> str:
    hours = "time not predicted" if values["hours"] is None else _duration(values["hours"])
    dollars = "money not predicted" if values["dollars"] is None else _dollars(values["dollars"], values["hours"])
    return (
        f"  Total: {values['updates']} updates, {values['pflop']:.3g} PFLOP, peak {values['peak_gib']:.2f} GiB, "
        f"{hours}, {dollars}, {values['disk_gib']:.2f} GiB of disk"
    )


def _fits(peak: float, hardware: Hardware) -> bool | None:
    return None if hardware.memory_gib is None else peak + SPARE_GIB <= hardware.memory_gib


def _largest(
    tried: Rehearsal, kind: tuple[str, ...], peak: float, length: Length, share: int, hardware: Hardware
) -> int | None:
    """The largest micro-batch that divides a card's `share` of the batch and fits; None: none does, or no card."""
    if hardware.memory_gib is None:
        return None
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    given = sizes.index(length.micro_batch)
    low, high = (given + 1, len(sizes)) if _fits(peak, hardware) else (0, given)  # sizes[:low] fit, sizes[high:] do not
    while low < high:
        middle = (low + high) // 2
        if _fits(tried.cost(kind, sizes[middle]).peak / GIB, hardware):
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def _cache(tried: Rehearsal, data: DataSet) -> float | None:
    """GiB of the training images' moments, for a step that reads them from a cache."""
    if tried.trainer.setup.cache is None:
        return None
    return len(data.train) * tried.cached_bytes() / GIB


def _text_cache(tried: Rehearsal, data: DataSet) -> float | None:
    """GiB of the captions' tokens, if each is another one and as long as the longest."""
    size = tried.token_bytes()
    if size is None:
        return None
    count = len(set(data.train.captions())) if isinstance(data.train, Captioned) else len(data.train)
    return count * size / GIB


def _room(found: Forecast, hardware: Hardware) -> str:
    if found.fits is None:
        return "whether that fits is not known: set hardware.memory_gib, or choose a card"
    card = f"{hardware.name} ({hardware.memory_gib:g} GiB)"
    if found.fits:
        return f"fits {card} with micro-batch {found.micro_batch}; the largest that fits: {found.largest_micro_batch}"
    ways = "hardware.activation_checkpointing=true, a smaller data.img_size, model=compact"
    if found.trainer == "flow" and hardware.parallel == "ddp":
        ways += ", several hardware.devices with hardware.parallel=fsdp"
    if found.largest_micro_batch is None:
        return f"does not fit {card}, whatever the micro-batch: try {ways}"
    return f"does not fit {card}: set hardware.micro_batch.{found.trainer}={found.largest_micro_batch}, or try {ways}"


def _time(found: Forecast) -> str:
    if found.minutes is not None:
        count = (
            f"at about {found.seconds:.3g} s an update {found.updates} of them, less what evaluation, pictures and "
            "saves take"
            if found.seconds
            else "the number of updates is measured when the step begins"
        )
        return f"{clock.shown(60 * found.minutes)}, as asked; {count}"
    if found.seconds is None or found.hours is None:
        return "not predicted: choose a card, or set hardware.bf16_tflops and hardware.memory_bandwidth_gbs"
    how = "measured on this machine" if found.measured else "an estimate"
    return f"about {found.seconds:.3g} s an update, {_duration(found.hours)} for the step ({how}; reading aside)"


def _dollars(value: float | None, hours: float | None) -> str:
    if value is not None:
        return f"about {value:.2f} USD"
    return "not predicted" if hours is None else "set hardware.price_per_hour"


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
