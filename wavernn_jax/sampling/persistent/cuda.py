"""The persistent kernel for NVIDIA GPUs: weights packed for persistent.cu, and its call.

Why CUDA C++ and not Pallas: Mosaic GPU computes in warpgroups on tiles made for
tensor cores, while a sample of one stream is five matrix-vector products whose
time is latency. What decides it here, one 64-bit word that carries a number
and the sample it belongs to, so that multiprocessors exchange vectors without
any barrier, and weights in shared memory multiplied from registers by single
threads, Pallas does not express. And CUDA C++ can be tested without a GPU:
nvcc compiles it to machine code, and the same source runs on the CPU against a
small emulation of threads (tests/cuda_emulation.h).

A plan divides the chip into teams of multiprocessors, each with a whole copy of
the weights. Dense models take large teams; a 95% sparse model of 1024 units
fits one multiprocessor in int8 and two in bfloat16, and a team of one exchanges
nothing: a stream for each.
"""

import ctypes
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax.likelihood import BYTE_VALUES
from wavernn_jax.models import hearing
from wavernn_jax.sampling import blocksparse
from wavernn_jax.sampling.persistent import driver as driver_lib, ffi
from wavernn_jax.sampling.persistent.operands import Filters, Operands, round_up

BLOCK = blocksparse.BLOCK_SIZE  # outputs of a block row
STREAMS = (1, 2, 4, 8)
_TYPES = {'float32': (0, 4), 'bfloat16': (1, 2), 'int8': (2, 1)}  # macro, bytes
_DENSE = 0.5  # density above which all blocks are kept and no index is read
# The structures Row and Share of persistent.cu.
ROW = np.dtype([('begin', '<i4'), ('count', '<u2'), ('index', '<u2')])
_ROWS_AT = 32
_MAX_THREADS = 512
_SPINS = 1 << 22  # polls, seconds, until a number that does not come is given up
# Guesses for `choose`, in microseconds, until experiments/benchmarks/accelerator.py has
# been run on a GPU: an exchange; the rest of a sample, and more for each stream; reading
# a block, and multiplying it by one stream.
_EXCHANGE, _REST, _STREAM, _READ, _MULTIPLY = 0.6, 1.0, 0.25, 1.5e-4, 1e-4


@dataclasses.dataclass(frozen=True)
class Matrices:
  """The five matrices as block rows, in the kernel's order R, O1, O2, O3, O4."""
  packed: tuple[blocksparse.PackedMatrix, ...]
  dense: bool

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """Blocks of each block row of all matrices."""
    return np.concatenate([np.diff(m.offsets.astype(np.int64)) for m in self.packed])

  @functools.cached_property
  def owners(self) -> np.ndarray:
    """The matrix of each block row."""
    return np.repeat(np.arange(len(self.packed)), [len(m.offsets) - 1 for m in self.packed])

  @functools.cached_property
  def scales(self) -> np.ndarray:
    """That of each output of all matrices; a number without use if they are not int8."""
    if self.packed[0].scales is None:
      return np.ones(1, np.float32)
    return np.concatenate([m.scales for m in self.packed])


@dataclasses.dataclass(frozen=True)
class Plan:
  """How streams are spread over a chip; in the names of persistent.cu.

  Attributes:
    team: multiprocessors that share one copy of the weights.
    streams: utterances of a team.
    teams: teams of a launch.
    macros: what the source is compiled with.
    shared_bytes: of each block.
  """
  team: int
  streams: int
  teams: int
  macros: tuple[tuple[str, int], ...]
  shared_bytes: int

  @property
  def batch(self) -> int:
    """Utterances of a launch."""
    return self.streams * self.teams


