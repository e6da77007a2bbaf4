"""What lanes (§4) hear and code with a prediction from both sides (prediction.py).

A lane knows its own past, the lanes before it up to F positions ahead, and of the lanes
after it what is far enough behind. All of it within `taps` samples before and `taps_ahead`
after a position of all lanes enters the prediction; x_t = s_t − p̂_t is coded. Every lane
hears through weights of its own, where it knows them,

    x over σ, with and without sign, of the 16 samples to both sides and of its own last three
    its own last sample and p̂_t, over the level that the spectrogram expects of samples

each residual over the scale σ of its own frame and lane. No network stands between: what
the neighbours say beyond the linear is how loud the residual is just now.

`LaneTape` is what sampling carries from step to step: the last samples and residuals in
audio order, of which lanes at different positions read windows at different places.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import conditioning, hearing, prediction

NEIGHBOURS = 16  # samples to each side whose residuals are heard
OWN = 3  # past samples of a lane's own that are heard in any case


class Heard(typing.NamedTuple):
  """What is heard of known samples and what of them is coded, of positions and lanes.

  inputs: [I, S, B, K].
  residual: int16 [I, S, B].
  scale: σ [I, S, B].
  """

  inputs: jax.Array
  residual: jax.Array
  scale: jax.Array


class Tape(typing.NamedTuple):
  """Of the last positions in audio order, 0 where nothing is drawn yet.

  pcm: int16 BxN.
  residual: float32 BxN, over σ.
  """

  pcm: jax.Array
  residual: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class LaneHearing:
  """Of S lanes, each Δ = F + 1 positions behind the one before it."""

  config: ModelConfig
  mel: MelConfig
  beside: int = 0  # positions to both sides of a block's that `sequence` gives, too

  @property
  def lanes(self) -> int:
    return self.config.lanes

  @property
  def step(self) -> int:
    """Δ."""
    return self.config.horizon + 1

  @functools.cached_property
  def known(self) -> tuple[np.ndarray, np.ndarray]:
    """Offsets D from a lane's own sample, without gaps, and which of them it predicts from."""
    last = self.lanes - 1
    offsets_D = np.arange(-self.config.taps - last, self.config.taps_ahead + last + 1)
    at_SxD = np.arange(self.lanes)[:, None] + offsets_D
    near_SxD = (at_SxD >= -self.config.taps) & (at_SxD <= self.config.taps_ahead + last)
    known_SxD = near_SxD & prediction.known(
        self.lanes, self.step, self.config.horizon, offsets_D)
    used = np.flatnonzero(known_SxD.any(axis=0))
    used = slice(used[0], used[-1] + 1)
    return offsets_D[used], known_SxD[:, used]

  @functools.cached_property
  def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
    """Offsets J whose residuals are heard, and by which lanes, SxJ."""
    own = -self.lanes * np.arange(1, OWN + 1)
    offsets_J = np.union1d(own, np.arange(-NEIGHBOURS, NEIGHBOURS + 1))
    known_SxJ = prediction.known(self.lanes, self.step, self.config.horizon, offsets_J)
    used_J = known_SxJ.any(axis=0)
    return offsets_J[used_J], known_SxJ[:, used_J]

  @property
  def width(self) -> int:
    """K: inputs."""
    return 2 * len(self.neighbours[0]) + 2

  def mask(self) -> np.ndarray:
    """SxK: 1 where a lane knows the input."""
    known_SxJ = self.neighbours[1]
    return np.concatenate([known_SxJ, known_SxJ, np.ones((self.lanes, 2))], axis=1,
                          dtype=np.float32)

  # How far it reaches, in positions

  @property
  def _residuals_around(self) -> tuple[int, int]:
    """Positions before and after a block's whose residuals are heard."""
    before, after = self._positions(self.neighbours[0])
    return before + self.beside, after + self.beside

  @property
  def around(self) -> tuple[int, int]:
    """Positions before and after a block's on whose samples `sequence` depends."""
    before, after = self._residuals_around
    reach = self._positions(self.known[0])
    return before + reach[0], after + reach[1]

  def _positions(self, offsets) -> tuple[int, int]:
    return (int(-(offsets[0] // self.lanes)),
            max(0, int(offsets[-1] + self.lanes - 1) // self.lanes))

  @functools.cached_property
  def _own_margin(self) -> int:
    """Frames to each side of a block's that the predictions take."""
    before, after = self.lanes * np.array(self._residuals_around)
    first = prediction.nearest_frame(-before, self.mel)
    last = prediction.nearest_frame(self.lanes + after, self.mel)
    return int(max(1 - first, 1 + last))  # one more before: `outlast`

  @property
  def margin(self) -> int:
    """Frames to each side of a block's that the model takes."""
    return max(conditioning.margin(self.config) + 1, self._own_margin)

  def stack_frames(self, mel_BxFxM):
    """Of the frames those that the conditioning takes."""
    return _inner(mel_BxFxM, self.margin - conditioning.margin(self.config) - 1)

  # Teacher forcing

  def sequence(self, pcm_BxN, mel_BxFxM, positions: int) -> Heard:
    """Of a block's positions and those `beside` it.

    Args:
      pcm_BxN: samples of the block's positions and of those `around` them.
      mel_BxFxM: frames from `margin` before the one at the block's first sample on.
      positions: of the block.
    """
    before, after = self._residuals_around
    row_NxS = self.rows(np.arange(-before, positions + after)[:, None])
    filters = self.filters(mel_BxFxM)
    predicted_TxB, x_TxB, scale_TxB = self._residuals(
        pcm_BxN, filters, row_NxS.ravel(), self.lanes * (self.around[0] - before))
    z_TxB = hearing.over_scale(x_TxB, scale_TxB)

    given = positions + 2 * self.beside

    def folded(a_TxB, first):
      return a_TxB[first:first + self.lanes * given].reshape(given, self.lanes, -1)
    first = self.lanes * (before - self.beside)
    z_IxSxBxJ = jnp.stack([folded(z_TxB, first + d) for d in self.neighbours[0]], axis=-1)
    predicted, x, scale = (folded(a, first) for a in (predicted_TxB, x_TxB, scale_TxB))
    last_IxSxB = folded(pcm_BxN.T, self.lanes * (self.around[0] - self.beside - 1))
    at_IxS = row_NxS[before - self.beside:][:given]
    inputs = self._inputs(z_IxSxBxJ, last_IxSxB, predicted, filters.level[at_IxS])
    return Heard(inputs, x, scale)

  def _residuals(self, pcm_BxN, filters: prediction.Filter, row_T, first: int):
    """p̂, x and σ, TxB each, of the samples from the `first` on."""
    offsets_D, _ = self.known
    predicted_TxB = prediction.predict_all(
        filters.taps.transpose(2, 1, 0), filters.shift[row_T], pcm_BxN.T, row_T, offsets_D,
        first)
    x_TxB = prediction.encode(pcm_BxN.T[first:first + len(row_T)], predicted_TxB)
    return predicted_TxB, x_TxB, filters.scale[row_T]

  def _inputs(self, z_NxJ, last_N, predicted_N, level_N):
    """[..., K] of neighbours' residuals over σ, a lane's last sample and the prediction."""
    waveform_Nx2 = jnp.stack([last_N, predicted_N], axis=-1) / level_N[..., None]
    return jnp.concatenate([z_NxJ, jnp.abs(z_NxJ), jnp.clip(
        waveform_Nx2, -hearing.BOUND, hearing.BOUND)], axis=-1)

  def filters(self, mel_BxFxM) -> prediction.Filter:
    """Filters of frames and lanes, leading axes (F·S)xB."""
    frames_BxFxM = _inner(mel_BxFxM, self.margin - self._own_margin)
    frames_FxBxM = prediction.outlast(frames_BxFxM.swapaxes(0, 1), self.mel)
    offsets_D, known_SxD = self.known
    found = prediction.spectral_filter(frames_FxBxM, known_SxD, offsets_D, self.mel)
    return jax.tree.map(
        lambda a: a.swapaxes(1, 2).reshape(-1, a.shape[1], *a.shape[3:]), found)

  def rows(self, position_IxS, lag: int = 0) -> np.ndarray:
    """Rows of `filters` of all lanes at positions that count from a frame boundary, IxS.

    `lag`: frames before the margin that `filters` were given.
    """
    lane_S = np.arange(self.lanes)
    frame_IxS = prediction.nearest_frame(self.lanes * position_IxS + lane_S, self.mel)
    return (frame_IxS + self._own_margin + lag - 1) * self.lanes + lane_S

  # Sampling: lane s is at row delay + lead − s·Δ of the tape

  @property
  def delay(self) -> int:
    """Positions by which the last lane is behind the first."""
    return (self.lanes - 1) * self.step

  @property
  def _lead(self) -> int:
    """Positions of the tape before that of the last lane."""
    return max(self._positions(self.known[0])[0], self._positions(self.neighbours[0])[0])

  def start(self, batch: int) -> Tape:
    """Silence."""
    ahead = max(self._positions(self.known[0])[1], self._positions(self.neighbours[0])[1])
    samples = self.lanes * (self._lead + self.delay + 1 + ahead)
    return Tape(jnp.zeros((batch, samples), jnp.int16), jnp.zeros((batch, samples), jnp.float32))

  def _at(self, offsets) -> np.ndarray:
    """Where in the tape samples stand at these offsets from each lane's own, SxD."""
    lane = np.arange(self.lanes)
    own_S = self.lanes * (self._lead + self.delay - lane * self.step) + lane
    return own_S[:, None] + offsets

  def before(self, tape: Tape, filters: prediction.Filter):
    """Inputs SxBxK of the lanes' next samples, and their p̂ SxB."""
    offsets_D, _ = self.known
    first_S = self._at(offsets_D[:1])[:, 0]
    window_SxBxD = jnp.stack([tape.pcm[:, a:a + len(offsets_D)] for a in first_S])
    predicted_SxB = prediction.predict(filters.taps, filters.shift, window_SxBxD)
    z_SxBxJ = tape.residual[:, self._at(self.neighbours[0])].swapaxes(0, 1)
    last_SxB = tape.pcm[:, self._at([-self.lanes])[:, 0]].T
    return self._inputs(z_SxBxJ, last_SxB, predicted_SxB, filters.level), predicted_SxB

  def after(self, tape: Tape, x_SxB, live_SxB, predicted_SxB, filters: prediction.Filter):
    """The samples of drawn residuals, silent where not live, and the next tape."""
    pcm_SxB = jnp.where(live_SxB, prediction.decode(x_SxB, predicted_SxB), 0).astype(jnp.int16)
    z_SxB = hearing.over_scale(prediction.encode(pcm_SxB, predicted_SxB), filters.scale)
    at_S = self._at([0])[:, 0]

    def moved(a_BxN, new_SxB):
      return jnp.pad(a_BxN.at[:, at_S].set(new_SxB.T)[:, self.lanes:], ((0, 0), (0, self.lanes)))
    return Tape(moved(tape.pcm, pcm_SxB), moved(tape.residual, z_SxB))

  def drawn(self, tape: Tape):
    """BxS: the position that the last lane has just completed."""
    first = self.lanes * (self._lead - 1)
    return tape.pcm[:, first:first + self.lanes]


def coarse_over_scale(coarse, scale):
  """What the fine units hear of the coarse byte: the middle of its residuals over σ."""
  return hearing.over_scale(256 * coarse - (2**15 - 127.5), scale)


def _inner(mel_BxFxM, extra: int):
  """Frames without `extra` on each side."""
  return mel_BxFxM[:, extra:mel_BxFxM.shape[1] - extra]
