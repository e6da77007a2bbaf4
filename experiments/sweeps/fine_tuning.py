"""A sparse model fine-tuned to a second voice, against training from scratch.

    python -m experiments.make_second_voice --output=runs/second_voice
    python -m experiments.sweeps.fine_tuning --do=run --data_dir=runs/second_voice
    python -m experiments.sweeps.fine_tuning --do=report

The bundled voice is fine-tuned on 1, 5 and 15 minutes: its masks stay, so it remains as
sparse as it was. Beside it stands the same model from random weights, pruned to the same
sparsities while it trains. The rate of each start is tuned on 5 minutes. All are evaluated on
the same sentences of the second voice, with the weights of their best valid likelihood. A
`base` is the beginning of the identity of the bundled file, so that rows of another file are
not mixed with these.
"""

import copy
import functools

import jax
import numpy as np

from experiments.sweeps import cells as cells_lib, runs, study
from wavernn_jax import commands, config as config_lib
from wavernn_jax.evaluation import pictures
from wavernn_jax.sampling import export
from wavernn_jax.voice import Voice

MINUTES = 1, 5, 15
STARTS = 'tuned', 'scratch'


@functools.cache
def base() -> Voice:
  """What is fine-tuned."""
  return export.read(commands.PRETRAINED)


def configure(start: str, updates: int) -> config_lib.Config:
  """A run of the full study."""
  voice = base()
  return config_lib.Config(
      model=copy.deepcopy(voice.config.model), mel=copy.deepcopy(voice.config.mel),
      optimizer=config_lib.OptimizerConfig(warmup_steps=min(200, updates // 5)),
      pruning=_pruning(voice, updates),
      train=config_lib.TrainConfig(
          steps=updates, batch=4, crop=1_920, burn_in=240, eval_every=max(1, updates // 10),
          save_every=max(1, updates // 10), log_every=100),
      evaluation=config_lib.EvaluationConfig(synthesize=0),
      init_from=str(commands.PRETRAINED) if start == 'tuned' else '')


def configure_tiny(start: str, updates: int) -> config_lib.Config:
  """A run of seconds: of the bundled size, which what is fine-tuned has."""
  result = configure(start, updates)
  result.train.batch, result.train.crop, result.train.burn_in = 1, 120, 20
  result.train.eval_every = result.train.save_every = updates
  result.evaluation.max_valid_utterances = result.evaluation.free_running = 1
  return result


def _pruning(voice: Voice, updates: int) -> config_lib.PruningConfig:
  """The sparsities of a voice, reached within the first half of a run from scratch.

  Where matrices of one kind differ the least counts: none may lose more than it has.
  """
  result = config_lib.PruningConfig(
      start=updates // 10, steps=max(1, int(0.4 * updates)), interval=max(1, updates // 1_000))
  if voice.packed:
    result.block_outputs, result.block_inputs = voice.packed.block
  found = {}
  leaves, _ = jax.tree.flatten_with_path(voice.masks, is_leaf=lambda mask: mask is None)
  for path, mask in leaves:
    kind = _kind([key.key for key in path])
    if kind:
      found.setdefault(kind, []).append(0.0 if mask is None else 1 - float(np.mean(mask)))
  for kind, sparsities in found.items():
    setattr(result, kind, min(sparsities))
  return result


def _kind(names: list[str]) -> str | None:
  """The field of PruningConfig that a parameter belongs to, as of `pruning.targets`."""
  if names[0] == 'recurrent':
    return 'recurrent'
  if names[-1] != 'kernel':
    return None
  return {'outputs': names[-2], 'conditioning': 'conditioning' if 'gates' in names else None}.get(
      names[0])


def _systems(configuration, minutes, tuned: int, updates: int, seeds,
             data: str = '{}') -> list[study.System]:
  """Both starts at each number of minutes; their rates are tuned at one of these."""
  identity = base().identity[:6]

  def name(start: str, m: int) -> str:
    return f'{start}{m}_{identity}'
  return [study.System(
      name(start, m), {'start': start, 'minutes': m, 'base': identity},
      functools.partial(configuration, start), (updates,), seeds, data.format(m),
      tuned_as='' if m == tuned else name(start, tuned))
          for m in minutes for start in STARTS]


def full() -> study.Variant:
  return study.Variant(_systems(configure, MINUTES, 5, 2_000, (0, 1, 2)),
                       tuning_updates=1_000, rates=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3))


def tiny() -> study.Variant:
  """Of any corpus, without folders by minutes."""
  return study.Variant(_systems(configure_tiny, (1,), 1, 2, (0,), ''), tuning_updates=2,
                       rates=(1e-3,))


def key(row: dict) -> tuple:
  """(base, updates, minutes, start) of a run."""
  return row['base'], int(row['updates']), int(row['minutes']), row['start']


def table(cells: dict) -> str:
  """Both starts at each number of minutes and updates."""
  rows = []
  for name, cell in sorted(cells.items()):
    base_, updates, minutes, start = name
    rows.append([base_, f'{updates:,}', minutes, start, f'{int(cell.row["parameters"]):,}',
                 ', '.join(f'{n:.3f}' for n in cell.nll_seeds),
                 *cells_lib.gap_columns(cell, cells.get((*name[:3], 'scratch'))),
                 *(cells_lib.mean(cell, measure, 2) for measure in
                   ('voicing_f1', 'periodicity', 'log_mel_l1')),
                 *cells_lib.cost_columns(cell)])
  return cells_lib.markdown(
      ['base', 'updates', 'minutes', 'start', 'parameters', 'NLL (nats/sample) of each seed',
       'difference to scratch', *cells_lib.GAP_HEADER, 'voicing F1', 'periodicity', 'log-mel L1',
       *cells_lib.COST_HEADER], rows)


def figures(cells: dict) -> dict:
  """NLL against minutes: a line for each start and number of updates."""
  result = pictures.new_figure(6, 4)
  panel = result.subplots()
  for base_, updates, start in sorted({(n[0], n[1], n[3]) for n in cells}):
    names = sorted(n for n in cells if (n[0], n[1], n[3]) == (base_, updates, start))
    bars = [cells_lib.interval_bar(cells[n], cells.get((*n[:3], 'scratch'))) for n in names]
    panel.errorbar([n[2] for n in names], [cells[n].nll for n in names],
                   yerr=list(zip(*bars, strict=True)), fmt='o-', capsize=3,
                   label=f'{start}, {updates:,} updates')
  panel.set(xlabel='minutes of the second voice', ylabel='held-out NLL (nats/sample)',
            xscale='log')
  panel.grid(alpha=0.3)
  panel.legend(fontsize='small')
  return {'nll.png': result}


STUDY = study.Study('fine_tuning', {study.FULL: full, 'tiny': tiny}, key, table, figures,
                    runs.free_running)

if __name__ == '__main__':
  study.main(STUDY)
