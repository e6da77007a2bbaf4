"""What a step hears of the samples before it, and what its two bytes stand for.

`Bytes` is the paper's form: a step hears the bytes of the last sample and codes those of
the next one. `Residuals` codes what a prediction leaves (prediction.py). It hears the last
residuals over the scale σ that the spectrogram expects of them, with and without sign,
and the last sample and the prediction over the level that it expects of samples: how
loud the residual is depends on where in a period of pitch the waveform is.

`sequence` gives both for known samples. In sampling a *tape* is carried from step to
step: `before` gives what is heard, `after` takes what was drawn. `filters` are what a
prediction needs of the frames, None without one.
"""

import dataclasses
import os
import typing

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, likelihood
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import conditioning, prediction

# Speech lies within a few hundredths of [−1, 1] most of the time. Adam moves every
# weight by about the learning rate a step, so without this factor on the weights of
# the coarse byte their growth alone takes thousands of steps.
COARSE_GAIN = 64.0
# For the ablation of experiments/sweeps/inputs.py alone: what is changed in `Residuals`.
CHANGED = set(filter(None, os.environ.get('CHANGED', '').split(',')))
RESIDUALS = next((int(c[4:]) for c in CHANGED if c.startswith('past')), 4)  # past ones heard
BOUND = 8.0  # of what is heard over its scale
PRIOR = -0.65  # ln(b/σ) before training: the best for speech, within 0.01 nats

# The logarithm of a Laplace density of scale b is −|x|/b and a constant. Summed over the
# fine bytes it is a ramp of the coarse one, and given that a ramp of the fine byte, which
# falls for x ≥ 0 (coarse bytes from 128 on) and rises for x < 0.
_V = np.arange(likelihood.BYTE_VALUES, dtype=np.float32)
COARSE_RAMP = np.where(_V >= 128, 256 * (128 - _V), 256 * (_V - 127) - 1)
FINE_RAMP = _V


class Sequence(typing.NamedTuple):
  """What is heard of known samples and what of them is coded.

  previous: [T, B, K], heard by all units.
  current: [T, B, 1], heard by the fine units: the coarse byte of the same sample.
  targets: {'coarse', 'fine'}: int32 [T, B].
  scale: σ [T, B], None without a prediction.
  """

  previous: jax.Array
  current: jax.Array
  targets: dict
  scale: jax.Array | None


def build(config: ModelConfig, mel: MelConfig):
  """What the steps of a plain model hear."""
  return Residuals(config, mel) if config.prediction == 'spectral' else Bytes()


@dataclasses.dataclass(frozen=True, eq=False)
class Bytes:
  """§2: x_t = [c_{t−1}, f_{t−1}, c_t]. The tape is the last sample's bytes."""

  past = 1  # samples that must be known before the first
  width = 2  # K
  gains = np.float32([COARSE_GAIN, 1, COARSE_GAIN])  # of the weights of what is heard

  def sequence(self, pcm_BxN, mel_BxFxM) -> Sequence:
    del mel_BxFxM
    coarse, fine = audio.split_bytes(pcm_BxN.T)
    return Sequence(audio.scale_byte(jnp.stack([coarse[:-1], fine[:-1]], axis=-1)),
                    self.current(coarse[1:], None), {'coarse': coarse[1:], 'fine': fine[1:]}, None)

  def current(self, coarse, filters):
    """What the fine units hear of the coarse byte, [..., 1]."""
    del filters
    return audio.scale_byte(coarse)[..., None]

  def filters(self, mel_BxFxM, samples: int):
    del mel_BxFxM, samples
    return None, None

  def start(self, pcm_BxP, filters):
    del filters
    return audio.split_bytes(pcm_BxP[:, -1])

  def before(self, tape, filters):
    del filters
    return audio.scale_byte(jnp.stack(tape, axis=-1)), None

  def after(self, tape, coarse, fine, predicted, filters):
    del tape, predicted, filters
    return audio.join_bytes(coarse, fine), (coarse, fine)


