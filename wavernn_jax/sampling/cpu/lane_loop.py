"""Sampling and teacher forcing of the lanes of a subscale model on one CPU core (§4).

As loop.py: a call is one compiled function that holds no GIL. It goes on by the
positions for which the caller has run the context network; what a stream needs
between calls, but for the drawn samples, stays in its `Memory`.
"""

import typing

import numba
import numpy as np

from wavernn_jax.sampling.cpu import lane_step, layout, loop, random, simd
from wavernn_jax.sampling.cpu.simd import LANES, load, splat, store

LEVELS = lane_step.LEVELS
_SILENCE = (LEVELS // 2, 0)  # bytes of the 16-bit sample 0


class Times(typing.NamedTuple):
  """When each lane is where, in samples of the utterance."""
  first: np.ndarray     # int64 [S], of each lane's next sample
  end: int              # samples of the utterance
  position: np.ndarray  # int64 [S], samples from frame 0 to `first`
  hop: int              # samples a frame


class Output(typing.NamedTuple):
  """Where the compiled loop writes; `codes` are read instead if forced."""
  codes: np.ndarray   # uint8 [L, S, 2]
  nats: np.ndarray    # float32 [L or 0, S, 2]
  logits: np.ndarray  # float32 [L or 0, S, 2, 256]
  forced: bool
  with_logits: bool
  lanes: int


def scratch(network):
  """Working memory for one stream; not to be shared between threads."""
  units, hidden = len(network.inputs), len(network.coarse.project_bias)
  channels, inputs = network.channels, network.inputs.shape[2]

  def numbers(*shape):
    return layout.aligned((*shape, LANES), np.float32)

  def activations(count):
    return lane_step.Activations(numbers(count), layout.aligned((count, LANES), np.int16))
  return lane_step.Scratch(
      units, hidden, channels, inputs, activations(2 * units), activations(channels),
      activations(hidden), numbers(3, LANES), numbers(3 * units), numbers(units, 3, 2),
      np.full(LANES, -2), numbers(2), numbers(inputs), numbers(), numbers(2), numbers(2),
      numbers(LEVELS), numbers(LEVELS + LANES), numbers(2))


def load_state(network, memory, h_SxH, codes_Sx2):
  """Starts the working memory from the lanes' states and last bytes."""
  lanes, units = np.shape(h_SxH)
  memory.h.plain[:units, :lanes] = np.transpose(h_SxH)
  memory.h.short[:units] = np.rint(np.clip(memory.h.plain[:units], -1, 1) * network.limit)
  signals_Sx2 = np.float32(2) * codes_Sx2 - np.float32(LEVELS - 1)
  memory.signals[:2, :lanes] = signals_Sx2.T.astype(np.float32) * loop.BYTE_STEP


def state(memory, now, lanes):
  """The lanes' states [S, H], half `now` of the memory."""
  return memory.h.plain.reshape(2, memory.units, LANES)[now, :, :lanes].T.copy()


def run(network, memory, now, frames_FxG, context_LxSxC, times, options, codes_LxSx2,
        forced=False, with_logits=False):
  """Draws, or scores, the next positions of all lanes.

  Args:
    network: from `lane_layout.build`.
    memory: from `scratch`, with a state.
    now: which half of its states the last position is in.
    frames_FxG: float32 gate inputs at frame rate, G = 3 * H, gates u, r, e; the
      same for all calls with this memory.
    context_LxSxC: float32 context of each lane's next positions, and behind it the
      scaled bytes of the nearest samples.
    times: of these positions.
    options: random key and temperatures, of loop.py.
    codes_LxSx2: uint8 (coarse, fine), written, or read if forced.

  Returns:
    `now` after the last position, and the loop.Scores of shapes [L, S, 2] and
    [L, S, 2, 256], empty unless asked for. What is not of the utterance scores 0.
  """
  positions, lanes, _ = codes_LxSx2.shape
  scores = loop.Scores(
      np.zeros((positions if forced else 0, lanes, 2), np.float32),
      np.zeros((positions if with_logits else 0, lanes, 2, LEVELS), np.float32))
  now = _cached(network, memory, now, frames_FxG, context_LxSxC, times,
                np.uint32(options.seed), np.uint32(options.utterance),
                float(options.coarse_temperature), float(options.fine_temperature),
                Output(codes_LxSx2, *scores, forced, with_logits, lanes))
  return now, scores


def _run(network, memory, now, frames, context, times, key0, key1, coarse_temperature,
         fine_temperature, output):
  """The loop over positions; the half of the states that it ends in."""
  net, s, gate_inputs = simd.borrow(network), simd.borrow(memory), simd.borrow(frames)
  seen, when, out = simd.borrow(context), simd.borrow(times), simd.borrow(output)
  for i in range(len(output.codes)):
    for lane in range(out.lanes):
      _begin(s, gate_inputs, len(frames) - 1, when, i, lane, out.lanes)
      _uniforms(s, key0, key1, simd.item(when.first, lane) + out.lanes * i, lane)
    unit = _hear(net, s, seen, i, out.lanes)
    lane_step.hear(net, s, unit)
    lane_step.half_step(net, s, now, 0)
    first = (1 - now) * s.units
    lane_step.hear_coarse(net, s, unit)
    lane_step.head_logits(net, net.coarse, s, first)
    coarse = _byte(s, 0, coarse_temperature, out, i)
    store(s.signals, (s.inputs - 1) * LANES, _signal(coarse))
    lane_step.half_step(net, s, now, 1)
    lane_step.hear_nothing(s)
    lane_step.head_logits(net, net.fine, s, first + s.units // 2)
    fine = _byte(s, 1, fine_temperature, out, i)
    store(s.signals, 0, _signal(coarse))
    store(s.signals, LANES, _signal(fine))
    now = 1 - now
  return now


@numba.extending.register_jitable
def _begin(s, gate_inputs, last, when, i, lane, lanes):
  """Where a lane is: whether it draws, and between which frames."""
  time, place = simd.item(when.first, lane) + lanes * i, simd.item(when.position, lane) + lanes * i
  simd.put(s.live, lane, 1.0 if 0 <= time < when.end else 0.0)
  frame, rest = place // when.hop, place % when.hop
  before = simd.item(s.loaded, lane)
  if frame != before:
    if frame != before + 1:
      _load_frame(s, gate_inputs, min(frame, last), frame % 2, lane)
    _load_frame(s, gate_inputs, min(frame + 1, last), (frame + 1) % 2, lane)
    simd.put(s.loaded, lane, frame)
  hop = np.float32(when.hop)
  simd.put(s.frame_terms, frame % 2 * LANES + lane, np.float32(when.hop - rest) / hop)
  simd.put(s.frame_terms, (frame + 1) % 2 * LANES + lane, np.float32(rest) / hop)


@numba.extending.register_jitable
def _load_frame(s, gate_inputs, frame, slot, lane):
  """A frame's gate inputs into a column of the table."""
  for unit in range(s.units):
    for gate in range(3):
      x = simd.item(gate_inputs, (3 * frame + gate) * s.units + unit)
      simd.put(s.frames, ((3 * unit + gate) * 2 + slot) * LANES + lane, x)


@numba.extending.register_jitable
def _uniforms(s, key0, key1, time, lane):
  word0, word1 = random.threefry(key0, key1, np.uint64(max(time, 0)))
  simd.put(s.uniforms, lane, random.uniform(word0))
  simd.put(s.uniforms, LANES + lane, random.uniform(word1))


@numba.extending.register_jitable
def _hear(net, s, seen, i, lanes):
  """The context of a position and its nearest bytes; what integers stand for in each lane."""
  nearest = s.inputs - 3
  for lane in range(lanes):
    start = (i * lanes + lane) * (s.channels + nearest)
    for channel in range(s.channels):
      simd.put(s.context.plain, channel * LANES + lane, simd.item(seen, start + channel))
    for k in range(nearest):
      simd.put(s.signals, (2 + k) * LANES + lane, simd.item(seen, start + s.channels + k))
  greatest = splat(0.0)
  for channel in range(s.channels):
    x = load(s.context.plain, channel * LANES)
    greatest = simd.maximum(greatest, simd.maximum(x, splat(0.0) - x))
  matrices = net.gates, net.coarse_context
  return lane_step.quantise(matrices, s.context, s.channels, greatest, net.context_limit)


@numba.extending.register_jitable
def _signal(codes):
  """audio.scale_byte: one rounding, so that all engines agree to the last bit."""
  return (codes + codes - splat(LEVELS - 1.0)) * splat(loop.BYTE_STEP)


@numba.extending.register_jitable
def _byte(s, side, temperature, out, i):
  """Draws or scores a byte of each lane; those of lanes that do not draw are silent."""
  lane_step.softmax_weights(s, temperature)
  if temperature == 0:
    codes = lane_step.most_likely(s)
  else:
    codes = lane_step.draw(s, load(s.uniforms, side * LANES))
  store(s.codes, 0, simd.where_at_most(
      load(s.live, 0), splat(0.0), splat(_SILENCE[side]), codes))
  for lane in range(out.lanes):
    place = (i * out.lanes + lane) * 2 + side
    if out.with_logits:
      for level in range(LEVELS):
        simd.put(out.logits, place * LEVELS + level, simd.item(s.logits, level * LANES + lane))
    if out.forced and simd.item(s.live, lane) > 0:
      code = np.int64(simd.item(out.codes, place))
      simd.put(out.nats, place, lane_step.log_probability(s, lane, code))
      simd.put(s.codes, lane, np.float32(code))
    else:
      simd.put(out.codes, place, np.uint8(simd.item(s.codes, lane)))
  return load(s.codes, 0)


_loop = numba.njit(**loop.OPTIONS)(_run)


def _cached_run(network, memory, now, frames, context, times, key0, key1,
                coarse_temperature, fine_temperature, output):
  return _loop(network, memory, now, frames, context, times, key0, key1, coarse_temperature,
               fine_temperature, output)


_cached = loop.cached(_cached_run)
