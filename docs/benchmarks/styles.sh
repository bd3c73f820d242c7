#!/usr/bin/env bash
# Train the emoji in eight styles in five minutes of one H200. Run it again after an interruption.
#   python docs/benchmarks/styles_set.py data/styles && bash docs/benchmarks/styles.sh data/styles
set -euo pipefail
set=${1:?folder that styles_set.py wrote}
output=${2:-outputs}
python -m fluxflow_exp stage=vae_flow model=compact_f8 optimizer=muon data=image_folder hardware=h200 \
  name=styles output_root="$output" data.img_size=128 \
  data.data_path="$set/images" data.captions_file="$set/captions.tsv" +data.held_out_file="$set/held_out.tsv" \
  model.text_encoder.max_length=63 stage.steps.vae.batch_size=128 stage.steps.vae.n_epochs=30 \
  stage.steps.vae.trainer.kl.weight=2.5e-5 +stage.steps.vae.trainer.reconstruction.log_mse=0.1 \
  stage.steps.flow.batch_size=256 stage.steps.flow.n_epochs=76 \
  log_every=50 samples.every_epochs=null samples.count=16 samples.steps=30 \
  evaluation.every_epochs=25 evaluation.images=512 evaluation.prompts=0 "${@:3}"
