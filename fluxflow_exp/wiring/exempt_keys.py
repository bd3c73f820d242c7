"""Keys that change no update by design, each with the reason. A key that is not here must change one.

Patterns are those of fnmatch, on whole dotted keys.
"""

from fnmatch import fnmatchcase

WRITTEN = "says where and what is written, not what is trained"
LOOKED = "says what is looked at beside training"
INERT = {
    "name": WRITTEN,
    "output_root": WRITTEN,
    "resume": "says what becomes of an earlier run of this name",
    "validate": "trains nothing",
    "log_every": WRITTEN,
    "model.name": "is shown",
    "stage.name": "is shown, and names the run",
    "stage.steps.*.description": "is shown",
    "tracking.*": WRITTEN,
    "checkpoint.*": WRITTEN,
    "publish.*": WRITTEN,
    "samples.*": LOOKED,
    "evaluation.*": LOOKED,
    "cache.*": "has the same numbers read instead of computed",
    "hardware.*": "says how and where it is computed; the result is that of a CPU to rounding",
    "stage.steps.*.transition_on.*": "says when a step ends",
    "minutes": "says when a run ends",
    "stage.steps.*.minutes": "says when a step ends",
    "stage.steps.*.init_from": "is left out: its weights have other widths than the check",
    "optimizer.fused": "says how an update is computed",
    "stage.steps.*.optimizers.*.fused": "says how an update is computed",
    "stage.steps.*.trainer.perceptual.pretrained": "is left out: random weights reach the same parts",
    "stage.steps.*.trainer.perceptual.weights_file": "is left out: random weights reach the same parts",
    "*._target_": "names what is built, of which every argument is checked",
    "*._partial_": "says how it is built",
    **dict.fromkeys(
        ("model.compressor.config.*", "model.expander.config.*"),
        "is diffusers' own description of its autoencoder, of which both halves are built",
    ),
    **dict.fromkeys(
        ("model.compressor.weights_path", "model.expander.weights_path"),
        "is left out: fresh weights reach the same parts",
    ),
    "data.cache_gib": "how much of remote shards stays on the disk",
    "data.cache_folder": "where remote shards stay",
    "data.max_bad_fraction": "says when unreadable samples are too many",
    "data.datasets.*.max_bad_fraction": "says when unreadable samples are too many",
}
# Keys that act on some data and in some models alone: where they change nothing, that is no fault.
SELDOM = {
    "data.*background": "it shows through transparent images alone",
    "data.*buckets": "it acts on images of several shapes",
    "data.*reduced_min_sizes": "it acts on images larger than these",
    "data.*validation_fraction": "held_out_file names what is held out",
    "data.*image_key": "the same members are found",
    "data.*token_env": "it acts on streamed shards",
    "data.*shuffle_buffer": "it acts on streamed shards",
    "data.*validation_images": "it acts on streamed shards",
    "stage.steps.*.n_epochs": "max_updates ends the step before",
    "stage.steps.*.max_updates": "n_epochs ends the step before",
    "stage.steps.*.optimizers.*.hidden": "it acts on players that have such matrices",
    "stage.steps.*.optimizers.*.other": "it acts on players that have such matrices",
    **{
        f"stage.steps.*.optimizers.{player}.momentum": "Muon makes no matrix of this player orthogonal"
        for player in ("discriminator", "text_encoder")
    },
    "model.text_encoder.max_length": "it acts on captions that are longer",
    "model.expander.spade": "it acts where pictures are generated; in training the trainer's own spade decides",
}


def reason(key: str) -> str | None:
    """Why `key` changes no update; None: it should."""
    return _first(INERT, key)


def exception(key: str) -> str | None:
    """Why `key` may change nothing although others of its kind must."""
    return _first(SELDOM, key)


def _first(patterns: dict[str, str], key: str) -> str | None:
    return next((why for pattern, why in patterns.items() if fnmatchcase(key, pattern)), None)
