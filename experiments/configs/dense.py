"""Dense WaveRNN (§2) on a corpus of speech.

    python launch.py --mode=train --config=experiments/configs/dense.py:small \
        --config.data.dir=DIR --workdir=RUN

Variants: `paper` (896 units, 500k steps of 32 × 960; needs an accelerator),
`small` (128 units, a quarter of an hour on a core) and `tiny` (seconds on a CPU, for
tests). `small` codes the residual of the prediction from the spectrogram, in updates of
4 × 1,920 samples: at the same compute four times the updates of 32 × 960 bring more. On the test
split of kathleen24 it reaches 5.64 nats/sample (the study of systems, `python -m
experiments.sweeps.systems`, three seeds; 6.14 with `--config.model.prediction=none
--config.optimizer.learning_rate=8e-3`).
"""

from wavernn_jax import config
from wavernn_jax.errors import InputError


def get_config(variant: str = 'paper') -> config.Config:
  if variant == 'paper':
    return config.Config()
  if variant == 'small':
    return config.Config(
        model=config.ModelConfig(units=128, projection=128, channels=64, prediction='spectral'),
        optimizer=config.OptimizerConfig(learning_rate=2e-3, final_learning_rate=2e-5,
                                         warmup_steps=200),
        train=config.TrainConfig(steps=3_000, batch=4, crop=1_920, burn_in=240, eval_every=500,
                                 save_every=500))
  if variant == 'tiny':
    return config.Config(
        model=config.ModelConfig(units=16, projection=16, channels=8, layers=1),
        optimizer=config.OptimizerConfig(warmup_steps=5),
        train=config.TrainConfig(steps=20, batch=4, crop=300, log_every=2, eval_every=10,
                                 save_every=5),
        evaluation=config.EvaluationConfig(batch=4, max_valid_utterances=2,
                                           synthesize=1, synthesize_seconds=0.3))
  raise InputError(f'dense.py: variant {variant!r} is unknown; expected paper, small or tiny.')
