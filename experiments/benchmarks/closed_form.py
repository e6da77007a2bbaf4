"""What the prediction from the spectrogram knows, with no network: its code and its voice.

    python -m experiments.benchmarks.closed_form --corpus=DIR [--names=ben,cal] \
        --size=80:192 --size=128:320

A size is a number of mel bands and of taps. `nll` is that of a Laplace code of the residuals
of whole valid utterances (evaluation/linear_prediction.py; its width, `log_width`, is chosen
on the training split). `voicing_f1`, `periodicity` and `f0_rmse_cents` are of speech drawn
freely from that code, `level` is its size over the recording's; they are of the first
--seconds of each utterance that is as long. The last line is one JSON object.
"""

import dataclasses

from absl import flags
import numpy as np

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import audio, config as config_lib
from wavernn_jax.data import corpus
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import linear_prediction, metrics
from wavernn_jax.models import prediction

_CORPUS = flags.DEFINE_string('corpus', None, 'Corpus with train, valid and test.')
_NAMES = flags.DEFINE_list('names', [], 'Parts of the names of files; only these count.')
_SIZES = flags.DEFINE_multi_string('size', ['80:192'], 'bands:taps.')
_UTTERANCES = flags.DEFINE_integer('utterances', 4, 'Valid utterances, the first ones.')
_SECONDS = flags.DEFINE_float('seconds', 2, 'Length of what is drawn.')
_TRAIN_SAMPLES = 200_000  # on which the width of the code is chosen


def filters(pcm_T: np.ndarray, taps: int, mel: config_lib.MelConfig):
  """The plain prediction of each frame of a recording: a Filter of arrays, one lane."""
  found = prediction.spectral_filter(
      audio.utterance_log_mel(pcm_T, mel), np.ones((1, taps), bool), prediction.offsets(taps), mel)
  return prediction.Filter(*(np.asarray(part)[:, 0] for part in found))


def speak(found, x_T: np.ndarray, mel: config_lib.MelConfig) -> np.ndarray:
  """int16 samples of which `x_T` are the residuals; silence is before them."""
  taps = found.taps.shape[1]
  row_T = np.clip(prediction.nearest_frame(np.arange(len(x_T)), mel), 0, len(found.shift) - 1)
  past_N = np.zeros(taps + len(x_T), np.int64)
  for t, row in enumerate(row_T):
    total, shift = int(found.taps[row] @ past_N[t:t + taps]), int(found.shift[row])
    predicted = np.clip((total + (1 << shift >> 1)) >> shift, -2**15, 2**15 - 1)
    past_N[t + taps] = np.clip(predicted + int(x_T[t]), -2**15, 2**15 - 1)
  return past_N[taps:].astype(np.int16)


def drawn(pcm_T: np.ndarray, taps: int, log_width: float, mel, rng) -> dict:
  """Measures of what the closed form says in place of a recording."""
  found = filters(pcm_T, taps, mel)
  row_T = np.clip(prediction.nearest_frame(np.arange(len(pcm_T)), mel), 0, len(found.scale) - 1)
  x_T = np.rint(rng.laplace(size=len(pcm_T)) * np.exp(log_width) * found.scale[row_T])
  speech_T = speak(found, np.clip(x_T, -2**15, 2**15 - 1), mel)
  return metrics.voice_metrics(pcm_T, speech_T, mel.sample_rate) | {
      'level': float(speech_T.std() / pcm_T.std())}


def measured(splits: dict, size: str) -> dict:
  """A row: all measures of a size."""
  bands, taps = parse(size)
  mel = dataclasses.replace(config_lib.MelConfig(), bands=bands)
  code = linear_prediction.LinearPrediction(splits['train'], mel, taps, _TRAIN_SAMPLES)
  valid = splits['valid'][:_UTTERANCES.value]
  samples, rng = round(_SECONDS.value * mel.sample_rate), np.random.default_rng(0)
  rows = [drawn(u.read(0, samples, mel.sample_rate), taps, code.log_width, mel, rng)
          for u in valid if u.samples >= samples]
  names = ('voicing_f1', 'periodicity', 'periodicity_target', 'f0_rmse_cents', 'level')
  return {'bands': bands, **code.nll(valid), 'drawn': len(rows),
          **{name: float(np.nanmean([row[name] for row in rows])) for name in names if rows}}


def parse(size: str) -> tuple[int, int]:
  """Bands and taps of a --size."""
  try:
    bands, taps = map(int, size.split(':'))
    if min(bands, taps) < 1:
      raise ValueError(size)
  except ValueError as error:
    raise InputError(f'--size={size}: expected bands:taps, such as 80:192.') from error
  return bands, taps


def utterances() -> dict:
  """Split -> utterances of which the name is asked for."""
  config = config_lib.Config()
  config.data.dir = _CORPUS.value
  files = {split: [path for path in paths if not _NAMES.value
                   or any(name in path.name for name in _NAMES.value)]
           for split, paths in corpus.split_files(config.data).items() if split != 'test'}
  for split, paths in files.items():
    if not paths:
      raise InputError(f'--names={",".join(_NAMES.value)}: no file of {split} has such a name.')
  return {split: corpus.load_utterances(paths, config.data, config.mel, 1)
          for split, paths in files.items()}


def main():
  for size in _SIZES.value:
    parse(size)
  splits = utterances()
  measure.report({'names': _NAMES.value, 'sizes': [measured(splits, s) for s in _SIZES.value]})


if __name__ == '__main__':
  flags.mark_flag_as_required('corpus')
  cli.run(main)
