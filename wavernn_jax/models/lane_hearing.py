"""What lanes (§4) hear and code with a prediction from both sides (prediction.py).

A lane knows its own past, the lanes before it up to F positions ahead, and of the lanes
after it what is far enough behind. All of it within `taps` samples before and `taps_ahead`
after a position of all lanes enters the prediction; x_t = s_t − p̂_t is coded. A lane hears,
where it knows them,

    x over σ, with and without sign, of the 16 samples to both sides and of its own last three
    its own last sample and p̂_t, over the level that the spectrogram expects of samples

each residual over the scale σ of its own frame and lane, and with `excited` what all residuals
say of the excitation around it (excitation.py): δ, λ, φ, γ, and ê itself, with and without
sign, of the nearest samples. No network stands between.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import conditioning, excitation, hearing, lane_tape, prediction

NEIGHBOURS = 16  # samples to each side whose residuals are heard
NEAR = 16, 32  # samples before and after of which ê itself is heard
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


class LaneFilter(typing.NamedTuple):
  """Of frames and lanes, leading axes (F·S)xB.

  linear: their predictions.
  spread: how their residuals spread over the excitation, None where it is not heard.
  """

  linear: prediction.Filter
  spread: excitation.Spread | None


@dataclasses.dataclass(frozen=True, eq=False)
class LaneHearing:
  """Of S lanes, each Δ = F + 1 positions behind the one before it."""

  config: ModelConfig
  mel: MelConfig
  beside: int = 0  # positions to both sides of a block's that `sequence` gives, too
  excited: bool = False  # whether the excitation is heard

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

  @functools.cached_property
  def reach(self) -> np.ndarray:
    """Offsets from a sample of the excitation that it is heard in, and that it hears."""
    return excitation.reach(self.lanes, self.step)

  @property
  def _near(self) -> slice:
    """Those of `reach` of which ê itself is heard."""
    before, after = NEAR
    first, end = np.searchsorted(self.reach, (-before, after + 1))
    return slice(int(first), int(end))

  @property
  def own_width(self) -> int:
    """The first of K inputs, which mean for each lane something of its own."""
    return 2 * len(self.neighbours[0]) + 2 + self.excited * excitation.EXPECTED

  @property
  def width(self) -> int:
    """K: inputs."""
    near = self._near.stop - self._near.start
    return self.own_width + self.excited * (excitation.CORRELATIONS + 2 * near)

  def mask(self) -> np.ndarray:
    """SxK: 1 where a lane knows the input."""
    known_SxJ = self.neighbours[1]
    mask_SxK = np.ones((self.lanes, self.width), np.float32)
    mask_SxK[:, :2 * known_SxJ.shape[1]] = np.tile(known_SxJ, 2)
    return mask_SxK

  # How far it reaches, in positions

  @property
  def _residuals_around(self) -> tuple[int, int]:
    """Positions before and after a block's whose residuals are heard."""
    offsets = self.neighbours[0]
    if self.excited:
      # What is heard at one end of the reach, of a sample at the other.
      far = self.reach[-1] - self.reach[0]
      offsets = np.union1d(offsets, (-far, far))
    before, after = self._positions(offsets)
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
    filters, spread = self.filters(mel_BxFxM)
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
    block = slice(before - self.beside, before - self.beside + given)
    at_IxS = row_NxS[block]
    inputs = self._inputs(z_IxSxBxJ, last_IxSxB, predicted, filters.level[at_IxS])
    if self.excited:
      z_NxSxB = z_TxB.reshape(*row_NxS.shape, -1)
      e_IxSxBxK = excitation.sequence(z_NxSxB[..., None] * spread.g[row_NxS])[block]
      inputs = self._add_excitation(inputs, e_IxSxBxK, jax.tree.map(lambda a: a[at_IxS], spread))
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

  def _add_excitation(self, inputs_NxK, e_NxK, spread: excitation.Spread):
    expected_NxE, correlations_NxC = excitation.inputs(e_NxK, spread)
    near = jnp.clip(e_NxK[..., self._near], -hearing.BOUND, hearing.BOUND)
    return jnp.concatenate(
        [inputs_NxK, expected_NxE, correlations_NxC, near, jnp.abs(near)], axis=-1)

  def filters(self, mel_BxFxM) -> LaneFilter:
    """Filters of frames and lanes, leading axes (F·S)xB."""
    frames_BxFxM = _inner(mel_BxFxM, self.margin - self._own_margin)
    frames_FxBxM = prediction.outlast(frames_BxFxM.swapaxes(0, 1), self.mel)
    offsets_D, known_SxD = self.known
    if self.excited:
      found = excitation.filters(frames_FxBxM, known_SxD, offsets_D, self.reach,
                                 self.config.taps, self.mel)
    else:
      found = prediction.spectral_filter(frames_FxBxM, known_SxD, offsets_D, self.mel), None
    return LaneFilter(*jax.tree.map(
        lambda a: a.swapaxes(1, 2).reshape(-1, a.shape[1], *a.shape[3:]), found))

  def rows(self, position_IxS, lag: int = 0) -> np.ndarray:
    """Rows of `filters` of all lanes at positions that count from a frame boundary, IxS.

    `lag`: frames before the margin that `filters` were given.
    """
    lane_S = np.arange(self.lanes)
    frame_IxS = prediction.nearest_frame(self.lanes * position_IxS + lane_S, self.mel)
    return (frame_IxS + self._own_margin + lag - 1) * self.lanes + lane_S

  # Sampling

  @functools.cached_property
  def layout(self) -> lane_tape.Layout:
    """Of the tape, which has all that any lane hears."""
    reaches = [self._positions(offsets) for offsets in (
        self.known[0], self.neighbours[0], *[self.reach] * self.excited)]
    lead, ahead = np.max(reaches, axis=0)
    return lane_tape.Layout(self.lanes, self.step, int(lead), int(ahead))

  def start(self, batch: int) -> lane_tape.Tape:
    """Silence."""
    return self.layout.start(batch, self.excited)

  def before(self, tape: lane_tape.Tape, filters: LaneFilter):
    """Inputs SxBxK of the lanes' next samples, and their p̂ SxB."""
    (linear, spread), at = filters, self.layout.at
    predicted_SxB = prediction.predict(
        linear.taps, linear.shift, self.layout.windows(tape.pcm, self.known[0]))
    z_SxBxJ = tape.residual[:, at(self.neighbours[0])].swapaxes(0, 1)
    last_SxB = tape.pcm[:, at([-self.lanes])[:, 0]].T
    inputs_SxBxK = self._inputs(z_SxBxJ, last_SxB, predicted_SxB, linear.level)
    if self.excited:
      e_SxBxK = self.layout.windows(tape.excitation, self.reach)
      inputs_SxBxK = self._add_excitation(inputs_SxBxK, e_SxBxK, spread)
    return inputs_SxBxK, predicted_SxB

  def after(self, tape: lane_tape.Tape, x_SxB, live_SxB, predicted_SxB, filters: LaneFilter):
    """The next tape, with the samples of drawn residuals, silent where not live."""
    pcm_SxB = jnp.where(live_SxB, prediction.decode(x_SxB, predicted_SxB), 0).astype(jnp.int16)
    z_SxB = hearing.over_scale(prediction.encode(pcm_SxB, predicted_SxB), filters.linear.scale)
    excited_BxN = tape.excitation
    if self.excited:
      pushed_SxBxK = z_SxB[..., None] * filters.spread.g
      excited_BxN = self.layout.add(excited_BxN, pushed_SxBxK, self.reach)
    return self.layout.moved(lane_tape.Tape(
        self.layout.put(tape.pcm, pcm_SxB), self.layout.put(tape.residual, z_SxB), excited_BxN))


def coarse_over_scale(coarse, scale):
  """What the fine units hear of the coarse byte: the middle of its residuals over σ."""
  return hearing.over_scale(256 * coarse - (2**15 - 127.5), scale)


def _inner(mel_BxFxM, extra: int):
  """Frames without `extra` on each side."""
  return mel_BxFxM[:, extra:mel_BxFxM.shape[1] - extra]
