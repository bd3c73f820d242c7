#!/usr/bin/env bash
# Train the whole pipeline on the emoji set on one H200, then draw sixteen prompts. Run it again after an interruption.
#   python docs/benchmarks/emoji_set.py data/emoji && bash docs/benchmarks/emoji.sh data/emoji
set -euo pipefail
set=${1:?folder that emoji_set.py wrote}
output=${2:-outputs}
python -m fluxflow_exp stage=full model=compact data=image_folder hardware=h200 name=emoji output_root="$output" \
  data.data_path="$set/images" data.captions_file="$set/captions.tsv" data.img_size=128 \
  model.learning_rate=6e-4 log_every=50 checkpoint.every_minutes=1 \
  stage.steps.vae.batch_size=64 stage.steps.vae.n_epochs=90 stage.steps.vae.trainer.kl.weight=2e-4 \
  stage.steps.vae_gan.batch_size=64 stage.steps.vae_gan.n_epochs=40 stage.steps.vae_gan.trainer.kl.weight=2e-4 \
  stage.steps.vae_gan.optimizers.vae.lr=3e-4 stage.steps.vae_gan.optimizers.discriminator.lr=2e-4 \
  stage.steps.flow.batch_size=256 stage.steps.flow.n_epochs=550 \
  samples.every_epochs=50 samples.count=16 samples.steps=30 evaluation.every_epochs=25 evaluation.prompts=0
python -m fluxflow_exp.generate --model_checkpoint "$output/emoji/weights/final.safetensors" \
  --text_prompts_path docs/benchmarks/emoji_prompts.txt --output_path "$output/emoji/prompts" \
  --use_cfg --guidance_scale 4
