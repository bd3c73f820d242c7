"""A training step of FluxFlow Training → steps here: losses, players, freezing, transition."""

from typing import Any

from fluxflow_exp.convert.keys import Report, number

Node = dict[str, Any]

LOSSES = "fluxflow_exp.losses."
OPTIMIZERS = {"AdamW": "adamw", "Adam": "adam", "SGD": "sgd", "RMSprop": "rmsprop"}
SCHEDULERS = {
    "CosineAnnealingLR": "cosine",
    "LinearLR": "linear",
    "ExponentialLR": "exponential",
    "ConstantLR": "constant",
    "StepLR": "step",
    "ReduceLROnPlateau": "plateau",
}
# What is said of each by a key here, and what says what holds here anyway.
TRANSLATED: dict[str, set[str]] = {
    "cosine": {"eta_min_factor"},
    "linear": {"end_factor"},
    "exponential": {"gamma"},
    "constant": set(),
    "step": {"step_size", "gamma"},
    "plateau": {"factor", "patience", "threshold"},
}
NEUTRAL = (("linear", "start_factor", 1.0), ("constant", "factor", 1.0), ("plateau", "mode", "min"))
RULE = {"mode", "metric", "threshold", "max_epochs"}
TRAINED = {
    "autoencoder": ("compressor", "expander", "discriminator"),
    "flow": ("flow_processor", "text_encoder"),
}
PARTS = {"flow": "flow_processor", "D_img": "discriminator"}  # their second names
METRICS = {
    **dict.fromkeys(("vae", "vae_loss", "recon", "recon_loss"), "vae"),
    **dict.fromkeys(("kl", "kl_loss"), "kl"),
    **dict.fromkeys(("flow", "flow_loss"), "flow"),
    "discriminator": "d",
    "generator": "g",
    "lpips": "lpips",
}
STATISTICS = {
    "train_colorstats": ("color_stats", "appearance.ColorStatistics"),
    "train_histogram": ("histogram", "appearance.Histogram"),
    "train_contrast": ("contrast", "appearance.Contrast"),
}


def steps_of(old: Node, name: str, report: Report, *, pretrained_text: bool) -> dict[str, Node]:
    """Our steps for one of theirs (two, where it trains autoencoder and flow).

    Each has `choices`: player → (optimizer, scheduler) files, besides the keys of `Step`. Freezing holds for its step:
    that it leaked into later ones there is a defect, by which the README's own pipeline would not train its flow.
    """
    frozen = {PARTS.get(part, part) for part in old.get("freeze") or []}
    made: dict[str, Node] = {}
    autoencoder = [key for key in ("train_vae", "gan_training", "train_spade") if old.get(key)]
    flow = [key for key in ("train_diff", "train_diff_full") if old.get(key)]
    if old.get("use_lpips") and not autoencoder:
        report.note(f"{name}: use_lpips is on and nothing of the autoencoder is trained: left out")
    if autoencoder:
        made[name] = _autoencoder(old, name, report)
    if flow:
        key = name if not made else f"{name}_flow"
        made[key] = _flow(old, key, frozen, report, pretrained_text=pretrained_text)
        if len(made) == 2:
            report.note(f"{name} trains autoencoder and flow at once there; here {key} follows it")
    if not made:
        report.refuse(f"{name}: nothing is trained. Set train_vae, gan_training, train_spade or train_diff")
    trained = {part for step in made.values() for part in TRAINED[step["kind"]]}
    for part in dict.fromkeys(PARTS.get(part, part) for part in old.get("unfreeze") or []):
        if part not in trained:
            report.refuse(f"{name}: unfreeze: {part} is not trained in this step, only {', '.join(sorted(trained))}")
    for step in made.values():
        _common(step, old, name, report)
        for part in sorted(frozen - {part for parts in TRAINED.values() for part in parts}):
            report.refuse(f"{name}: freeze: there is no part {part!r}")
        step["freeze"] = [part for part in TRAINED[step["kind"]] if part in frozen]
    return made


