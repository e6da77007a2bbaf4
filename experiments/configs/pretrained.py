"""The model that `python launch.py` plays: sparse, small enough to train on two cores.

    python launch.py --mode=train --config=experiments/configs/dense.py:small \
        --config.data.dir=KATHLEEN24 --workdir=DENSE
    python experiments/make_demo_speech.py --output=DEMO --more_texts=FILE
    python launch.py --mode=train --config=experiments/configs/pretrained.py \
        --config.init_from=DENSE --config.data.dir=DIR --workdir=PRUNED
    python launch.py --mode=train --config=experiments/configs/pretrained.py:longer \
        --config.init_from=PRUNED --config.data.dir=DIR --workdir=RUN
    python launch.py --mode=export --workdir=RUN --weights=bfloat16 \
        --output=wavernn_jax/pretrained/sparse192.safetensors

`DIR` holds the utterances of kathleen24 and of DEMO together, split by split;
FILE has kathleen24's first training sentences, a line each: 240 of them for
`sparse192`, 760 for `longer`. Variants: `sparse192`, `longer`, `voices`, `tiny`.

It goes on from a dense run, prunes it, and sees longer crops: what is hardest
to learn is to keep a period of pitch, some 120 samples, in the state. `longer`
keeps what was pruned and starts the learning rate again. `voices` goes on from
`longer` in more and smaller updates, with DEMO and every sixth training utterance of
kathleen24; experiments/results says why it is not the one that is bundled.
"""

from experiments.configs import dense
from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'sparse192') -> config.Config:
  if variant == 'sparse192':
    return config.Config(
        model=dense.get_config('small').model,
        optimizer=config.OptimizerConfig(warmup_steps=200),
        pruning=config.PruningConfig(recurrent=0.7, hidden=0.5, output=0.5, conditioning=0.5,
                                     start=500, steps=6_700, interval=100),
        train=config.TrainConfig(steps=18_000, batch=8, crop=1_920, burn_in=240,
                                 eval_every=1_500, save_every=500),
        evaluation=config.EvaluationConfig(max_valid_utterances=24))
  if variant == 'longer':
    result = get_config('sparse192')
    # Pruned blocks are zero in the weights that it begins with, and so the first to go.
    result.pruning.start, result.pruning.steps = 0, 1
    result.train.steps, result.train.eval_every = 7_000, 3_500
    result.evaluation.max_valid_utterances = 8
    return result
  if variant == 'voices':
    result = get_config('longer')
    result.train.steps, result.train.batch, result.train.eval_every = 16_000, 4, 4_000
    return result
  if variant == 'tiny':
    result = dense.get_config('tiny')
    result.model.units = result.model.projection = 32
    result.pruning = config.PruningConfig(recurrent=0.7, hidden=0.5, output=0.5,
                                          conditioning=0.5, start=2, steps=10, interval=2)
    return result
  raise InputError(
      f'pretrained.py: variant {variant!r} is unknown; expected sparse192, longer, voices or '
      'tiny.')
