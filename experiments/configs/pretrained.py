"""The model that `python launch.py` plays: sparse, small enough to train on two cores.

    python experiments/make_demo_speech.py --output=DEMO --more_texts=FILE
    python launch.py --mode=train --config=experiments/configs/pretrained.py \
        --config.data.dir=DIR --workdir=RUN
    python launch.py --mode=export --workdir=RUN --weights=bfloat16 \
        --output=wavernn_jax/pretrained/sparse256.safetensors

`DIR` holds the utterances of kathleen24 and of DEMO together, split by split;
FILE has 240 of kathleen24's training sentences. Variants: `sparse256`, `tiny`.

Batches are small: at equal samples seen, 8 crops an update reached in 23 M
samples the likelihood that 32 crops took 92 M for.
"""

from experiments.configs import dense
from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'sparse256') -> config.Config:
  if variant == 'sparse256':
    return config.Config(
        model=config.ModelConfig(units=256, projection=128, channels=64, layers=2,
                               slow_units=0.5),
        optimizer=config.OptimizerConfig(learning_rate=2e-3, final_learning_rate=2e-5,
                                         warmup_steps=200),
        pruning=config.PruningConfig(recurrent=0.8, hidden=0.5, output=0.5, conditioning=0.5,
                                     start=1_000, steps=8_000, interval=100),
        train=config.TrainConfig(steps=20_000, batch=8, burn_in=120, eval_every=2_000,
                                 save_every=500),
        evaluation=config.EvaluationConfig(max_valid_utterances=24))
  if variant == 'tiny':
    result = dense.get_config('tiny')
    result.model.units = result.model.projection = 32
    result.pruning = config.PruningConfig(recurrent=0.8, hidden=0.5, output=0.5,
                                          conditioning=0.5, start=2, steps=10, interval=2)
    return result
  raise InputError(f'pretrained.py: variant {variant!r} is unknown; expected sparse256 or tiny.')
