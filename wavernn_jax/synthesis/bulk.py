"""Synthesis of a corpus: idempotent, on any executor, with failures reported file by file.

An input is finished when its wav exists, as a wav is renamed into place once it is
complete. The output folder holds a record of the settings of its audio,
`synthesis.json`, and refuses others: two models or two seeds are never mixed.
"""

import codecs
import dataclasses
import json
import os
import pathlib
import time

from wavernn_jax import audio, files
from wavernn_jax.config import MelConfig
from wavernn_jax.errors import InputError
from wavernn_jax.synthesis import sources as sources_lib

_CHUNK = 8  # batches that a job synthesises
_RECORD = 'synthesis.json'


def find_inputs(path) -> dict[str, pathlib.Path]:
  """Inputs by name, from a manifest (.txt) or else by `sources.find_sources`.

  A manifest has a line for each input: its path, relative to the manifest and,
  after a tab, its name if that is not to follow from the path.

  Raises:
    InputError: if there are none, or a name is invalid or given twice.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() != '.txt' or not os.path.isfile(path):
    return sources_lib.find_sources(path)
  inputs = {}
  for number, line in enumerate(_lines(path), 1):
    file, _, name = line.partition('\t')
    if not file.strip():
      continue
    file = pathlib.Path(file.strip())
    default = file.stem if file.is_absolute() else file.with_suffix('').as_posix()
    name = name.strip() or default
    if name in inputs or name.startswith('/') or '..' in pathlib.PurePosixPath(name).parts:
      raise InputError(f'--input={path}, line {number}: found the name {name!r}, expected one '
                       'that no other input has, without .. or a leading /; put one after the '
                       'path and a tab.')
    inputs[name] = path.parent / file
  if not inputs:
    raise InputError(f'--input={path}: lists no input; expected a path in each line.')
  return inputs


def _lines(path: pathlib.Path) -> list[str]:
  """The lines of a manifest in UTF-8; file names that are not UTF-8 are kept as they are."""
  try:
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
  except OSError as error:
    raise InputError(f'--input={path}: cannot be read ({error.strerror}); give a text file '
                     'that you may read.') from error
  if b'\0' in data:
    raise InputError(f'--input={path}: found NUL bytes, as in UTF-16, expected a path in '
                     'each line; save it as UTF-8.')
  return os.fsdecode(data).splitlines()


def synthesize(inputs: dict[str, pathlib.Path], output, open_engine, mel: MelConfig,
               record: dict, executor, seed: int = 0, batch: int = 16,
               overwrite: bool = False) -> dict:
  """Synthesises every input that has no wav yet into output/NAME.wav.

  Args:
    inputs: of `find_inputs`.
    output: folder.
    open_engine: makes the engine in the process that needs it; must pickle.
    mel: convention of the model.
    record: the settings that the audio depends on.
    executor: of executors.py.
    seed: of the random numbers.
    batch: number of utterances at a time.
    overwrite: replace existing audio, whatever its settings.

  Returns:
    engine, files, skipped, failed (name -> reason), audio_seconds; seconds of sampling and
    compile_seconds, summed over workers; realtime_factor of one worker.

  Raises:
    InputError: if the folder cannot be written or holds audio of other settings,
      before anything is computed.
  """
  output = pathlib.Path(output).absolute()
  _make_folders(output, inputs)
  with files.lock(output / '.lock', f'--output={output}: another process writes there'):
    _check_record(output, inputs, record, overwrite)
    files.remove_unfinished(output, '.wav', _RECORD)
    waiting = [name for name in inputs if not os.path.exists(_wav(output, name))]
    job = ChunkSynthesis(open_engine, mel, output, seed, min(batch, len(inputs)))
    totals = dict.fromkeys(('audio_seconds', 'seconds', 'compile_seconds'), 0.0)
    failed, engine = {}, record['engine']
    for outcome in executor.run(job, _chunks(inputs, waiting, _CHUNK * batch)):
      if outcome.problem:
        failed |= {name: outcome.problem for name, _ in outcome.job.inputs
                   if not os.path.exists(_wav(output, name))}
        continue
      failed |= outcome.value['failed']
      engine = outcome.value['engine'] or engine
      totals = {name: total + outcome.value[name] for name, total in totals.items()}
    files.remove_unfinished(output, '.wav', _RECORD)
  done = sum(os.path.exists(_wav(output, name)) for name in waiting)
  factor = totals['audio_seconds'] / totals['seconds'] if totals['seconds'] else None
  return {'engine': engine, 'files': done, 'skipped': len(inputs) - len(waiting),
          'failed': failed, **totals, 'realtime_factor': factor}


@dataclasses.dataclass(frozen=True)
class Chunk:
  """The inputs of one job, (name, path), which are of similar size."""

  inputs: tuple
  title: str


class ChunkSynthesis:
  """The job that synthesises a Chunk. It keeps its engine from one chunk to the next."""

  def __init__(self, open_engine, mel: MelConfig, output: pathlib.Path, seed: int, batch: int):
    self._open_engine, self._mel, self._output = open_engine, mel, output
    self._seed, self._batch = seed, batch
    self._engine = None
    self._full = ''  # the reason once nothing more can be written

  def __call__(self, chunk: Chunk) -> dict:
    sources, failed = self._read(self._missing(chunk))
    compile_seconds = self._open() if sources else 0.0
    start, samples = time.perf_counter(), 0
    pairs = sources_lib.synthesize(
        self._engine, sources, self._seed, self._batch, chunk.title) if sources else ()
    for source, pcm in pairs:
      try:
        audio.write_wav(_wav(self._output, source.name), pcm, self._mel.sample_rate)
      except files.DiskFull as error:
        self._full = str(error)
        break
      except InputError as error:
        failed[source.name] = str(error)
      else:
        samples += len(pcm)
    if self._full:
      failed = dict.fromkeys((name for name, _ in self._missing(chunk)), self._full) | failed
    return {'engine': self._engine and self._engine.name, 'failed': failed,
            'compile_seconds': compile_seconds,
            'audio_seconds': samples / self._mel.sample_rate,
            'seconds': time.perf_counter() - start if sources else 0.0}

  def _missing(self, chunk: Chunk) -> list:
    """Inputs without a wav: an earlier attempt may have made some."""
    return [(name, path) for name, path in chunk.inputs
            if not os.path.exists(_wav(self._output, name))]

  def _read(self, inputs) -> tuple[list[sources_lib.Source], dict[str, str]]:
    """Sources, and by name why others cannot be used; both empty once the disk is full."""
    sources, failed = [], {}
    for name, path in inputs if not self._full else ():
      try:
        sources.append(sources_lib.load_source(name, path, self._mel))
      except InputError as error:
        failed[name] = str(error)
      except Exception as error:  # a damaged file makes readers raise nearly anything
        failed[name] = f'{path}: cannot be read ({type(error).__name__}: {error}).'
    return sources, failed

  def _open(self) -> float:
    """Makes the engine ready the first time; returns the seconds that this took."""
    start = time.perf_counter()
    if self._engine is None:
      self._engine = self._open_engine()
      self._batch = min(self._batch, self._engine.at_once)
      self._engine.warm_up(self._batch)
    return time.perf_counter() - start


def _wav(output: pathlib.Path, name: str) -> pathlib.Path:
  return output / f'{name}.wav'


def _make_folders(output: pathlib.Path, inputs) -> None:
  try:
    for folder in {_wav(output, name).parent for name in inputs} | {output}:
      folder.mkdir(parents=True, exist_ok=True)
    probe = output / '.writable'
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise InputError(f'--output={output}: cannot be written ({error.strerror}); give a '
                     'folder that you may write to.') from error


def _check_record(output: pathlib.Path, inputs, record: dict, overwrite: bool) -> None:
  """Records the settings in the folder, or checks that it already holds these."""
  present = [name for name in inputs if os.path.exists(_wav(output, name))]
  for name in present:
    if os.path.exists(inputs[name]) and _wav(output, name).samefile(inputs[name]):
      raise InputError(f'--output={output}: would overwrite the input {inputs[name]}; give another '
                       'folder.')
  if overwrite:
    for name in present:
      _wav(output, name).unlink()
    present = []
  path = output / _RECORD
  try:
    before = json.loads(path.read_text()) if path.exists() else None
  except ValueError:
    before = None
  record = json.loads(json.dumps(record))  # as it is read back
  if present and before is None:
    raise InputError(f'--output={output}: holds {present[0]}.wav, but no {_RECORD} that says how '
                     'it was made; give another folder, or --overwrite.')
  if before not in (None, record) and not overwrite:
    changed = ', '.join(f'{k}: {before.get(k)!r} there, {v!r} here'
                        for k, v in record.items() if before.get(k) != v)
    raise InputError(f'--output={output}: holds audio of other settings ({changed}); give '
                     'another folder, or --overwrite.')
  files.write_text(path, json.dumps(record, indent=1))


def _chunks(inputs, names, size: int) -> list[Chunk]:
  """Groups inputs of similar size, because a batch takes as long as its longest input."""
  def order(name):
    path = inputs[name]
    return path.suffix.lower(), -os.path.getsize(path) if os.path.exists(path) else 0, name
  names = sorted(names, key=order)
  starts = range(0, len(names), size)
  return [Chunk(tuple((name, inputs[name]) for name in names[start:start + size]),
                f'synthesis {i}/{len(starts)}') for i, start in enumerate(starts, 1)]