@dataclasses.dataclass(frozen=True, eq=False)
class Residuals:
  """x_t = s_t − p̂_t is coded.

  The tape is the last samples BxD and the last residuals over σ, BxR, the latest first.
  """

  config: ModelConfig
  mel: MelConfig

  width = ((1 if 'noabs' in CHANGED else 2) * RESIDUALS + (0 if 'nowave' in CHANGED else 2)
           + 2 * ('bytes' in CHANGED) + 512 * ('embedded' in CHANGED)
           + RESIDUALS * ('tanh' in CHANGED) + ('adaptive' in CHANGED))  # K
  gains = np.ones(width + 1, np.float32)

  @property
  def past(self) -> int:
    """Samples that must be known before the first."""
    return self.config.taps + RESIDUALS

  def sequence(self, pcm_BxN, mel_BxFxM) -> Sequence:
    """Of the samples that follow the first `past` ones."""
    filters_F = self._frame_filters(mel_BxFxM)
    row_T = self.rows(-RESIDUALS, pcm_BxN.shape[1] - self.past)
    predicted_TxB, x_TxB, z_TxB = self._residuals(pcm_BxN, filters_F, row_T)
    past_TxBxR = jnp.stack(
        [z_TxB[RESIDUALS - k:len(z_TxB) - k] for k in range(1, RESIDUALS + 1)], axis=-1)
    at = filters_F._replace(taps=None)  # of which copies for all samples would be large
    at = jax.tree.map(lambda a: a[row_T[RESIDUALS:]], at)
    predicted_TxB = predicted_TxB[RESIDUALS:]
    if CHANGED & {'adaptive', 'coded'}:
      y_TxB = adapted(z_TxB)[RESIDUALS:]
    if 'coded' in CHANGED:
      predicted_TxB = jnp.clip(
          predicted_TxB + jnp.round(y_TxB * at.scale).astype(jnp.int32), -2**15, 2**15 - 1)
      x_TxB = jnp.concatenate([x_TxB[:RESIDUALS], prediction.encode(
          pcm_BxN.T[self.past:], predicted_TxB)])
      z_TxB = jnp.concatenate([z_TxB[:RESIDUALS], over_scale(x_TxB[RESIDUALS:], at.scale)])
      past_TxBxR = jnp.stack(
          [z_TxB[RESIDUALS - k:len(z_TxB) - k] for k in range(1, RESIDUALS + 1)], axis=-1)
    previous = self._heard(past_TxBxR, pcm_BxN.T[self.past - 1:-1], predicted_TxB, at.level)
    if 'adaptive' in CHANGED:
      previous = jnp.concatenate([previous, y_TxB[..., None]], axis=-1)
    last = audio.split_bytes(x_TxB[RESIDUALS - 1:-1])
    if 'bytes' in CHANGED:
      previous = jnp.concatenate([previous, audio.scale_byte(jnp.stack(last, axis=-1))], axis=-1)
    if 'embedded' in CHANGED:
      previous = jnp.concatenate([previous, *(jax.nn.one_hot(b, 256) for b in last)], axis=-1)
    coarse, fine = audio.split_bytes(x_TxB[RESIDUALS:])
    return Sequence(previous, self.current(coarse, at), {'coarse': coarse, 'fine': fine},
                    at.scale)

  def _heard(self, past_NxR, last_N, predicted_N, level_N):
    """[..., K] of past residuals over σ, the last sample and the prediction."""
    waveform_Nx2 = jnp.stack([last_N, predicted_N], axis=-1) / level_N[..., None]
    parts = [past_NxR, jnp.abs(past_NxR), jnp.clip(waveform_Nx2, -BOUND, BOUND),
             jnp.tanh(past_NxR)]
    left_out = {'noabs': 1, 'nowave': 2}
    leave = {i for name, i in left_out.items() if name in CHANGED} | (
        set() if 'tanh' in CHANGED else {3})
    return jnp.concatenate([p for i, p in enumerate(parts) if i not in leave], axis=-1)

  def current(self, coarse, filters):
    """What the fine units hear of the coarse byte, [..., 1]: the middle of its residuals."""
    return over_scale(256 * coarse - (2**15 - 127.5), filters.scale)[..., None]

  def _residuals(self, pcm_BxN, filters_F, row_T):
    """p̂, x and x/σ, TxB each, of all samples but the first D."""
    pcm_NxB, taps = pcm_BxN.T, self.config.taps
    predicted_TxB = prediction.predict_all(
        filters_F.taps.transpose(2, 1, 0), filters_F.shift[row_T], pcm_NxB, row_T,
        prediction.offsets(taps), taps)
    x_TxB = prediction.encode(pcm_NxB[taps:], predicted_TxB)
    return predicted_TxB, x_TxB, over_scale(x_TxB, filters_F.scale[row_T])

  def _frame_filters(self, mel_BxFxM) -> prediction.Filter:
    """Filters of the frames −1, 0, ..; leading axes FxB."""
    taps = self.config.taps
    found = prediction.spectral_filter(
        self.frames(mel_BxFxM), np.ones((1, taps), bool), prediction.offsets(taps), self.mel)
    return jax.tree.map(lambda a: a[:, :, 0], found)

  def frames(self, mel_BxFxM):
    """The frames −1, 0, .. that predictions are made of, FxBxM."""
    margin = conditioning.margin(self.config)
    frames_FxBxM = mel_BxFxM[:, margin - 1:mel_BxFxM.shape[1] - margin].swapaxes(0, 1)
    return prediction.outlast(frames_FxBxM, self.mel)

  def rows(self, first: int, samples: int) -> np.ndarray:
    """The frame nearest to each sample first .. samples − 1, counted from frame −1."""
    return prediction.nearest_frame(np.arange(first, samples), self.mel) + 1

  def filters(self, mel_BxFxM, samples: int):
    """Filters of the frames, leading axes FxB, and the row T of each sample's frame."""
    return self._frame_filters(mel_BxFxM), self.rows(0, samples)

  def start(self, pcm_BxP, filters):
    *_, z_RxB = self._residuals(pcm_BxP, filters, self.rows(-RESIDUALS, 0))
    return pcm_BxP[:, -self.config.taps:], z_RxB[::-1].T

  def before(self, tape, filters):
    pcm_BxD, z_BxR = tape
    predicted_B = prediction.predict(filters.taps, filters.shift, pcm_BxD)
    return self._heard(z_BxR, pcm_BxD[:, -1], predicted_B, filters.level), predicted_B

  def after(self, tape, coarse, fine, predicted, filters):
    pcm_BxD, z_BxR = tape
    pcm_B = prediction.decode(audio.join_bytes(coarse, fine), predicted)
    z_B = over_scale(prediction.encode(pcm_B, predicted), filters.scale)
    return pcm_B, (jnp.concatenate([pcm_BxD[:, 1:], pcm_B[:, None]], axis=1),
                   jnp.concatenate([z_B[:, None], z_BxR[:, :-1]], axis=1))


