"""Evaluations during a run: the likelihood of the valid split, and copies to listen to.

Both end early, after the current block of frames, when the process is told to stop.
"""

import numpy as np

from wavernn_jax import audio, draw
from wavernn_jax.config import Config
from wavernn_jax.data import corpus
from wavernn_jax.evaluation import evaluate, metrics, pictures
from wavernn_jax.sampling import scan, stream
from wavernn_jax.training import world


class _Abandoned(Exception):
  """This process was told to stop."""


class Validation:
  """Evaluates the valid split with the weights of a step."""

  def __init__(self, model, config: Config, valid_set, told_to_stop, stop):
    """Args:
      model, config: of the run.
      valid_set: utterances.
      told_to_stop: true once this process has been told to stop.
      stop: of `stopping.stop`.
    """
    self._config = config
    self._utterances = valid_set[:config.evaluation.max_valid_utterances or None]
    self._told_to_stop, self._stop = told_to_stop, stop
    self._engine = scan.ScanEngine(model, None, block_frames=config.evaluation.block_frames)

  def likelihood(self, params) -> dict | None:
    """nll, nll_coarse and nll_fine in nats/sample; None if any process is told to stop.

    Each process scores its share of the utterances, longest first, a batch at a time.
    """
    index, count = world.share()
    order = np.argsort([-u.samples for u in self._utterances], kind='stable')
    batch = self._config.evaluation.batch
    of_all = {byte: np.zeros(len(order)) for byte in ('coarse', 'fine')}
    for first in range(0, len(order), batch * count):
      mine = order[first + index:first + batch * count:count]
      for byte, nats in self._nats(params, mine).items():
        of_all[byte][mine] = nats
      if self._stop.agree():
        return None
    sums = {byte: world.add_up(nats) for byte, nats in of_all.items()}
    samples = np.array([u.samples for u in self._utterances])
    result = evaluate.summary(sums, samples, self._config.evaluation)
    return {name: result[name] for name in ('nll', 'nll_coarse', 'nll_fine')}

  def _nats(self, params, chosen) -> dict:
    """Sums of nats of some utterances, or nothing if this process is told to stop meanwhile."""
    try:
      self._go_on()
      self._engine.params = params
      return evaluate.utterance_nats(
          self._engine, [self._utterances[i] for i in chosen], self._config.evaluation.batch,
          self._go_on)[0] if len(chosen) else {}
    except _Abandoned:
      return {}

  def _go_on(self, samples: int = 0) -> None:
    del samples
    if self._told_to_stop:
      raise _Abandoned

  def speak(self, params, journal, step: int) -> None:
    """Free-running copies of a few valid utterances: their scalars, sound and pictures."""
    evaluation = self._config.evaluation
    chosen = self._utterances[:evaluation.synthesize]
    if not chosen:
      return
    self._engine.params = params
    try:
      self._go_on()
      self._speak(chosen, journal, step)
    except _Abandoned:
      return

  def _speak(self, chosen, journal, step: int) -> None:
    mel, evaluation = self._config.mel, self._config.evaluation
    frames = int(evaluation.synthesize_seconds * mel.sample_rate / mel.hop)
    mels = [corpus.utterance_mel(u, mel)[:frames] for u in chosen]
    pcms = stream.batch(self._engine, mels, draw.keys(
        self._config.train.seed, range(len(mels))), self._go_on)
    recordings = [u.read(0, u.samples, mel.sample_rate) for u in chosen]
    journal.scalars(step, metrics.valid_scalars(recordings, pcms, mel))
    for u, target_FxM, pcm in zip(chosen, mels, pcms, strict=True):
      journal.audio(step, u.name, pcm, mel.sample_rate)
      figure = pictures.spectrogram_pair(
          target_FxM, audio.utterance_log_mel(pcm, mel), mel, f'{u.name}, step {step}')
      journal.picture(step, u.name, pictures.to_array(figure))
