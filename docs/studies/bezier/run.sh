#!/usr/bin/env bash
# Bezier against SiLU, GELU and ReLU at equal parameters, work and time: every command of docs/studies/bezier.md.
#   python docs/benchmarks/emoji_set.py data/emoji && python docs/benchmarks/shrink.py data/emoji data/emoji128 --size 128
#   bash docs/studies/bezier/run.sh data/emoji128 outputs/bezier match measured time train evaluate compare
# Two GPUs, or one: GPUS="0". After an interruption: the same again.
set -euo pipefail
study=$(cd "$(dirname "$0")" && pwd)
set=${1:?folder of images and captions} output=${2:?folder for runs}
shift 2
read -r -a gpus <<<"${GPUS:-0 1}"
first=${gpus[0]} last=${gpus[$((${#gpus[@]} - 1))]}
hardware=${HARDWARE:-hardware=h200 hardware.num_workers=4}
matched="silu_params gelu_params relu_params silu_time gelu_time relu_time"
mkdir -p "$output/logs"

data="data=image_folder data.data_path=$set/images data.captions_file=$set/captions.tsv data.img_size=128"
vae="stage.steps.vae.n_epochs=${EPOCHS:-30} ${MORE:-}"
common="--config-dir $study output_root=$output $data $hardware tracking=off samples.every_epochs=null evaluation.every_epochs=10 evaluation.prompts=0 log_every=100"

match() { # ACTIVATION AXIS
  python -m fluxflow_exp.match model=compact "model.activation=$1" --like model.activation=bezier --axis "$2" \
    stage=vae data.img_size=128 hardware=h200 --out "$study" --name "$1_$2"
}
timed() { # GPU ACTIVATION WIDTHS: seconds an update, alone on the GPU
  local name="$2_${3//,/_}"
  CUDA_VISIBLE_DEVICES=$1 python -m fluxflow_exp.benchmark model=compact "model.activation=$2" "model.compressor.widths=[$3]" \
    stage=vae $data $hardware $vae --updates 60 --json "$output/time_$name.json" >"$output/logs/time_$name.txt" 2>&1 ||
    echo "time $name: exit code $?"
}
train() { # GPU MODEL: a sweep over three seeds
  CUDA_VISIBLE_DEVICES=$1 python -m fluxflow_exp -m $common name="$2" "model=$2" seed=0,1,2 stage=vae $vae \
    >"$output/logs/$2.txt" 2>&1 || echo "$2: exit code $?"
}
generator() { # GPU MODEL: autoencoder and flow transformer
  CUDA_VISIBLE_DEVICES=$1 python -m fluxflow_exp -m $common name="generate_$2" "model=$2" seed=0,1,2 stage=vae_flow $vae \
    "stage.steps.flow.n_epochs=${FLOW_EPOCHS:-80}" >"$output/logs/generate_$2.txt" 2>&1 || echo "generate $2: exit code $?"
}
evaluated() { # GPU MODEL METRICS…: each of its runs
  local gpu=$1 model=$2
  shift 2
  for run in "$output/$model"/seed*/; do
    CUDA_VISIBLE_DEVICES=$gpu python -m fluxflow_exp.evaluate "$run" --images 256 "$@"
  done >"$output/logs/evaluate_$model.txt" 2>&1 || echo "evaluate $model: exit code $?"
}
compared() { # FOLDER METRIC MODELS…: with the reference, by its pairs of seeds
  local folder=$1 metric=$2
  shift 2
  python -m fluxflow_exp.compare "$@" --by model.name --metric "$metric" --pairs reference --out "$output/$folder/$metric"
}

for part in "$@"; do
  case $part in
    match) # needs no GPU
      for activation in silu gelu relu; do
        match "$activation" params
        match "$activation" flops
      done
      python -m fluxflow_exp.match model=compact model.activation=silu --like model.activation=bezier \
        --like 'model.compressor.widths=[48,80,136,184]' --axis params stage=vae data.img_size=128 hardware=h200 \
        --out "$study" --name silu_half
      ;;
    measured) # on one GPU; did not get near, and what it writes goes beside the runs
      for activation in silu gelu relu; do
        CUDA_VISIBLE_DEVICES=$first python -m fluxflow_exp.match model=compact "model.activation=$activation" \
          --like model.activation=bezier --axis time --measured stage=vae $data $hardware --out "$output" \
          --json "$output/match_${activation}_time.json" || echo "match $activation: exit code $?"
      done
      ;;
    time) # one model at a time on a GPU
      (timed "$first" bezier 64,128,192,256 && timed "$first" silu 64,128,240,320) &
      (timed "$last" silu 64,128,192,256 && timed "$last" silu 72,128,216,288) &
      wait
      ;;
    train) # several at a time on a GPU
      for model in bezier silu_params gelu_params relu_params bezier_half; do train "$first" "$model" & done
      for model in silu_time gelu_time relu_time silu_half; do train "$last" "$model" & done
      generator "$first" bezier &
      generator "$last" silu_time &
      wait
      ;;
    evaluate)
      for model in bezier $matched bezier_half silu_half; do
        evaluated "$last" "$model" --metrics psnr ssim rfd &
      done
      for model in generate_bezier generate_silu_time; do
        evaluated "$first" "$model" --metrics fd kid --guidance 1 4 &
      done
      CUDA_VISIBLE_DEVICES=$first python "$study/st_lpips.py" "$output"/*/seed*/ >"$output/logs/st_lpips.txt" 2>&1 &
      wait
      ;;
    compare)
      for metric in psnr ssim st_lpips rfd; do
        compared full "$metric" --reference bezier $(printf "$output/%s " bezier $matched)
        compared half "$metric" --reference silu_params $(printf "$output/%s " silu_params bezier_half silu_half)
      done
      for metric in fd@1 kid@1 fd@4 kid@4; do
        compared generation "$metric" --reference silu_time "$output/generate_bezier" "$output/generate_silu_time"
      done
      ;;
  esac
done