def adapted(z_TxB, taps: int = 32, rate: float = 0.01):
  """Each z predicted from the last `taps` ones by normalised least mean squares (NLMS)."""
  def step(carry, z_B):
    w_BxK, past_BxK = carry
    y_B = (w_BxK * past_BxK).sum(-1)
    gain_B = rate * (z_B - y_B) / ((past_BxK**2).sum(-1) + 0.3 * taps)
    w_BxK = w_BxK + gain_B[:, None] * past_BxK
    return (w_BxK, jnp.concatenate([z_B[:, None], past_BxK[:, :-1]], axis=1)), y_B
  zeros = jnp.zeros((z_TxB.shape[1], taps))
  return jax.lax.scan(step, (zeros, zeros), z_TxB, unroll=8)[1]


def over_scale(x, scale):
  """A residual as it is heard: over σ, within bounds."""
  return jnp.clip(x / scale, -BOUND, BOUND)


def priors(log_ratio, scale, coarse):
  """Of each byte the slope and the ramp that a Laplace density adds to its logits.

  Args:
    log_ratio: ln(b/σ), trained.
    scale: σ [...].
    coarse: the coarse byte [...], which the fine one's slope takes its sign from.
  """
  slope = jnp.exp(-log_ratio) / scale
  return {'coarse': (slope, COARSE_RAMP),
          'fine': (jnp.where(coarse >= 128, -slope, slope), FINE_RAMP)}
