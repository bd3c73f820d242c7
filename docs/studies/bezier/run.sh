#!/usr/bin/env bash
# Bezier against SiLU, GELU and ReLU at equal parameters, work and time: every command of docs/studies/bezier.md.
#   python docs/benchmarks/emoji_set.py data/emoji && python docs/benchmarks/shrink.py data/emoji data/emoji128 --size 128
#   bash docs/studies/bezier/run.sh data/emoji128 outputs/bezier match measured time train evaluate compare
#   bash docs/studies/bezier/run.sh data/emoji128 outputs/bezier generate compare_generated
# On one GPU. After an interruption: the same again.
set -euo pipefail
study=$(cd "$(dirname "$0")" && pwd)
set=${1:?folder of images and captions} output=${2:?folder for runs}
shift 2
hardware=${HARDWARE:-hardware=h100 hardware.exact=true hardware.num_workers=4}
seeds=${SEEDS:-0,1,2,3,4}
matched="silu_params gelu_params relu_params silu_time gelu_time relu_time"
mkdir -p "$output/logs"

data="data=image_folder data.data_path=$set/images data.captions_file=$set/captions.tsv data.img_size=128"
vae="stage.steps.vae.n_epochs=${EPOCHS:-30} ${MORE:-}"
common="--config-dir $study output_root=$output $data $hardware tracking=off samples.every_epochs=null evaluation.every_epochs=10 evaluation.prompts=0 log_every=100"

match() { # ACTIVATION AXIS FURTHER…
  python -m fluxflow_exp.match model=compact "model.activation=$1" --like model.activation=bezier --axis "$2" \
    stage=vae --out "$study" --name "$1_$2" "${@:3}"
}
timed() { # ACTIVATION: seconds an update, alone on the GPU
  python -m fluxflow_exp.benchmark model=compact "model.activation=$1" stage=vae $data $hardware $vae \
    --updates 60 --json "$output/time_$1.json"
}
train() { # MODEL: a sweep over the seeds
  python -m fluxflow_exp -m $common name="$1" "model=$1" "seed=$seeds" stage=vae $vae
}
generator() { # MODEL: autoencoder and flow transformer
  python -m fluxflow_exp -m $common name="generate_$1" "model=$1" "seed=$seeds" stage=vae_flow $vae \
    "stage.steps.flow.n_epochs=${FLOW_EPOCHS:-80}"
}
evaluated() { # MODEL METRICS…: each of its runs
  local run
  for run in "$output/$1"/seed*/; do
    python -m fluxflow_exp.evaluate "$run" --images 256 "${@:2}"
  done
}
logged() { # NAME COMMAND…: beside others on this GPU
  "${@:2}" >"$output/logs/$1.txt" 2>&1 || echo "$1: exit code $?, see $output/logs/$1.txt"
}
compared() { # FOLDER METRIC MODELS…: with the reference, by its pairs of seeds
  python -m fluxflow_exp.compare "${@:3}" --by model.name --metric "$2" --pairs reference --out "$output/$1/$2"
}

for part in "$@"; do
  case $part in
    match) # needs no GPU
      for activation in silu gelu relu; do
        match "$activation" params data.img_size=128 hardware=h100
        match "$activation" flops data.img_size=128 hardware=h100
      done
      match silu params data.img_size=128 hardware=h100 --like 'model.compressor.widths=[48,80,136,184]' --name silu_half
      ;;
    measured) # one model at a time on the GPU
      for activation in silu relu gelu; do
        match "$activation" time $data $hardware --measured --json "$output/match_$activation.json" ||
          echo "match $activation: exit code $?"
      done
      ;;
    time) # one model at a time on the GPU
      for activation in bezier silu gelu relu; do timed "$activation"; done
      ;;
    train)
      for model in bezier $matched bezier_half silu_half; do logged "$model" train "$model" & done
      wait
      ;;
    evaluate)
      for model in bezier $matched bezier_half silu_half; do
        logged "evaluate_$model" evaluated "$model" --metrics psnr ssim rfd &
      done
      wait
      python "$study/st_lpips.py" "$output"/{bezier,*_params,*_time,*_half}/seed*/
      ;;
    compare)
      for metric in psnr ssim st_lpips rfd; do
        compared full "$metric" --reference bezier $(printf "$output/%s " bezier $matched)
        compared half "$metric" --reference silu_params $(printf "$output/%s " silu_params bezier_half silu_half)
      done
      ;;
    generate)
      for model in bezier silu_time; do logged "generate_$model" generator "$model" & done
      wait
      for model in bezier silu_time; do
        logged "evaluate_generate_$model" evaluated "generate_$model" --metrics fd kid --guidance 1 4 &
      done
      wait
      ;;
    compare_generated)
      for metric in fd@1 kid@1 fd@4 kid@4; do
        compared generation "$metric" --reference silu_time "$output/generate_bezier" "$output/generate_silu_time"
      done
      ;;
    *)
      echo "no part is called $part" >&2
      exit 2
      ;;
  esac
done