def _autoencoder(old: Node, name: str, report: Report) -> Node:
    trainer: Node = {"_target_": "fluxflow_exp.trainers.autoencoder.AutoencoderTrainer"}
    compares = bool(old.get("train_vae"))
    if compares:
        trainer["reconstruction"] = {
            "_target_": f"{LOSSES}reconstruction.Reconstruction", "l1": 1.0, "mse": number(old.get("mse_weight", 0.1)),
        }  # fmt: skip
    warmup = int(old.get("kl_warmup_steps", 5000))
    trainer["kl"] = {
        "_target_": f"{LOSSES}kl.KL",
        "weight": number(old.get("kl_beta", 1e-4)),
        "warmup": warmup if warmup > 1 else 0,
        "free_bits": number(old.get("kl_free_bits", 0.0)),
    }
    if old.get("use_lpips") and compares:
        weight = number(old.get("lambda_lpips", 0.1))
        trainer["perceptual"] = {"_target_": f"{LOSSES}perceptual.Perceptual", "net": "vgg", "weight": weight}
    elif old.get("use_lpips"):
        report.note(f"{name}: use_lpips compares pictures, which a step without train_vae does not: left out")
    for key, (loss, target) in STATISTICS.items():
        if old.get(key) and compares:
            trainer[loss] = {"_target_": LOSSES + target}
    if old.get("gan_training"):
        trainer["adversarial"] = _adversarial(old, compares)
    if old.get("train_spade"):
        trainer["spade"] = "alternate" if old.get("spade_training_mode") == "alternate" else "always"
    players = ["vae", "discriminator"] if old.get("gan_training") else ["vae"]
    return {"kind": "autoencoder", "trainer": trainer, **_players(old, players, name, report)}


def _adversarial(old: Node, compares: bool) -> Node:
    interval = int(old.get("r1_interval", 16))
    return {
        "_target_": f"{LOSSES}adversarial.Adversarial",
        "weight": number(old.get("lambda_adv", 0.5)),
        "adaptive": bool(old.get("adaptive_weights", True)) and compares,
        "start": 0,
        # Theirs is not multiplied by the interval; ours is. The quotient gives the same strength.
        "r1_gamma": number(old.get("r1_gamma", 5.0)) / interval,
        "r1_interval": interval,
        "instance_noise": number(old.get("instance_noise_std", 0.01)),
        "instance_noise_decay": number(old.get("instance_noise_decay", 0.9999)),
    }


def _flow(old: Node, name: str, frozen: set[str], report: Report, *, pretrained_text: bool) -> Node:
    trainer = {
        "_target_": "fluxflow_exp.trainers.flow.FlowTrainer",
        "objective": {"_target_": f"{LOSSES}flow_matching.RectifiedFlow"},
    }
    players = ["flow"]
    if not pretrained_text:
        players.append("text_encoder")
        if "text_encoder" in frozen:
            frozen.discard("text_encoder")
            report.note(f"{name}: a byte-level text encoder starts untrained, so it is trained with the flow")
    elif "text_encoder" in (old.get("unfreeze") or []):
        players.append("text_encoder")
    step: Node = {"kind": "flow", "trainer": trainer, **_players(old, players, name, report)}
    if pretrained_text and "text_encoder" in players:
        step["unfreeze"] = ["text_encoder"]
    step["cfg_dropout_prob"] = number(old.get("cfg_dropout_prob", 0.0))
    return step


def _common(step: Node, old: Node, name: str, report: Report) -> None:
    step["n_epochs"] = int(old.get("n_epochs", 1))
    if step["n_epochs"] < 1:
        report.refuse(f"{name}: n_epochs must be at least 1")
    step["batch_size"] = int(old.get("batch_size", 2))
    step["gradient_clip"] = number(old.get("initial_clipping_norm", 1.0))
    if old.get("description"):
        step["description"] = old["description"]
    if old.get("max_steps"):
        step["max_updates"] = int(old["max_steps"]) * step["n_epochs"]
        report.note(f"{name}: max_steps counts batches an epoch; max_updates={step['max_updates']} ends the step")
    if old.get("use_ema") is False:
        step["ema"] = None
    rule = old.get("transition_on") or {}
    for key in rule.keys() - RULE:
        report.misspelt(f"{name}: transition_on.{key}", key, RULE)
    if rule.get("mode", "epoch") not in ("epoch", "loss_threshold"):
        report.refuse(f"{name}: transition_on.mode={rule['mode']!r}; there are epoch and loss_threshold")
    if rule.get("mode", "epoch") == "loss_threshold":
        metric = METRICS.get(str(rule.get("metric")))
        if metric is None:
            report.refuse(f"{name}: transition_on.metric={rule.get('metric')!r}; known: {', '.join(METRICS)}")
            return
        if (metric == "flow") != (step["kind"] == "flow"):
            return
        step["transition_on"] = {"metric": metric, "below": number(rule.get("threshold"))}
        if rule.get("max_epochs"):
            step["transition_on"]["max_epochs"] = int(rule["max_epochs"])


