"""Files that appear whole or not at all, turns, folders of one's own, and folders walked."""

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import time

import pytest

from wavernn_jax import files
from wavernn_jax.errors import InputError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root may')


class FullDisk:
  """A file of a disk with room for so many bytes."""

  def __init__(self, file, room):
    self._file, self._room = file, room

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()

  def write(self, data):
    self._room -= len(data)
    if self._room < 0:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return self._file.write(data)

  def __getattr__(self, name):
    return getattr(self._file, name)


@pytest.fixture
def full_disk(monkeypatch):
  """full_disk(room): what `files.replacing` writes is on a disk with room for so many bytes."""
  def fill(room):
    monkeypatch.setattr(files, 'open', lambda *args: FullDisk(open(*args), room), raising=False)
  return fill


# Replacing


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, full_disk):
  path = tmp_path / 'a.txt'
  files.write_text(path, 'before')
  full_disk(room=3)
  with pytest.raises(files.DiskFull, match=r'a\.txt: cannot be written \(No space left'):
    files.write_text(path, 'after')
  assert path.read_text() == 'before' and os.listdir(tmp_path) == ['a.txt']


def test_a_pipe_a_socket_and_a_folder_are_not_replaced(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  with socket.socket(socket.AF_UNIX) as held:
    held.bind(str(tmp_path / 'socket'))
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'link').symlink_to('pipe')
    before = {p.name: p.lstat().st_ino for p in tmp_path.iterdir()}
    for name, kind in (('pipe', 'a named pipe'), ('socket', 'a socket'), ('folder', 'a folder'),
                       ('link', 'a named pipe')):
      with pytest.raises(InputError, match=f'{name}: found {kind}, expected a file'):
        files.write_text(tmp_path / name, 'text')
  assert {p.name: p.lstat().st_ino for p in tmp_path.iterdir()} == before


@as_root
def test_a_device_is_not_replaced(tmp_path):
  null = tmp_path / 'null'
  try:
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
  except PermissionError:
    pytest.skip('no device can be made here')
  with pytest.raises(InputError, match='null: found a device, expected a file'):
    files.write_text(null, 'text')
  assert stat.S_ISCHR(null.stat().st_mode)


# Turns


@pytest.fixture
def temporary(tmp_path, monkeypatch):
  """The folder of temporary files."""
  monkeypatch.setattr(files.tempfile, 'gettempdir', lambda: str(tmp_path))
  return tmp_path


def test_a_turn_waits_for_the_other_one_and_not_for_ever(temporary):
  with files.turn('t'):
    lock, = temporary.glob('*/t.lock')
    assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o700
    with open(lock) as again, pytest.raises(BlockingIOError):
      fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    start = time.monotonic()
    with files.turn('t', seconds=0.3):
      assert 0.3 <= time.monotonic() - start < 5
  with open(lock) as free:
    fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_turn_follows_no_link(temporary):
  victim = temporary / 'victim'
  victim.write_text('kept')
  (files.private_folder() / 't.lock').symlink_to(victim)
  with files.turn('t'), open(victim) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
  assert victim.read_text() == 'kept'


@pytest.mark.parametrize('planted', ['link', 'open folder', 'file'])
def test_a_planted_folder_is_not_used(temporary, planted):
  folder = temporary / f'wavernn-{os.geteuid()}'
  if planted == 'link':
    (temporary / 'elsewhere').mkdir(mode=0o700)
    folder.symlink_to(temporary / 'elsewhere')
  elif planted == 'file':
    folder.touch()
  else:
    folder.mkdir()
    folder.chmod(0o777)
  with files.turn('t'):
    assert not list(temporary.rglob('t.lock'))


# Who may write


def test_folders_that_others_may_write_are_told(tmp_path):
  folder = tmp_path / 'a' / 'b'
  folder.mkdir(parents=True)
  folder.chmod(0o755)
  assert not files.others_may_write(folder)
  folder.chmod(0o757)
  assert files.others_may_write(folder)
  folder.chmod(0o1777)  # there others may put new files
  assert files.others_may_write(folder)
  folder.chmod(0o755)
  folder.parent.chmod(0o777)  # there others may put another b
  assert files.others_may_write(folder)
  folder.parent.chmod(0o1777)  # as in /tmp
  assert not files.others_may_write(folder)


@as_root
def test_folders_of_others_are_told_but_for_the_trusted(tmp_path):
  folder = tmp_path / 'a'
  folder.mkdir(mode=0o755)
  os.chown(folder, 12_345, -1)
  assert files.others_may_write(folder)
  assert not files.others_may_write(folder, trusted=(12_345,))
  os.chown(folder, 0, 12_345)
  folder.chmod(0o775)  # a group that is nobody's own
  assert files.others_may_write(folder)


# Walking


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path):
  outside = tmp_path / 'outside'
  root = tmp_path / 'root'
  for folder in (outside / 'deep', root / 'z'):
    folder.mkdir(parents=True)
  for path in (outside / 'o.wav', outside / 'deep' / 'd.wav', root / 'r.wav', root / 'z' / 'q.wav'):
    path.touch()
  (root / 'a').symlink_to(root / 'z')  # sorts before what it leads to
  (root / 'loop').symlink_to(root)
  (root / 'more').symlink_to(outside)
  (outside / 'deep' / 'back').symlink_to(outside)
  (root / 'broken.wav').symlink_to(tmp_path / 'nowhere')
  names = [p.relative_to(root).as_posix() for p in files.walk(root)]
  assert names == ['broken.wav', 'more/deep/d.wav', 'more/o.wav', 'r.wav', 'z/q.wav']


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'x.wav').touch()
  scandir = os.scandir

  def refuse(path):
    if str(path).endswith('/a'):
      raise PermissionError(errno.EACCES, 'Permission denied', str(path))
    return scandir(path)
  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.warns(UserWarning, match=r'/a: cannot be read \(Permission denied\)'):
    assert files.walk(tmp_path) == [tmp_path / 'b' / 'x.wav']


# Sound on a full disk

_SPEAK = '''
import resource, sys
import numpy as np
from wavernn_jax import audio
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
  audio.write_wav(sys.argv[1], np.arange(20_000, dtype=np.int16), 8_000)
except audio.InputError as error:
  print(f'refused: {error}')
'''


def test_a_wav_that_does_not_fit_is_refused_also_without_assertions(tmp_path):
  path = tmp_path / 'a.wav'
  done = subprocess.run([sys.executable, '-O', '-c', _SPEAK, str(path)], text=True,
                        capture_output=True, check=False)
  assert done.stdout.startswith(f'refused: {path}: cannot be written (File too large'), done
  assert done.stderr == '' and not os.listdir(tmp_path)
