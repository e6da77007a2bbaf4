r"""The model that `python launch.py` plays: sparse, small enough to train on two cores.

    python launch.py --mode=train --config=experiments/configs/pretrained.py \
        --config.data.dir=KATHLEEN24 --workdir=RUN
    python launch.py --mode=export --workdir=RUN --weights=bfloat16 \
        --output=wavernn_jax/pretrained/kathleen192.safetensors

Variants: `voice` (192 units, 3 G samples: some 20 hours of one core; it may be exported at
any time) and `tiny` (seconds, for tests).

The bundled one was trained on kathleen24 for 23,100 updates, and from there in stages (which
experiments/results/README.md lists) on kathleen24 and eight minutes of twelve espeak-ng
voices, so that it speaks other voices than hers, too:

    python launch.py --mode=train --config=experiments/configs/pretrained.py \
        --config.data.dir=KATHLEEN24_AND_VOICES --config.init_from=RUN \
        --config.train.steps=180000 --workdir=RUN2

It is pruned over the first third and then trains on with what is left. Updates of 8
crops of 1,920 samples: on a CPU more crops cost more than they give.
"""

from experiments.configs import dense
from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'voice') -> config.Config:
  if variant == 'voice':
    return config.Config(
        model=config.ModelConfig(units=192, projection=128, channels=128, prediction='spectral',
                                 residuals=8),
        optimizer=config.OptimizerConfig(learning_rate=3e-3, final_learning_rate=3e-5,
                                         warmup_steps=200),
        pruning=config.PruningConfig(recurrent=0.7, hidden=0.5, output=0.5, conditioning=0.5,
                                     start=2_000, steps=60_000, interval=100),
        train=config.TrainConfig(steps=200_000, batch=8, crop=1_920, burn_in=240,
                                 eval_every=5_000, save_every=500),
        evaluation=config.EvaluationConfig(max_valid_utterances=24))
  if variant == 'tiny':
    result = dense.get_config('tiny')
    result.model.units = result.model.projection = 32
    result.model.prediction, result.model.taps = 'spectral', 32
    result.pruning = config.PruningConfig(recurrent=0.7, hidden=0.5, output=0.5,
                                          conditioning=0.5, start=2, steps=10, interval=2)
    return result
  raise InputError(
      f'pretrained.py: variant {variant!r} is unknown; expected voice or tiny.')