def _players(old: Node, players: list[str], name: str, report: Report) -> Node:
    """`choices`, and the values laid over the chosen files."""
    given = old.get("optimization") or {}
    step: Node = {"choices": {}, "optimizers": {}, "schedulers": {}}
    for key in given.keys() - {"optimizers", "schedulers"}:
        report.misspelt(f"{name}: optimization.{key}", key, ("optimizers", "schedulers"))
    for group in ("optimizers", "schedulers"):
        for player in set(given.get(group) or {}) - {"vae", "discriminator", "flow", "text_encoder"}:
            report.refuse(
                f"{name}: optimization.{group}.{player}: the names are vae, discriminator, flow, text_encoder"
            )
    for player in players:
        optimizer = (given.get("optimizers") or {}).get(player)
        if optimizer is None and player == "discriminator":
            optimizer = (given.get("optimizers") or {}).get("vae")
        scheduler = (given.get("schedulers") or {}).get(player)
        kind, values = _optimizer(optimizer, old, f"{name}: optimizer {player}", report)
        shape, curve = _scheduler(scheduler, old, f"{name}: scheduler {player}", report)
        step["choices"][player] = (kind, shape)
        step["optimizers"][player] = values
        if curve:
            step["schedulers"][player] = curve
    return step


def _optimizer(node: Node | None, old: Node, where: str, report: Report) -> tuple[str, Node]:
    if node is None:
        return "adamw", {"lr": number(old.get("lr") or 1e-5)}
    kind = OPTIMIZERS.get(node.get("type", "AdamW"))
    if kind == "adam" and node.get("decoupled_weight_decay"):
        kind, node = "adamw", {"weight_decay": 0.0, **node}  # torch's AdamW is just that
    if kind is None:
        report.refuse(f"{where}: {node.get('type')} is not offered; there are {', '.join(OPTIMIZERS)}")
        return "adamw", {}
    known = {"betas", "momentum", "weight_decay", "eps", "alpha", "centered", "amsgrad", "nesterov", "dampening"}
    values: Node = {"lr": number(node.get("lr") or old.get("lr") or 1e-5)}
    if kind == "sgd":
        values |= {"momentum": 0.0, "nesterov": False}
    for key, value in node.items():
        if key in ("type", "lr", "decoupled_weight_decay") or value is None:
            continue
        if key not in known:
            report.misspelt(f"{where}: {key}", key, known)
        else:
            values[key] = [number(v) for v in value] if key == "betas" else number(value)
    return kind, values


def _scheduler(node: Node | None, old: Node, where: str, report: Report) -> tuple[str, Node]:
    floor = number(old.get("lr_min") or 0.1)
    if node is None:
        return "cosine", {"warmup": 0, "floor": floor}
    node = {key: number(value) for key, value in node.items() if value is not None}
    kind = SCHEDULERS.get(node.get("type", "CosineAnnealingLR"))
    if kind is None:
        report.refuse(f"{where}: {node.get('type')} is not offered; there are {', '.join(SCHEDULERS)}")
        return "cosine", {}
    for key in node.keys() - {"type"} - TRANSLATED[kind]:
        if (kind, key, node[key]) not in NEUTRAL:
            report.refuse(f"{where}: {key}={node[key]} has no counterpart here")
    if kind in ("cosine", "linear"):
        return kind, {"warmup": 0, "floor": node.get("eta_min_factor" if kind == "cosine" else "end_factor", floor)}
    if kind == "exponential":
        if "gamma" not in node:
            report.refuse(f"{where}: ExponentialLR needs its gamma, the factor at each batch")
        return kind, {"warmup": 0, "gamma": node.get("gamma")}
    if kind == "step":
        falls = {"every": int(node["step_size"])} if "step_size" in node else {"drops": 9}
        return kind, {**falls, "factor": node.get("gamma", 0.1)}
    if kind == "plateau":
        report.note(f"{where}: the held-out metric is watched at each evaluation, not the loss of each batch")
        return kind, {key: node[key] for key in ("factor", "patience", "threshold") if key in node}
    return kind, {}
