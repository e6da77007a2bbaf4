"""LJSpeech, on which others have published likelihoods: one row, beside theirs.

    python -m experiments.sweeps.ljspeech --do=run --data_dir=LJSpeech-1.1/wavs
    python -m experiments.sweeps.ljspeech --do=report

The corpus (https://keithito.com/LJ-Speech-Dataset/) as published: 22,050 Hz, 16 bit, gain 1,
one folder that a hash of the names splits, in HiFi-GAN's mel convention. Conventions decide
such figures: a gain of g adds up to ln g nats/sample, another rate is other samples, and a
log-likelihood in nats/dim of samples in [−1, 1] is ln 2¹⁵ less one of 16-bit samples.
"""

import functools

from experiments.sweeps import cells as cells_lib, prediction, runs, study
from wavernn_jax import config as config_lib
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import pictures

_RATE = 22_050  # Hz
_CONVENTION = '22,050 Hz, gain 1, 16 bit'
_COMMAND = 'python -m experiments.sweeps.ljspeech --do=run --data_dir=LJSpeech-1.1/wavs'
OUTSIDE = (  # system, NLL, convention, source
    ('WaveFlow', '5.30', '22,050 Hz, mel; ln 2^15 less the 5.101 nats/dim published',
     'Ping et al. 2020, test log-likelihood'),
    ('WaveNet, mixture of logistics', 'roughly 5.5', '22,050 Hz, mel; training loss',
     'users of r9y9/wavenet_vocoder, issue 115'))


def configure(updates: int, tiny: bool = False) -> config_lib.Config:
  """The dense model of the study of prediction, `spectral`, in HiFi-GAN's convention."""
  of = prediction.configure_tiny if tiny else prediction.configure
  result = of('spectral', updates)
  result.mel = config_lib.mel_preset('hifigan')
  return result


def full() -> study.Variant:
  system = study.System('dense', {}, configure, (30_000,), (0,))
  return study.Variant([system], tuning_updates=5_000)


def tiny() -> study.Variant:
  system = study.System('dense', {}, functools.partial(configure, tiny=True), (4,), (0,))
  return study.Variant([system], tuning_updates=4, rates=(4e-3,))


def key(row: dict) -> tuple:
  """(system, updates) of a run."""
  return row['system'], int(row['updates'])


def columns(config: config_lib.Config, folder) -> dict:
  """Free-running measures.

  Raises:
    InputError: if the mel convention is of another rate than the corpus has.
  """
  if config.mel.sample_rate != _RATE:
    raise InputError(f'{folder}: found {config.mel.sample_rate} Hz, expected {_RATE}.')
  return runs.free_running(config, folder)


def table(cells: dict) -> str:
  """Our rows, or the command that makes them; then those of others, which no run of ours made."""
  rows = [] if cells else [['dense', 'not run yet', _CONVENTION, f'`{_COMMAND}`']]
  for (system, updates), cell in cells.items():
    value, low, high = cells_lib.mean_interval(cell.nats, cell)
    figure = f'{value:.3f}' + (f' [{low:.3f}, {high:.3f}]' if low == low else '')
    row = cell.row
    rows.append([f'{system}, {updates:,} updates', figure, _CONVENTION,
                 f'`{row["command"]}`, {row["commit"]}, {row["hardware"]}, {row["date"]}'])
  rows += map(list, OUTSIDE)
  return cells_lib.markdown(['system', 'nats/sample', 'convention', 'source'], rows)


def figures(cells: dict) -> dict:
  """NLL of our runs, and of WaveFlow as a line."""
  result = pictures.new_figure(5, 4)
  panel = result.subplots()
  for i, (name, cell) in enumerate(cells.items()):
    panel.plot([i] * len(cell.nll_seeds), cell.nll_seeds, 'o', label=name[0])
  panel.axhline(float(OUTSIDE[0][1]), color='black', label=OUTSIDE[0][0])
  panel.set(xticks=[], ylabel='held-out NLL (nats/sample)')
  panel.legend(fontsize='small')
  return {'nll.png': result}


STUDY = study.Study('ljspeech', {study.FULL: full, 'tiny': tiny}, key, table, figures, columns)

if __name__ == '__main__':
  study.main(STUDY)
