"""Sampling and teacher forcing on one CPU core (§3).

A whole call is one compiled function that holds no GIL, so utterances run on
threads. Randomness is a function of (seed, utterance, sample index) only, and
all state is in `State`: a stream cut anywhere gives the samples of one call.
"""

import concurrent.futures
import typing

import numba
import numpy as np

from wavernn_jax.sampling.cpu import cache, layout, random, simd, step
from wavernn_jax.sampling.cpu.simd import splat

LANES, LEVELS = 16, 256
BYTE_STEP = np.float32(1 / 255)
OPTIONS = {'nogil': True, 'error_model': 'numpy'}  # of the compiler


class State(typing.NamedTuple):
  """Where a stream stands: h [H], the last bytes and the next sample's index."""
  h: np.ndarray
  coarse: int
  fine: int
  index: int


class Options(typing.NamedTuple):
  """How to draw: the random key and the temperatures (0 takes the likeliest)."""
  seed: int = 0
  utterance: int = 0
  coarse_temperature: float = 1.0
  fine_temperature: float = 1.0


DEFAULTS = Options()


class Scores(typing.NamedTuple):
  """Teacher-forced results: nats of each byte, and logits if asked for."""
  log_likelihood: np.ndarray  # float32 [T, 2], coarse and fine
  logits: np.ndarray          # float32 [T or 0, 2, 256]


class Output(typing.NamedTuple):
  """Where the compiled loop writes; `codes` are read instead if forced."""
  codes: np.ndarray
  nats: np.ndarray
  logits: np.ndarray
  forced: bool
  with_logits: bool


