"""The configurations of FluxFlow Training's README, key by key."""

BASIC = """
model:
  vae_dim: 128
  feature_maps_dim: 128
  text_embedding_dim: 1024
data:
  data_path: "{images}"
  captions_file: "{captions}"
  fixed_prompt_prefix: null
  img_size: 1024
  reduced_min_sizes: null
training:
  n_epochs: 100
  batch_size: 1
  lr: 0.00001
  train_vae: true
  gan_training: true
  use_lpips: true
  use_fp16: false
output:
  output_path: "outputs/flux"
  log_interval: 10
  checkpoint_save_interval: 50
  samples_per_checkpoint: 1
  sample_sizes:
    - 512
    - [768, 512]
    - 1024
"""
PIPELINE = """
training:
  pipeline:
    steps:
      - name: "vae_warmup"
        n_epochs: 10
        train_vae: true
        gan_training: false
        freeze:
          - flow_processor
          - text_encoder
      - name: "vae_gan"
        n_epochs: 20
        train_vae: true
        gan_training: true
        use_lpips: true
      - name: "flow"
        n_epochs: 30
        train_vae: false
        train_diff: true
"""
GAN_ONLY = """
training:
  pipeline:
    steps:
      - name: "gan_only"
        n_epochs: 20
        train_vae: false
        gan_training: true
        train_spade: true
        use_lpips: false
"""
CFG = """
training:
  pipeline:
    steps:
      - name: "flow_cfg"
        n_epochs: 100
        train_diff: true
        cfg_dropout_prob: 0.10
        use_ema: true
        freeze:
          - compressor
          - expander
"""
GLOBAL_KEYS = """
training:
  batch_size: 4
  workers: 8
  pipeline:
    steps:
      - name: "step1"
        n_epochs: 10
        train_vae: true
"""
OLD_LIST = """
training:
  pipeline:
    - name: "step1"
"""
ALL = {"basic": BASIC, "pipeline": PIPELINE, "gan_only": GAN_ONLY, "cfg": CFG, "global_keys": GLOBAL_KEYS}
