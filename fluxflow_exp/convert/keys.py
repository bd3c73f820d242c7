"""The keys that FluxFlow Training's YAML knows, and what the converter has to say of them."""

import difflib
from collections.abc import Iterable
from typing import Any

from fluxflow_exp.errors import UserError

STEP = {
    "name", "n_epochs", "description", "dataset", "train_vae", "gan_training", "use_lpips", "train_spade", "train_diff",
    "train_diff_full", "use_ema", "cfg_dropout_prob", "freeze", "unfreeze", "batch_size", "workers", "lr", "lr_min",
    "use_fp16", "initial_clipping_norm", "max_steps", "kl_beta", "kl_warmup_steps", "kl_free_bits", "lambda_adv",
    "lambda_lpips", "mse_weight", "r1_interval", "r1_gamma", "instance_noise_std", "instance_noise_decay",
    "adaptive_weights", "optimization", "transition_on", "spade_training_mode", "train_kl", "train_colorstats",
    "train_histogram", "train_contrast", "train_coarseness", "num_train_timesteps", "start_step",
    "gradient_accumulation_steps",
}  # fmt: skip
KNOWN = {
    "": {"model", "data", "training", "optimization", "output", "model_checkpoint"},
    "model": {
        "vae_dim", "feature_maps_dim", "feature_maps_dim_disc", "text_embedding_dim", "pretrained_bert_model",
        "use_gradient_checkpointing", "model_type", "model_version", "baseline_activation", "baseline_vae_width_mult",
        "baseline_vae_depth_mult", "baseline_flow_blocks", "baseline_flow_ffn_expansion",
    },
    "data": {
        "data_path", "captions_file", "fixed_prompt_prefix", "use_webdataset", "webdataset_token", "webdataset_url",
        "webdataset_image_key", "webdataset_label_key", "webdataset_caption_key", "webdataset_size",
        "webdataset_samples_per_shard", "use_tt2m", "tt2m_token", "img_size", "channels", "tokenizer_name",
        "reduced_min_sizes", "dataloader_max_retries", "dataloader_retry_delay",
    },
    "training": (STEP - {"name", "dataset", "description", "freeze", "unfreeze", "transition_on", "optimization"})
    | {"training_steps", "preserve_lr", "pipeline"},
    "training.pipeline": {"defaults", "datasets", "default_dataset", "steps"},
    "optimization": {"optim_sched_config"},
    "output": {
        "output_path", "log_interval", "checkpoint_save_interval", "samples_per_checkpoint", "no_samples",
        "test_image_address", "sample_captions", "sample_sizes", "sample_steps", "log_level", "log_file",
        "generate_diagrams",
    },
}  # fmt: skip
DATASET = {
    "type", "image_folder", "captions_file", "batch_size", "workers", "webdataset_url", "webdataset_token",
    "webdataset_image_key", "webdataset_label_key", "webdataset_caption_key", "webdataset_size",
    "webdataset_samples_per_shard", "fixed_prompt_prefix",
}  # fmt: skip
# Keys without a counterpart, with the reason; whichever section they stand in.
IGNORED = {
    "feature_maps_dim_disc": "it only sized an image encoder that was never trained",
    "channels": "images are RGB",
    "tokenizer_name": "the text encoder brings its own tokenizer",
    "dataloader_max_retries": "a broken connection is tried five times",
    "dataloader_retry_delay": "the delay starts at 2 s and doubles",
    "webdataset_samples_per_shard": "shards are indexed, or an epoch is epoch_size samples",
    "preserve_lr": "a step's rates are its own",
    "training_steps": "it repeated each batch; raise n_epochs instead",
    "model_version": "the architecture of 0.3 is the one that is built",
    "baseline_vae_width_mult": "the other activation has the same widths",
    "baseline_vae_depth_mult": "the other activation has the same depth",
    "baseline_flow_blocks": "the flow transformer keeps its depth",
    "baseline_flow_ffn_expansion": "the flow transformer keeps its width",
    "log_level": "it was never read",
    "log_file": "it was never read",
    "generate_diagrams": "graphs are drawn at every checkpoint",
    "train_kl": "KL is always on in an autoencoder step; set trainer.kl.weight=0 for none",
    "train_coarseness": "there is no such loss here",
    "num_train_timesteps": "time is continuous",
    "start_step": "time is continuous; trainer.objective.time_mean moves its centre",
    "gradient_accumulation_steps": "hardware.micro_batch.flow sets how many images a forward pass holds",
}


class Report:
    """The lines that the user is told; `refused` ones stop the conversion."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.refused: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    def refuse(self, line: str) -> None:
        self.refused.append(line)

    def misspelt(self, where: str, key: str, known: Iterable[str]) -> None:
        near = difflib.get_close_matches(key, list(known), 1, 0.6)
        self.refuse(f"{where}: there is no such key" + (f"; did you mean {near[0]!r}?" if near else ""))

    def check(self, node: Any, known: set[str], where: str) -> None:
        """Refuse unknown keys of `node`, note those without a counterpart."""
        if not isinstance(node, dict):
            self.refuse(f"{where or 'the file'} must be a mapping, not {type(node).__name__}")
            return
        for key, value in node.items():
            path = f"{where}.{key}" if where else str(key)
            if key not in known:
                self.misspelt(path, str(key), known)
            elif key in IGNORED and value is not None:
                self.note(f"ignored: {path}: {IGNORED[key]}")

    def raise_if_refused(self, source: object) -> None:
        if self.refused:
            raise UserError(f"{source} cannot be converted:\n" + "\n".join(f"  - {line}" for line in self.refused))


def number(value: Any) -> Any:
    """A number as it was meant: YAML reads 1e-5 as a text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