def pack(operands: Operands, weights: str, kept: Operands | None = None) -> Matrices:
  """The blocks that a model keeps; all of them if that is most.

  Args:
    operands: of the model.
    weights: type of the matrices.
    kept: the same of ones where weights are kept, and zeros; None if all are.
  """
  masks = [None] * 5 if kept is None else [
      m.reshape(len(m) // BLOCK, BLOCK, -1).any(axis=1) for m in _outputs_first(kept)]
  dense = kept is None or sum(m.sum() for m in masks) > _DENSE * sum(m.size for m in masks)
  return Matrices(tuple(
      blocksparse.pack(m, (BLOCK, 1), weights, None if dense else mask)
      for m, mask in zip(_outputs_first(operands), masks, strict=True)), bool(dense))


def _outputs_first(operands: Operands) -> list[np.ndarray]:
  """The five matrices [outputs, inputs], in the kernel's order."""
  recurrent, hidden, output = (np.asarray(a) for a in (
      operands.recurrent, operands.hidden, operands.output))
  return [m.T for m in (recurrent, hidden[0], output[0], hidden[1], output[1])]


def rounded(kernel_NxO, weights: str):
  """A kernel, inputs first, as a packed one multiplies: what the kernel is compared with."""
  kernel = np.asarray(kernel_NxO, np.float32)
  padded = np.pad(kernel.T, [(0, -kernel.shape[1] % BLOCK), (0, 0)])
  packed = blocksparse.pack(padded, (BLOCK, 1), weights)
  return blocksparse.unpack(packed)[:kernel.shape[1]].T


def layout(operands: Operands, matrices: Matrices, team: int, streams: int):
  """(macros, bytes of shared memory) of a team size and a number of streams."""
  half, projection = operands.half, operands.projection
  threads = round_up(-(-half // -(-half // _MAX_THREADS)), 32)
  member = np.arange(len(matrices.counts)) % team
  blocks = int(np.bincount(member, matrices.counts, team).max())
  rows = int(np.bincount(member, minlength=team).max())
  local = np.bincount(member * 5 + matrices.owners, minlength=5 * team)
  cut = ((local > 0) & (local < threads // 32)).any()
  kind, itemsize = _TYPES[matrices.packed[0].dtype]
  macros = {
      'HALF': half, 'PROJECTION': projection, 'TEAM': team, 'STREAMS': streams, 'THREADS': threads,
      'WEIGHTS': kind, 'DENSE': int(matrices.dense), 'ROWS': rows,
      'VALUES': blocks * BLOCK * itemsize, 'INDICES': 1 if matrices.dense else blocks,
      'PARTIALS': threads // 32 if cut else 0, 'SPINS': _SPINS, 'TAPS': operands.taps,
      'RESIDUALS': len(operands.previous) // 2 - 1, 'BOUND': int(hearing.BOUND)}
  shared = (share_bytes(macros) + 4 * streams * (2 * half + projection)
            + 8 * (macros['PARTIALS'] * BLOCK * streams + 1)
            + 4 * (BYTE_VALUES * streams if team == 1 else 1)
            + _tape_bytes(operands.taps, streams, len(operands.previous)))
  return tuple(macros.items()), round_up(shared, 16)


def _tape_bytes(taps: int, streams: int, heard: int) -> int:
  """Size of the structure Tape of hearing.cuh."""
  return round_up(4 * streams * (heard + 2) + (4 * streams + 2 * taps * streams if taps else 6), 4)


def share_bytes(macros) -> int:
  """Size of a member's weights, the structure Share."""
  return round_up(_values_at(macros) + macros['VALUES'] + 2 * macros['INDICES'], 16)


def _values_at(macros) -> int:
  return round_up(_ROWS_AT + ROW.itemsize * macros['ROWS'], 16)


def choose(operands: Operands, matrices: Matrices, chip: driver_lib.Chip,
           batch: int) -> Plan | None:
  """The plan of the least estimated time for a batch, or None if the chip is too small.

  Batches of more than a launch holds are made in several.
  """
  best, least = None, np.inf
  widest = min(chip.processors, 6 * operands.half // BLOCK)  # each member has a row of R
  for team in sorted({min(widest, chip.processors // n) for n in range(1, chip.processors + 1)}):
    for streams in STREAMS:
      macros, shared = layout(operands, matrices, team, streams)
      if shared > chip.shared_bytes:
        continue
      groups, available = -(-batch // streams), chip.processors // team
      launches, teams = -(-groups // available), min(groups, available)
      blocks = dict(macros)['VALUES'] / BLOCK / _TYPES[matrices.packed[0].dtype][1]
      time = launches * (4 * _EXCHANGE * (team > 1) + _REST + _STREAM * streams
                         + blocks * (_READ + _MULTIPLY * streams))
      if time < least:
        best, least = Plan(team, streams, teams, macros, shared), time
  return best


def room(operands: Operands, matrices: Matrices, chip: driver_lib.Chip) -> int:
  """Weights for which a chip has room, beside the vectors of one stream."""
  macros, shared = layout(operands, matrices, chip.processors, 1)
  vectors = shared - dict(macros)['VALUES']
  itemsize = _TYPES[matrices.packed[0].dtype][1]
  return max(0, chip.shared_bytes - vectors) * chip.processors // itemsize


def shares(matrices: Matrices, plan: Plan) -> np.ndarray:
  """Weights of each member as structures Share, uint32 [team, words]."""
  macros = dict(plan.macros)
  starts = np.concatenate([[0], np.cumsum(matrices.counts)])
  values = np.concatenate([m.values for m in matrices.packed])
  indices = np.concatenate([m.indices for m in matrices.packed]).astype(np.uint16)
  within = np.concatenate([np.arange(len(m.offsets) - 1) for m in matrices.packed])
  made = np.zeros((plan.team, share_bytes(macros)), np.uint8)
  for member in range(plan.team):
    own = np.arange(member, len(matrices.counts), plan.team)
    blocks = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in own])
    ends = np.cumsum(matrices.counts[own])
    first = np.searchsorted(matrices.owners[own], np.arange(6)).astype(np.int32)
    table = np.zeros(len(own), ROW)
    table['begin'], table['count'] = ends - matrices.counts[own], matrices.counts[own]
    table['index'] = within[own]
    at = _values_at(macros)
    pieces = {0: first, _ROWS_AT: table, at: values[blocks]}
    if not matrices.dense:
      pieces[at + macros['VALUES']] = indices[blocks]
    for offset, piece in pieces.items():
      data = np.frombuffer(np.ascontiguousarray(piece).tobytes(), np.uint8)
      made[member, offset:offset + len(data)] = data
  return made.view(np.uint32)


def add_kernel(plan: Plan, image: bytes, driver: driver_lib.Driver) -> int:
  """The number of a compiled plan's launch, for `sample`."""
  def launch(queue, arguments, results):
    (pcm, _), (h, _), (logits, _), failed, exchange = results
    inputs = (ctypes.c_void_p * len(arguments))(*(address for address, _ in arguments))
    rest = [ctypes.c_void_p(address) for address in (pcm, h, logits, failed[0], exchange[0])]
    driver.launch(image, 'sample', plan.team * plan.teams, dict(plan.macros)['THREADS'],
                  plan.shared_bytes, queue, [inputs, *rest], (failed, exchange))
  return ffi.add(launch)


def constants(operands: Operands, matrices: Matrices, plan: Plan) -> tuple:
  """What the kernel reads and never changes, as `sample` takes it."""
  return tuple(jnp.asarray(a) for a in (
      shares(matrices, plan), matrices.scales, operands.previous, operands.current,
      operands.hidden_bias, operands.output_bias))


def sample(kernel: int, plan: Plan, constants, gates_FxBxG, uniform_Tx2xB, h_BxH, pcm_B, positions,
           temperatures, forced_BxT=None, added_TxBxP=None, filters=None, platform: str = 'CUDA'):
  """Draws F − 2 frames of samples of each of `plan.batch` streams in one kernel.

  Args:
    kernel: of `add_kernel`.
    plan, constants: of the weights.
    gates_FxBxG, ..: as of tpu.sample, padded to 16.
    platform: 'cpu' in tests.

  Returns:
    int16 BxT, h_BxH after the last, the logits TxBx2xV with `forced_BxT`, else
    None, and whether the members lost one another.
  """
  left, pairs = positions
  frames, batch = gates_FxBxG.shape[0] - 2, len(h_BxH)
  samples, forced, macros = frames * len(left), forced_BxT is not None, dict(plan.macros)
  words = 2 * plan.streams * (6 * macros['HALF'] + 2 * macros['PROJECTION'] + 2 * BYTE_VALUES)
  shape = jax.ShapeDtypeStruct
  results = (shape((batch, samples), jnp.int32), shape(h_BxH.shape, jnp.float32),
             shape((samples, batch, 2, BYTE_VALUES) if forced else (1,), jnp.float32),
             shape((1,), jnp.uint32), shape((plan.teams, 2, words), jnp.uint32))
  pcm = pcm_B.astype(jnp.int32) if filters is None else filters.pcm
  arguments = (*constants, gates_FxBxG, left, pairs, uniform_Tx2xB, h_BxH, pcm,
               jnp.asarray(temperatures, jnp.float32),
               forced_BxT.astype(jnp.int32) if forced else jnp.zeros(1, jnp.int32),
               jnp.zeros(1) if added_TxBxP is None else added_TxBxP,
               jnp.asarray([frames, len(left), forced, batch, added_TxBxP is not None], jnp.int32),
               *_filters(filters))
  pcm, h, logits, failed, _ = ffi.call(kernel, results, [jnp.asarray(a) for a in arguments],
                                       platform)
  return pcm.astype(jnp.int16), h, logits if forced else None, failed[0] != 0


def _filters(filters: Filters | None):
  """The structure Filters of hearing.cuh."""
  if filters is None:
    return [jnp.zeros(1)] * 7
  return (filters.taps, filters.shift, filters.scale, filters.level, filters.slope,
          filters.nearest, filters.past)
