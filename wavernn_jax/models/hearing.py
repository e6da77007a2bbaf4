"""What a step hears of the samples before it, and what its two bytes are bytes of.

`Bytes` is the paper's: the bytes of the last sample are inputs and those of the next
one are coded. `Residuals` codes the residual x_t of a prediction (prediction.py) and
hears past residuals over the scale σ that the spectrogram expects of them.

A `Sequence` holds both for given samples. In sampling a *tape* is carried from step to
step: `before` gives the inputs, `after` takes what was drawn.
"""

import dataclasses
import functools
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
_BOUND = 8.0  # of a residual over σ
_RESIDUALS = 4  # past ones that are heard

# The logarithm of a Laplace density of scale b, up to a constant, is −|x|/b. In bytes it
# is a ramp over the coarse one, and over the fine one: rising below 0, falling above.
_C = np.arange(likelihood.BYTE_VALUES)
RAMPS = {'coarse': np.where(_C >= 128, -256.0 * (_C - 128), -256.0 * (127 - _C) - 1).astype(np.float32),
         'fine': _C.astype(np.float32)}


class Sequence(typing.NamedTuple):
  """What is heard of given samples, and what of them is coded.

  previous: [T, B, K], inputs of all units at each sample.
  current: [T, B, C], inputs of the fine units: the coarse byte of the same sample.
  targets: {'coarse', 'fine'}: int32 [T, B].
  scale: σ [T, B], None without a prediction.
  """

  previous: jax.Array
  current: jax.Array
  targets: dict
  scale: jax.Array | None


@dataclasses.dataclass(frozen=True, eq=False)
class Bytes:
  """§2: x_t = [c_{t−1}, f_{t−1}, c_t]."""

  past = 1  # samples that must be known before the first
  width, current_width = 2, 1
  gains = np.float32([COARSE_GAIN, 1, COARSE_GAIN])  # of the weights of what is heard

  def sequence(self, pcm_BxN, mel_BxFxM) -> Sequence:
    coarse, fine = audio.split_bytes(pcm_BxN.T)
    previous = audio.scale_byte(jnp.stack([coarse[:-1], fine[:-1]], axis=-1))
    return Sequence(previous, self.current(coarse[1:]), {'coarse': coarse[1:], 'fine': fine[1:]}, None)

  def current(self, coarse, at=None):
    return audio.scale_byte(coarse)[..., None]

  def filters(self, mel_BxFxM, samples):
    return None, None

  def start(self, pcm_BxN, filters):
    return audio.split_bytes(pcm_BxN[:, -1])

  def before(self, tape, at):
    return audio.scale_byte(jnp.stack(tape, axis=-1)), None

  def after(self, tape, coarse, fine, predicted):
    return audio.join_bytes(coarse, fine), (coarse, fine)


