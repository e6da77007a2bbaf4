"""Checksums beside the files of a checkpoint, so that no changed bit goes unnoticed.

A seal is the file `seal` in the folder of a checkpoint: a line with the digest of the
rest, then a JSON object with the size and the digest of every file. It is written as
soon as the checkpoint is complete and all its files have reached the disk. Checkpoints
of earlier versions have no seal, nor has one whose process was killed at that moment.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import threading

from wavernn_jax import files

_NAME = 'seal'
_POLL_SECONDS = 0.02


def write(folder) -> None:
  """Seals a complete checkpoint."""
  folder = pathlib.Path(folder)
  found = {}
  for path in sorted(folder.rglob('*')):
    if path.is_dir():
      files.sync_folder(path)
    elif path.name != _NAME:
      data = path.read_bytes()
      with open(path, 'rb') as file:
        os.fsync(file.fileno())
      found[path.relative_to(folder).as_posix()] = [len(data), _digest(data)]
  text = json.dumps(found, separators=(',', ':')).encode()
  with files.replacing(folder / _NAME) as file:
    file.write(_digest(text).encode() + b'\n' + text)
  files.sync_folder(folder.parent)


def damage(folder) -> str:
  """What is wrong with a checkpoint; '' if nothing is, or if it was never sealed."""
  folder = pathlib.Path(folder)
  try:
    line, _, text = (folder / _NAME).read_bytes().partition(b'\n')
  except FileNotFoundError:
    return ''
  except OSError as error:
    return f'{_NAME} cannot be read ({error.strerror})'
  if line != _digest(text).encode():
    return f'{_NAME} has other contents than were written'
  for name, (size, digest) in json.loads(text).items():
    try:
      data = (folder / name).read_bytes()
    except OSError as error:
      return f'{name} cannot be read ({error.strerror})'
    if len(data) != size:
      return f'{name} has {len(data)} bytes, {size} were written'
    if _digest(data) != digest:
      return f'{name} has other contents than were written'
  return ''


def is_sealed(folder) -> bool:
  return (pathlib.Path(folder) / _NAME).exists()


def _digest(data: bytes) -> str:
  return hashlib.blake2b(data, digest_size=32).hexdigest()


class Sealer:
  """Seals a checkpoint in a thread of its own, once its folder has its final name."""

  def __init__(self):
    self._thread, self._given_up = None, threading.Event()

  def start(self, folder) -> None:
    """Waits for the folder, then seals it."""
    self._given_up = threading.Event()
    self._thread = threading.Thread(target=self._seal, args=(pathlib.Path(folder),), daemon=True)
    self._thread.start()

  def _seal(self, folder: pathlib.Path) -> None:
    while not folder.is_dir():
      if self._given_up.wait(_POLL_SECONDS) and not folder.is_dir():
        return
    with contextlib.suppress(OSError, ValueError):  # without a seal it is just not checked
      write(folder)

  def finish(self) -> None:
    """Returns once the seal is written. Call it when the save has ended, even by an error."""
    self._given_up.set()
    if self._thread is not None:
      self._thread.join()
      self._thread = None