def initial_state(network):
  """No memory, and silence (the 16-bit sample 0) as the last bytes."""
  units = network.coarse_inputs.shape[0] * 2 * layout.LANES
  return State(np.zeros(units, np.float32), LEVELS // 2, 0, 0)


def sample(network, frames_FxG, count, hop, state, options=DEFAULTS, position=0):
  """Draw the next `count` samples of a stream.

  Args:
    network: from `layout.build`.
    frames_FxG: float32 gate inputs at frame rate, G = 3 * H, gates u, r, e.
    count: number of samples.
    hop: samples a frame.
    state: where the stream stands.
    options: random key and temperatures.
    position: samples from frame 0 of `frames_FxG` to the first sample. Frames
      beyond the last repeat it.

  Returns:
    codes uint8 [count, 2] (coarse, fine), and the State after them.
  """
  codes = np.zeros((count, 2), np.uint8)
  state, _ = _call(network, frames_FxG, hop, state, options, position, codes,
                   forced=False)
  return codes, state


def score(network, frames_FxG, codes_Tx2, hop, state, position=0,
          with_logits=False):
  """Teacher-forced log likelihood of given samples, by the sampler's own step.

  Args as for `sample`; `codes_Tx2` is uint8 (coarse, fine).

  Returns:
    Scores, and the State after the samples.
  """
  codes = np.ascontiguousarray(codes_Tx2, np.uint8)
  state, scores = _call(network, frames_FxG, hop, state, Options(), position,
                        codes, forced=True, with_logits=with_logits)
  return scores, state


def sample_many(network, jobs, threads):
  """`sample(network, **job)` for each job, on several threads, in order."""
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    return list(pool.map(lambda job: sample(network, **job), jobs))


def scratch(network):
  """Working memory for one stream; not to be shared between threads."""
  units = network.coarse_inputs.shape[0] * 2 * layout.LANES
  hidden = len(network.coarse.project_bias)
  return step.Scratch(
      units, hidden, _activations(2 * units), _activations(hidden),
      layout.aligned(LEVELS, np.float32), layout.aligned(LEVELS + 16, np.float32),
      layout.aligned_copy(network.coarse_inputs),
      layout.aligned_copy(network.fine_inputs))


def _activations(count):
  return step.Activations(
      layout.aligned(count, np.float32), layout.aligned(count, np.int16))


def load_state(network, memory, h):
  """Starts the working memory from a state [H]."""
  units = memory.units
  memory.h.plain[:units] = h
  memory.h.short[:units] = np.rint(np.clip(h, -1, 1) * network.limit)


def _call(network, frames, hop, state, options, position, codes, forced,
          with_logits=False):
  frames = np.ascontiguousarray(frames, np.float32)
  _check(network, frames, hop, state, position)
  s, count = scratch(network), len(codes)
  load_state(network, s, state.h)
  scores = Scores(np.zeros((count if forced else 0, 2), np.float32),
                  np.zeros((count if with_logits else 0, 2, LEVELS), np.float32))
  run(network, s, frames, hop, position, state.coarse, state.fine,
      np.uint64(state.index), np.uint32(options.seed),
      np.uint32(options.utterance), float(options.coarse_temperature),
      float(options.fine_temperature), codes, forced, *scores)
  last = codes[-1] if count else (state.coarse, state.fine)
  h_2xH = s.h.plain.reshape(2, s.units)
  return State(h_2xH[count % 2].copy(), int(last[0]), int(last[1]),
               state.index + count), scores


def _check(network, frames, hop, state, position):
  units = network.coarse_inputs.shape[0] * 2 * layout.LANES
  if frames.ndim != 2 or frames.shape[1] != 3 * units or not len(frames):
    raise ValueError(
        f'frames of shape {frames.shape}; {units} units need [F > 0, {3 * units}]')
  if np.shape(state.h) != (units,):
    raise ValueError(f'a state of shape {np.shape(state.h)}, expected ({units},)')
  if hop < 1 or position < 0:
    raise ValueError(f'hop {hop} must be positive, position {position} not negative')


def _run(network, memory, frames, hop, position, coarse, fine, index, key0, key1,
         coarse_temperature, fine_temperature, codes, forced, nats, logits):
  """The loop over samples; fills `codes`, or `nats` and `logits` if forced."""
  net, s, gate_inputs = simd.borrow(network), simd.borrow(memory), simd.borrow(frames)
  out = simd.borrow(Output(codes, nats, logits, forced, len(logits) > 0))
  half, frame, now = s.units // 2, -1, 0
  for t in range(len(codes)):
    if (position + t) // hop != frame:
      frame = (position + t) // hop
      _set_frames(s, gate_inputs, frame, len(frames) - 1)
    word0, word1 = random.threefry(key0, key1, index + np.uint64(t))
    rest = (position + t) % hop
    terms = (splat(np.float32(hop - rest) / np.float32(hop)),
             splat(np.float32(rest) / np.float32(hop)),
             splat(_signal(coarse)), splat(_signal(fine)))
    step.half_step(net, s, now, s.coarse_inputs, terms, 0)
    coarse = _byte(net.coarse, net.limit, s, 1 - now, 0, word0,
                   coarse_temperature, out, 2 * t)
    step.half_step(net, s, now, s.fine_inputs,
                       terms + (splat(_signal(coarse)),), half // LANES)
    fine = _byte(net.fine, net.limit, s, 1 - now, 1, word1,
                 fine_temperature, out, 2 * t + 1)
    now = 1 - now


@numba.extending.register_jitable
def _set_frames(s, gate_inputs, frame, last):
  frame0 = simd.offset(gate_inputs, 3 * s.units * min(frame, last))
  frame1 = simd.offset(gate_inputs, 3 * s.units * min(frame + 1, last))
  step.set_frames(s.coarse_inputs, 4, frame0, frame1, s.units, 0)
  step.set_frames(s.fine_inputs, 5, frame0, frame1, s.units, s.units // 2)


@numba.extending.register_jitable
def _signal(byte):
  """audio.scale_byte: one rounding, so that all engines agree to the last bit."""
  return np.float32(2 * byte - 255) * BYTE_STEP


@numba.extending.register_jitable
def _byte(head, limit, s, now, side, word, temperature, out, place):
  """Draw or score one byte from its half of the new state."""
  first = now * s.units + side * (s.units // 2)
  greatest = step.head_logits(head, s, first, limit)
  total = step.softmax_weights(s, greatest, temperature)
  if out.with_logits:
    for level in range(0, LEVELS, LANES):
      simd.store(out.logits, LEVELS * place + level, simd.load(s.logits, level))
  if out.forced:
    code = np.int64(simd.item(out.codes, place))
    simd.put(out.nats, place, step.log_probability(
        s.logits, code, greatest, total, temperature))
    return code
  if temperature == 0:
    code = step.most_likely(s.logits)
  else:
    code = step.draw(s.weights, total, random.uniform(word))
  simd.put(out.codes, place, code)
  return code


_loop = numba.njit(**OPTIONS)(_run)


def _cached_run(network, memory, frames, hop, position, coarse, fine, index, key0, key1,
                coarse_temperature, fine_temperature, codes, forced, nats, logits):
  _loop(network, memory, frames, hop, position, coarse, fine, index, key0, key1,
        coarse_temperature, fine_temperature, codes, forced, nats, logits)


run = cache.cached(_cached_run, **OPTIONS)
