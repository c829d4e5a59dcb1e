"""Records on disk: reading back, and what survives a kill."""

import json
import os
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from r1jax.metrics import writer


def row(text='x', **changes):
  return {
    'id': 'a',
    'problem': 'p',
    'answer': '1',
    'response': text,
    'reward': 1.0,
    'parts': {'math': 1.0},
    'length': 1,
    'stop': 'eos',
    **changes,
  }


def events(workdir):
  """Parses the event files by their framing: u64 length, u32 crc, data, u32 crc."""
  out = []
  for path in sorted((workdir / 'tb').iterdir()):
    data = path.read_bytes()
    while data:
      (size,) = struct.unpack('<Q', data[:8])
      out.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[12 + size + 4 :]
  return out


def scalars(workdir):
  return [(event.step, value.tag, value.simple_value) for event in events(workdir) for value in event.summary.value]


def test_metrics_come_back_merged_by_step(tmp_path):
  with writer.Writer(tmp_path) as run:
    run.write(0, {'eval/pass@1': np.float32(0.25)})
    run.write(0, {'reward/mean': 1})
    run.write(1, {'reward/mean': np.array(2.5)})
  assert writer.read_metrics(tmp_path) == [
    {'step': 0, 'eval/pass@1': 0.25, 'reward/mean': 1.0},
    {'step': 1, 'reward/mean': 2.5},
  ]


def test_lines_and_events_are_on_disk_before_close(tmp_path):
  run = writer.Writer(tmp_path)
  run.write(3, {'a': 1.5})
  assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {'step': 3, 'a': 1.5}
  assert scalars(tmp_path) == [(3, 'a', 1.5)]
  run.close()


def test_non_finite_is_null_and_no_event(tmp_path):
  with writer.Writer(tmp_path) as run:
    run.write(0, {'a': float('nan'), 'b': float('inf'), 'c': 2.0})
  line = (tmp_path / 'metrics.jsonl').read_text()
  assert json.loads(line, parse_constant=pytest.fail) == {'step': 0, 'a': None, 'b': None, 'c': 2.0}
  assert scalars(tmp_path) == [(0, 'c', 2.0)]


def test_a_metric_may_not_be_called_step(tmp_path):
  with writer.Writer(tmp_path) as run, pytest.raises(ValueError, match="'step'"):
    run.write(0, {'step': 1.0})


def test_resume_drops_later_steps_everywhere(tmp_path):
  with writer.Writer(tmp_path) as run:
    for step in range(6):
      run.write(step, {'a': step})
      run.samples(step, [row()])
  with writer.Writer(tmp_path) as run:
    run.resume(4)
    run.write(4, {'a': 40})
  assert [(r['step'], r['a']) for r in writer.read_metrics(tmp_path)] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 40)]
  assert list(writer.read_samples(tmp_path)) == [0, 1, 2, 3]
  # TensorBoard hides earlier events at or after the step of a START.
  starts = [event.step for event in events(tmp_path) if event.HasField('session_log')]
  assert starts == [4]
  assert len(list((tmp_path / 'tb').iterdir())) == 2


@pytest.mark.parametrize('resume', [False, True])
def test_a_partial_last_line_is_dropped_and_does_not_swallow_the_next(tmp_path, resume):
  with writer.Writer(tmp_path) as run:
    run.write(0, {'a': 1})
    run.write(1, {'a': 2})
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-4])
  assert [r['step'] for r in writer.read_metrics(tmp_path)] == [0]
  with writer.Writer(tmp_path) as run:
    if resume:
      run.resume(1)
    run.write(1, {'a': 3})
  assert [(r['step'], r['a']) for r in writer.read_metrics(tmp_path)] == [(0, 1), (1, 3)]


def test_a_complete_last_line_without_a_line_end_is_kept(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 0, "a": 1}')
  with writer.Writer(tmp_path) as run:
    run.write(1, {'a': 2})
  assert [r['step'] for r in writer.read_metrics(tmp_path)] == [0, 1]


def test_damage_inside_the_file_names_the_line(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 0}\n{"step": \n{"step": 2}\n')
  with pytest.raises(writer.RecordError, match='line 2'):
    writer.read_metrics(tmp_path)
  with pytest.raises(writer.RecordError, match='metrics.jsonl is missing'):
    writer.read_metrics(tmp_path / 'nowhere')


def test_samples_come_back_as_written(tmp_path):
  text = '等等\u2028\n"quoted" \\ \udc80'
  rows = [row(text, reward=np.float32(0.5), length=np.int32(7), parts={'math': float('nan')})]
  path = writer.Writer(tmp_path).samples(12, rows)
  assert path.name == 'step_000012.jsonl'
  assert writer.read_samples(tmp_path) == {12: [{**rows[0], 'parts': {'math': None}}]}


def test_samples_are_replaced_atomically(tmp_path, monkeypatch):
  run = writer.Writer(tmp_path)
  run.samples(5, [row('old')])
  with pytest.raises(TypeError):
    run.samples(5, [row('new'), row(object())])
  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('no space left')))
    with pytest.raises(OSError):
      run.samples(5, [row('new')])
    with pytest.raises(OSError):
      run.samples(6, [row('new')])
  assert {step: [r['response'] for r in rows] for step, rows in writer.read_samples(tmp_path).items()} == {5: ['old']}
