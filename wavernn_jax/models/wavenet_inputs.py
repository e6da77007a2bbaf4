"""What WaveNet hears before each sample, what it codes, and in which unit.

`Samples` is the plain model: it hears the last sample and codes the next one. `Residuals`
codes the residual of the prediction from the spectrogram (prediction.py) in units of its
expected size σ, so that an untrained model is already near the closed form. Its
convolutions remember what they heard: one residual a step is enough.

A sample is heard as two numbers: its value, as linear prediction takes it, and its level,
the logarithm to both sides of zero, which tells quiet samples apart. The value alone hardly
shows samples of 3e−4 of full scale; the level alone is not linear.

In sampling a *tape* is carried from step to step: `before` gives what is heard at a step
from it, `after` takes what was drawn.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp

from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import context, hearing, mixture, prediction

_LOG_SCALES = 4.0  # σ from 0.3 to 10⁴ is heard as −0.3 to 2.3


class Step(typing.NamedTuple):
  """What is known before a sample, with any leading axes.

  heard: [..., E].
  predicted: int32 [...], or 0.
  unit: of the mixture, in 16-bit steps: a number or [...].
  """

  heard: jax.Array
  predicted: jax.Array | int
  unit: jax.Array | float


def of(config: ModelConfig, mel: MelConfig):
  """The inputs of a model."""
  return Residuals(config, mel) if config.prediction == 'spectral' else Samples()


@dataclasses.dataclass(frozen=True)
class Samples:
  """The paper's: no prediction."""

  past = 1  # samples that must be known before the first
  width = context.INPUTS  # E
  scales = mixture.SAMPLE_SCALES  # of untrained components

  def sequence(self, pcm_BxN, mel_BxFxM, dtype) -> tuple[Step, jax.Array]:
    """Steps TxB before all given samples but the first `past`, and the values TxB coded."""
    del mel_BxFxM
    pcm_NxB = pcm_BxN.T
    return self._step(pcm_NxB[:-1], dtype), pcm_NxB[1:]

  def filters(self, mel_BxFxM, samples: int):
    """What `before` takes of each frame, FxBx.., and the frame of each sample, T."""
    del mel_BxFxM, samples
    return None, None

  def start(self, pcm_BxN, filters):
    """The tape after `past` samples."""
    del filters
    return pcm_BxN[:, -1]

  def before(self, tape, at, dtype) -> Step:
    """The step of a tape; `at`: of `filters` at the sample's frame."""
    del at
    return self._step(tape, dtype)

  def after(self, tape, value_B, step: Step):
    """The sample, int16, that a drawn value makes, and the tape after it."""
    del tape, step
    pcm_B = value_B.astype(jnp.int16)
    return pcm_B, pcm_B

  def _step(self, last, dtype) -> Step:
    return Step(context.hear_value(last.astype(dtype)), 0, mixture.UNIT)


@dataclasses.dataclass(frozen=True)
class Residuals:
  """Residuals of the prediction, in units of σ. The tape: the last `past` samples."""

  config: ModelConfig
  mel: MelConfig

  width = 2 * context.INPUTS + 3
  scales = mixture.RESIDUAL_SCALES

  @property
  def past(self) -> int:
    """One more than the taps: the residual of the last sample is heard, too."""
    return self.config.taps + 1

  @functools.cached_property
  def _hearing(self):
    return hearing.Residuals(self.config, self.mel)

  def sequence(self, pcm_BxN, mel_BxFxM, dtype) -> tuple[Step, jax.Array]:
    """As of `Samples`."""
    filters, _ = self.filters(mel_BxFxM, 0)
    pcm_NxB, row_N = pcm_BxN.T, self._hearing.rows(-1, pcm_BxN.shape[1] - self.past)
    predicted_NxB = self._predicted(filters, pcm_NxB, row_N)
    value_NxB = prediction.encode(pcm_NxB[self.config.taps:], predicted_NxB)
    step = self._step(pcm_NxB[self.past - 1:-1], value_NxB[:-1], predicted_NxB[1:],
                      filters.scale[row_N[1:]], dtype)
    return step, value_NxB[1:]

  def filters(self, mel_BxFxM, samples: int):
    """As of `Samples`."""
    return self._hearing.filters(mel_BxFxM, samples)

  def start(self, pcm_BxN, filters):
    """As of `Samples`: the last samples, and the residual of the latest."""
    pcm_BxN = pcm_BxN[:, -self.past:]
    predicted_1xB = self._predicted(filters, pcm_BxN.T, self._hearing.rows(-1, 0))
    return pcm_BxN[:, 1:], prediction.encode(pcm_BxN[:, -1], predicted_1xB[0])

  def before(self, tape, at, dtype) -> Step:
    """As of `Samples`."""
    pcm_BxD, value_B = tape
    predicted_B = prediction.predict(at.taps, at.shift, pcm_BxD)
    return self._step(pcm_BxD[:, -1], value_B, predicted_B, at.scale, dtype)

  def after(self, tape, value_B, step: Step):
    """As of `Samples`."""
    pcm_BxD, _ = tape
    pcm_B = prediction.decode(value_B, step.predicted)
    return pcm_B, (jnp.concatenate([pcm_BxD[:, 1:], pcm_B[:, None]], axis=1),
                   prediction.encode(pcm_B, step.predicted))

  def _predicted(self, filters, pcm_NxB, row_N):
    """p̂ of all samples after the first taps."""
    return prediction.predict_all(
        filters.taps.transpose(2, 1, 0), filters.shift[row_N], pcm_NxB, row_N,
        prediction.offsets(self.config.taps), self.config.taps)

  def _step(self, last, value, predicted, scale, dtype) -> Step:
    over = (value / scale).astype(dtype)
    heard = jnp.concatenate([
        context.hear_value(last.astype(dtype)), context.hear_value(predicted.astype(dtype)),
        jnp.stack([jnp.clip(over, -hearing.BOUND, hearing.BOUND), jnp.tanh(over),
                   jnp.log(scale).astype(dtype) / _LOG_SCALES], axis=-1)], axis=-1)
    return Step(heard, predicted, scale.astype(dtype))


def rows(filters, row):
  """The row of `filters` at a frame, which `before` takes."""
  return jax.tree.map(lambda a: a[row], filters)
