"""Sampling and teacher forcing on one CPU core (§3).

A whole call is one compiled function that holds no GIL, so utterances run on
threads. Randomness is a function of (seed, utterance, sample index) only, and
all state is in `State`: a stream cut anywhere gives the samples of one call.
"""

import concurrent.futures
import typing

import numba
import numpy as np

from wavernn_jax.sampling.cpu import cache, hear, layout, random, simd, step

WIDTH, LEVELS = 16, 256
OPTIONS = {'nogil': True, 'error_model': 'numpy'}  # of the compiler


class State(typing.NamedTuple):
  """Where a stream stands: h [H], the last samples int16 [N], and the index of the next one."""
  h: np.ndarray
  pcm: np.ndarray
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
  """What the compiled loop writes beside samples; where `forced`, samples are given."""
  nats: np.ndarray
  logits: np.ndarray
  forced: bool
  with_logits: bool


def initial_state(network, past=1):
  """The state before an utterance: h is 0, and so are the last `past` samples."""
  units = network.coarse_inputs.shape[0] * 2 * layout.WIDTH
  return State(np.zeros(units, np.float32), np.zeros(past, np.int16), 0)


def sample(network, frames_FxG, count, hop, state, options=DEFAULTS, position=0,
           predictor=None):
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
    predictor: None, or a hear.Predictor of the same frames.

  Returns:
    int16 [count], and the State after them.
  """
  made, state, _ = _call(network, frames_FxG, hop, state, options, position, predictor,
                         np.zeros(count, np.int16), forced=False)
  return made, state


def score(network, frames_FxG, pcm_T, hop, state, position=0, with_logits=False,
          predictor=None):
  """Teacher-forced log likelihood of given samples, by the sampler's own step.

  Args as for `sample`; `pcm_T` is int16.

  Returns:
    Scores, and the State after the samples.
  """
  _, state, scores = _call(network, frames_FxG, hop, state, Options(), position, predictor,
                           np.asarray(pcm_T, np.int16), forced=True, with_logits=with_logits)
  return scores, state


def sample_many(network, jobs, threads):
  """`sample(network, **job)` for each job, on several threads, in order."""
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    return list(pool.map(lambda job: sample(network, **job), jobs))


def scratch(network):
  """Working memory for one stream; not to be shared between threads."""
  units = network.coarse_inputs.shape[0] * 2 * layout.WIDTH
  hidden = len(network.coarse.project_bias)
  return step.Scratch(
      units, hidden, _activations(2 * units), _activations(hidden),
      layout.aligned(LEVELS, np.float32), layout.aligned(LEVELS + 16, np.float32),
      layout.aligned_copy(network.coarse_inputs), layout.aligned_copy(network.fine_inputs),
      network.coarse_inputs.shape[2], network.fine_inputs.shape[2],
      np.zeros(layout.residuals(network), np.float32))


def _activations(count):
  return step.Activations(
      layout.aligned(count, np.float32), layout.aligned(count, np.int16))


def load_state(network, memory, h):
  """Starts the working memory from a state [H]."""
  units = memory.units
  memory.h.plain[:units] = h
  memory.h.short[:units] = np.rint(np.clip(h, -1, 1) * network.limit)


def _call(network, frames, hop, state, options, position, predictor, pcm, forced,
          with_logits=False):
  """Samples after `state`, the State after them, and Scores."""
  frames = np.ascontiguousarray(frames, np.float32)
  _check(network, frames, hop, state, position, predictor)
  s, count, past = scratch(network), len(pcm), len(state.pcm)
  load_state(network, s, state.h)
  scores = Scores(np.zeros((count if forced else 0, 2), np.float32),
                  np.zeros((count if with_logits else 0, 2, LEVELS), np.float32))
  lead = hear.lead(past)
  tape = np.concatenate([np.zeros(lead - past, np.int16), state.pcm, pcm])
  run(network, s, frames, hop, position, predictor, tape, lead, np.uint64(state.index),
      np.uint32(options.seed), np.uint32(options.utterance),
      float(options.coarse_temperature), float(options.fine_temperature), forced, *scores)
  h_2xH = s.h.plain.reshape(2, s.units)
  after = State(h_2xH[count % 2].copy(), tape[len(tape) - past:].copy(), state.index + count)
  return tape[lead:], after, scores


def _check(network, frames, hop, state, position, predictor):
  units = network.coarse_inputs.shape[0] * 2 * layout.WIDTH
  if frames.ndim != 2 or frames.shape[1] != 3 * units or not len(frames):
    raise ValueError(
        f'frames of shape {frames.shape}; {units} units need [F > 0, {3 * units}]')
  if np.shape(state.h) != (units,):
    raise ValueError(f'a state of shape {np.shape(state.h)}, expected ({units},)')
  past, width = len(state.pcm), 0 if predictor is None else predictor.width
  if not past if predictor is None else hear.padded(past - len(predictor.lags)) != width:
    raise ValueError(f'a state of {past} samples, expected those of {width} taps')
  if predictor is not None and len(predictor.taps) != len(frames):
    raise ValueError(f'predictions of {len(predictor.taps)} frames, expected {len(frames)}')
  if hop < 1 or position < 0:
    raise ValueError(f'hop {hop} must be positive, position {position} not negative')


def _run(network, memory, frames, hop, position, predictor, pcm, lead, index, key0, key1,
         coarse_temperature, fine_temperature, forced, nats, logits):
  """The loop over samples; fills `pcm` from `lead` on, or `nats` and `logits` if forced."""
  net, s, gate_inputs = simd.borrow(network), simd.borrow(memory), simd.borrow(frames)
  p, samples = simd.borrow(predictor), simd.borrow(pcm)
  out = simd.borrow(Output(nats, logits, forced, len(logits) > 0))
  half, frame, now = s.units // 2, -1, 0
  hear.start(p, s.tape, samples, lead, position, hop, len(frames))
  for t in range(len(pcm) - lead):
    if (position + t) // hop != frame:
      frame = (position + t) // hop
      _set_frames(s, gate_inputs, frame, len(frames) - 1)
    word0, word1 = random.threefry(key0, key1, index + np.uint64(t))
    rest, place = (position + t) % hop, lead + t
    at = hear.before(p, place, position + t, hop, len(frames), samples)
    terms = hear.terms(p, at, s.tape, samples, place, np.float32(hop - rest) / np.float32(hop),
                       np.float32(rest) / np.float32(hop))
    known = hear.code(at, np.int64(simd.item(samples, place)))
    step.half_step(net, s, now, s.coarse_inputs, terms, 0)
    coarse = _byte(net.coarse, net.limit, s, 1 - now, 0, word0, coarse_temperature, out, 2 * t,
                   hear.prior(p, at, 0, 0), known >> 8)
    step.half_step(net, s, now, s.fine_inputs, hear.with_coarse(at, terms, coarse),
                   half // WIDTH)
    fine = _byte(net.fine, net.limit, s, 1 - now, 1, word1, fine_temperature, out, 2 * t + 1,
                 hear.prior(p, at, 1, coarse), known & 255)
    if not forced:
      simd.put(samples, place, hear.sample(at, 256 * coarse + fine))
    hear.remember(p, at, s.tape, np.int64(simd.item(samples, place)))
    now = 1 - now


@numba.extending.register_jitable
def _set_frames(s, gate_inputs, frame, last):
  frame0 = simd.offset(gate_inputs, 3 * s.units * min(frame, last))
  frame1 = simd.offset(gate_inputs, 3 * s.units * min(frame + 1, last))
  step.set_frames(s.coarse_inputs, s.coarse_rows, frame0, frame1, s.units, 0)
  step.set_frames(
      s.fine_inputs, s.fine_rows, frame0, frame1, s.units, s.units // 2)


@numba.extending.register_jitable
def _byte(head, limit, s, now, side, word, temperature, out, place, prior, known):
  """Draw or score one byte from its half of the new state."""
  first = now * s.units + side * (s.units // 2)
  greatest = step.head_logits(head, s, first, limit, prior)
  total = step.softmax_weights(s, greatest, temperature)
  if out.with_logits:
    for level in range(0, LEVELS, WIDTH):
      simd.store(out.logits, LEVELS * place + level, simd.load(s.logits, level))
  if out.forced:
    simd.put(out.nats, place, step.log_probability(
        s.logits, known, greatest, total, temperature))
    return known
  if temperature == 0:
    return np.int64(step.most_likely(s.logits))
  return np.int64(step.draw(s.weights, total, random.uniform(word)))


_loop = numba.njit(**OPTIONS)(_run)


def _cached_run(network, memory, frames, hop, position, predictor, pcm, lead, index, key0, key1,
                coarse_temperature, fine_temperature, forced, nats, logits):
  _loop(network, memory, frames, hop, position, predictor, pcm, lead, index, key0, key1,
        coarse_temperature, fine_temperature, forced, nats, logits)


run = cache.cached(_cached_run, **OPTIONS)