@dataclasses.dataclass(frozen=True, eq=False)
class Residuals:
  """x_t = s_t − p̂_t is coded."""

  config: ModelConfig
  mel: MelConfig

  @property
  def past(self) -> int:
    return self.config.taps + _RESIDUALS

  @functools.cached_property
  def which(self):
    return set(self.config.inputs.split(','))

  @property
  def width(self) -> int:
    w = self.which
    n = next((int(x[4:]) for x in w if x.startswith('past')), 0)
    return 2 * ('bytes' in w) + 2 * ('sample' in w) + 2 * ('predicted' in w) + n + ('tanh' in w) + ('diff' in w)+ ('value' in w)+('logscale' in w) + ('size' in w)*4 + 16*('embed' in w)

  @property
  def current_width(self):
    return 1 + ('current' in self.which)

  def _filters(self, mel_BxFxM) -> prediction.Filter:
    margin = conditioning.context(self.config)
    mel_BxFxM = mel_BxFxM[:, margin:mel_BxFxM.shape[1] - margin]
    taps = self.config.taps
    f = prediction.spectral_filter(mel_BxFxM, np.ones((1, taps), bool), prediction.offsets(taps), self.mel)
    return prediction.Filter(f.taps[:, :, 0], f.shift[:, :, 0], f.scale[:, :, 0])

  def rows(self, first, samples):
    position = conditioning.frame_position(np.arange(first, samples), self.mel)
    return np.floor(position + 0.5).astype(int)

  def sequence(self, pcm_BxN, mel_BxFxM) -> Sequence:
    samples = pcm_BxN.shape[1] - self.past
    f = self._filters(mel_BxFxM)
    rows = self.rows(-_RESIDUALS, samples)
    s = pcm_BxN.T
    p = prediction.predict_all(jnp.moveaxis(f.taps, 2, 0), f.shift.T[rows], s, rows, self.config.taps)
    x = prediction.encode(s[self.config.taps:], p)
    scale = f.scale.T[rows[_RESIDUALS:]]
    coarse, fine = audio.split_bytes(x)
    n = _RESIDUALS
    past = [x[n - k:len(x) - k] for k in range(1, n + 1)]
    previous = self.hear(past, s[self.past - 1:-1], p[n:], scale)
    return Sequence(previous, self.current(coarse[n:], scale), {'coarse': coarse[n:], 'fine': fine[n:]}, scale)

  def hear(self, past, last, predicted, scale):
    """[..., K]"""
    w, out = self.which, []
    if 'bytes' in w:
      c, f = audio.split_bytes(past[0])
      out += [COARSE_GAIN * audio.scale_byte(c), audio.scale_byte(f)]
    for name, v in (('sample', last), ('predicted', predicted)):
      if name in w:
        v = v.astype(jnp.float32)
        out += [v * (16 / 32768), jnp.sign(v) * jnp.log1p(jnp.abs(v)) / np.log(32768)]
    if 'value' in w:
      out += [predicted.astype(jnp.float32) * (16 / 32768)]
    if 'diff' in w:
      out += [jnp.clip((predicted - last.astype(jnp.int32)) / scale, -_BOUND, _BOUND)]
    over = [jnp.clip(x / scale, -_BOUND, _BOUND) for x in past]
    n = next((int(x[4:]) for x in w if x.startswith('past')), 0)
    out += over[:n]
    if 'tanh' in w:
      out += [jnp.tanh(past[0] / scale)]
    if 'size' in w:
      out += [jnp.abs(o) for o in over]
    if 'logscale' in w:
      out += [jnp.log(scale) / 4]
    return jnp.stack(out, axis=-1)

  @property
  def gains(self):
    return np.ones(self.width + self.current_width, np.float32)

  def current(self, coarse, scale):
    scale = getattr(scale, 'scale', scale)
    out = [COARSE_GAIN * audio.scale_byte(coarse)]
    if 'current' in self.which:
      out += [jnp.clip((coarse * 256 - 32640) / scale, -_BOUND, _BOUND)]
    return jnp.stack(out, axis=-1)

  def filters(self, mel_BxFxM, samples):
    """Filters at frame rate [F,B,..] and rows T."""
    f = self._filters(mel_BxFxM)
    return jax.tree.map(lambda a: a.swapaxes(0, 1), f), self.rows(0, samples)

  def start(self, pcm_BxN, f):
    """Tape: the last samples BxD and residuals, the latest first."""
    rows = self.rows(-_RESIDUALS, 0)
    s = pcm_BxN.T
    p = prediction.predict_all(jnp.moveaxis(f.taps, 2, 0).swapaxes(1, 2), f.shift[rows], s, rows, self.config.taps)
    x = prediction.encode(s[self.config.taps:], p)
    return pcm_BxN[:, -self.config.taps:], x[::-1].T

  def before(self, tape, f):
    pcm_BxD, x_Bx4 = tape
    p = prediction.predict(f.taps, f.shift, pcm_BxD)
    return self.hear(list(x_Bx4.T), pcm_BxD[:, -1], p, f.scale), p

  def after(self, tape, coarse, fine, predicted):
    pcm_BxD, x_Bx4 = tape
    s = prediction.decode(audio.join_bytes(coarse, fine), predicted)
    x = prediction.encode(s, predicted)
    return s, (jnp.concatenate([pcm_BxD[:, 1:], s[:, None]], axis=1),
               jnp.concatenate([x[:, None], x_Bx4[:, :-1]], axis=1))
