"""Folding with cross-fades: what practitioners use in place of lanes, as a baseline.

The mel of one utterance is cut into B parts, which a plain model draws as a batch. Each
part begins from silence, `OVERLAP` frames before its own first one, and is faded in while
the part before fades out, with equal power, since two draws of the same speech hardly
correlate. B samples a step as with B lanes; but no part hears another, the state begins
anew at each seam, and the whole mel must be known before the first sample. No likelihood
belongs to it: what is measured is the audio.

`columns` and `table` are of a study of lanes, for its plain model.
"""

import pathlib

import numpy as np

from experiments.benchmarks import measure
from experiments.sweeps import cells as cells_lib
from wavernn_jax import audio, draw, models
from wavernn_jax.config import Config
from wavernn_jax.data import corpus
from wavernn_jax.evaluation import metrics
from wavernn_jax.sampling import scan, stream
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.training import checkpoints

PARTS = 2, 4, 8, 16
OVERLAP = 4  # frames: 50 ms at 24 kHz
_MEASURES = 'voicing_f1', 'periodicity', 'log_mel_l1'


def fold(engine: Engine, mel_FxM, parts: int, seed: int = 0, overlap: int = OVERLAP) -> np.ndarray:
  """One utterance drawn in parts; int16, F · hop samples.

  Args:
    engine: of a model without lanes.
    mel_FxM: log mel.
    parts: B; fewer where the utterance is shorter than as many overlaps.
    seed: each part has random numbers of its own.
    overlap: frames before each part but the first that are drawn twice.
  """
  frames, hop, after = len(mel_FxM), engine.model.mel.hop, engine.model.timing.margin
  parts = max(1, min(parts, frames // max(1, 2 * overlap)))
  first = np.linspace(0, frames, parts + 1).round().astype(int)
  begin = np.maximum(first[:-1] - overlap, 0)
  # The frames after a part condition its end; what is drawn for them is thrown away.
  mels = [mel_FxM[b:e + after] for b, e in zip(begin, first[1:], strict=True)]
  drawn = stream.batch(engine, mels, draw.keys(seed, range(parts)))
  lengths = (first[1:] - begin) * hop
  return unfold([pcm[:n] for pcm, n in zip(drawn, lengths, strict=True)], begin * hop,
                frames * hop)


def unfold(drawn, begin, samples: int) -> np.ndarray:
  """Joins parts that begin at given samples, cross-faded with equal power where two overlap."""
  total, end = np.zeros(samples), 0
  for pcm, start in zip(drawn, begin, strict=True):
    both = max(0, end - start)  # samples that the part before has, too
    ramp = (np.arange(both) + 0.5) / max(1, both)
    total[start:end] *= np.sqrt(1 - ramp)
    own = np.concatenate([np.sqrt(ramp), np.ones(len(pcm) - both)])
    total[start:start + len(pcm)] += own * pcm
    end = start + len(pcm)
  return np.clip(np.rint(total), -2**15, 2**15 - 1).astype(np.int16)


def columns(config: Config, folder: pathlib.Path, parts=PARTS) -> dict:
  """Free-running measures and speed of each number of parts; nothing but for a plain model."""
  if config.model.kind != 'wavernn':
    return {}
  engine = scan.Sampler(models.build(config), checkpoints.load(folder).params,
                        block_frames=config.evaluation.block_frames)
  held_out = corpus.load_utterances(
      corpus.split_files(config.data)['test'], config.data, config.mel,
      audio.edge_padding(config.mel) + 1)[:config.evaluation.free_running]
  seconds = measure.interleaved({b: measure.next_block(engine, b) for b in parts}, 5)
  samples = config.evaluation.block_frames * config.mel.hop
  found = {}
  for b in parts:
    found[f'fold{b}_samples_per_second'] = b * samples / seconds[b]
    found |= {f'fold{b}_{name}': value for name, value in _measured(engine, held_out, b).items()
              if name in _MEASURES}
  return found


def _measured(engine: Engine, utterances, parts: int) -> dict:
  mel = engine.model.mel
  return metrics.average(
      metrics.compare(u.read(0, u.samples, mel.sample_rate),
                      fold(engine, corpus.utterance_mel(u, mel), parts, seed=i)[:u.samples], mel)
      for i, u in enumerate(utterances))


def table(cells: dict) -> str:
  """A row for each number of parts of each plain cell that has some; '' if none has."""
  rows = []
  for name, cell in cells.items():
    found = sorted(int(column.removeprefix('fold').split('_')[0]) for column in cell.row
                   if column.startswith('fold') and column.endswith('_second')
                   and cell.row[column])
    for b in found:
      speed = float(cells_lib.mean(cell, f'fold{b}_samples_per_second', 0))
      rows.append([name[-1], b, OVERLAP, f'{speed:,.0f}',
                   *(cells_lib.mean(cell, f'fold{b}_{m}', 2) for m in _MEASURES)])
  return rows and cells_lib.markdown(
      ['updates', 'parts', 'frames of overlap', 'samples/s', 'voicing F1', 'periodicity',
       'log-mel L1'], rows) or ''
