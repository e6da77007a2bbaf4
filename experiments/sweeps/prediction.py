"""What the prediction from the spectrogram brings: coding its residual against the bytes.

    python -m experiments.sweeps.prediction --do=run --data_dir=DIR
    python -m experiments.sweeps.prediction --do=report

A dense WaveRNN of 128 units, 3,000 updates of 4 × 1,920 samples, both forms at the rate
that suits each best; the first 240 samples of a crop carry no loss, since a zero state
costs more than a nat there. `none` is the paper's plain form.
"""

import functools

from experiments.sweeps import cells as cells_lib, runs, study
from wavernn_jax import config as config_lib
from wavernn_jax.evaluation import pictures

PREDICTIONS = 'none', 'spectral'
_REFERENCE = 'none'


def configure(prediction: str, updates: int) -> config_lib.Config:
  """A run of the full study."""
  return config_lib.Config(
      model=config_lib.ModelConfig(units=128, projection=128, channels=64, prediction=prediction),
      optimizer=config_lib.OptimizerConfig(warmup_steps=min(200, updates // 5)),
      train=config_lib.TrainConfig(
          steps=updates, batch=4, crop=1_920, burn_in=240, eval_every=max(1, updates // 3),
          save_every=max(1, updates // 20), log_every=100),
      evaluation=config_lib.EvaluationConfig(synthesize=0))


def configure_tiny(prediction: str, updates: int) -> config_lib.Config:
  """A run of seconds."""
  result = configure(prediction, updates)
  result.model.units = result.model.projection = 16
  result.model.channels, result.model.layers, result.model.taps = 8, 1, 8
  result.train.batch, result.train.crop, result.train.burn_in = 2, 120, 20
  result.train.eval_every = result.train.save_every = updates
  result.evaluation.max_valid_utterances, result.evaluation.free_running = 1, 1
  return result


def _systems(configuration, lengths, seeds) -> list[study.System]:
  return [study.System(prediction, {}, functools.partial(configuration, prediction), lengths,
                       seeds) for prediction in PREDICTIONS]


def full() -> study.Variant:
  return study.Variant(_systems(configure, (3_000,), (0, 1, 2)), tuning_updates=500,
                       rates=(*study.RATES, 1.6e-2))  # none is best at the last of RATES


def tiny() -> study.Variant:
  return study.Variant(_systems(configure_tiny, (4,), (0, 1)), tuning_updates=4,
                       rates=(2e-3, 4e-3))


def key(row: dict) -> tuple:
  """(updates, prediction) of a run."""
  return int(row['updates']), row['prediction']


def table(cells: dict) -> str:
  """Every form beside the paper's, at each training length."""
  rows = []
  for (updates, prediction), cell in sorted(cells.items()):
    row = cell.row
    rows.append([f'{updates:,}', prediction, f'{int(row["parameters"]):,}',
                 ', '.join(f'{n:.3f}' for n in cell.nll_seeds),
                 *cells_lib.gap_columns(cell, cells.get((updates, _REFERENCE))),
                 *(cells_lib.mean(cell, name, 2) for name in ('voicing_f1', 'periodicity')),
                 *cells_lib.cost_columns(cell)])
  return cells_lib.markdown(
      ['updates', 'prediction', 'parameters', 'NLL (nats/sample) of each seed',
       'difference to none', *cells_lib.GAP_HEADER, 'voicing F1', 'periodicity',
       *cells_lib.COST_HEADER], rows)


def figures(cells: dict) -> dict:
  """NLL of every seed."""
  result = pictures.new_figure(5, 4)
  panel = result.subplots()
  for i, ((updates, prediction), cell) in enumerate(sorted(cells.items())):
    panel.plot([i] * len(cell.nll_seeds), cell.nll_seeds, 'o',
               label=f'{prediction}, {updates:,} updates')
  panel.set(xticks=[], ylabel='held-out NLL (nats/sample)')
  panel.grid(alpha=0.3)
  panel.legend(fontsize='small')
  return {'nll.png': result}


STUDY = study.Study('prediction', {study.FULL: full, 'tiny': tiny}, key, table, figures,
                    runs.free_running)

if __name__ == '__main__':
  study.main(STUDY)
