"""The report: complete from the records, and model output never becomes markup."""

import html.parser
import json
import os
import subprocess
import sys

import pytest

from r1jax import templates
from r1jax.metrics import report, writer

EVIL = '</script><img src=x onerror="alert(1)"><!-- <script> & wait \u2028 \udc80 等等'


class Page(html.parser.HTMLParser):
  """Collects tags, the text of the data script, and every attribute that could load something."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.links, self.data, self.text, self._in_data = [], [], '', '', False
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.tags.append(tag)
    self._in_data = attributes.get('id') == 'data'
    self.links += [value for key, value in attributes.items() if key in ('src', 'href', 'xlink:href')]

  def handle_endtag(self, tag):
    self._in_data = False

  def handle_data(self, text):
    if self._in_data:
      self.data += text
    else:
      self.text += text


def run(folder, response=EVIL, steps=(0, 5, 10, 15), problems=2, samples=2, evil=''):
  with writer.Writer(folder) as out:
    for step in steps:
      out.write(step, {'eval/pass@1': step / 20, 'reward/mean': 0.5, 'response/length_mean': 10 + step})
      out.samples(
        step,
        [
          {
            'id': f'p{p}',
            'problem': f'{p} + {p}{evil}',
            'answer': f'{2 * p}{evil}',
            'response': response,
            'reward': 1.5,
            'parts': {f'math{evil}': 1.0, 'format': 0.5},
            'length': 9,
            'stop': 'eos',
          }
          for p in range(problems)
          for _ in range(samples)
        ],
      )
  return folder


def test_model_output_is_data_and_never_markup(tmp_path):
  tame = Page(report.report(run(tmp_path / 'a', response='fine')).read_text('utf-8'))
  text = report.report(run(tmp_path / 'b', evil=EVIL)).read_text('utf-8')
  page = Page(text)
  assert page.tags == tame.tags and 'img' not in page.tags
  assert page.tags.count('script') == 2
  assert '<' not in page.data  # not even `</script ` or `<!--`, which browsers also interpret
  completion = json.loads(page.data)['problems'][1]['at']['10'][0]
  assert ''.join(piece for _, piece in completion['text']) == EVIL
  assert json.loads(page.data)['problems'][1]['problem'] == '1 + 1' + EVIL
  assert 'onerror="alert' not in text
  for unsafe in ('innerHTML', 'outerHTML', 'insertAdjacent', 'document.write', 'eval('):
    assert unsafe not in text


def test_names_and_settings_are_escaped(tmp_path):
  folder = run(tmp_path / '<b>run<img src=x>')
  (folder / 'config.json').write_text(json.dumps({'seed': 3, 'data': {'path': EVIL}}))
  summary = {'base': {EVIL: 1}, 'final': {}, 'config': EVIL, 'seconds': {EVIL: 1.0}}
  (folder / 'summary.json').write_text(json.dumps(summary))
  page = Page(report.report(folder).read_text('utf-8'))
  assert 'img' not in page.tags and 'b' in page.tags
  assert '<b>run<img src=x>' in page.text and page.text.count('onerror=') == 4


def test_page_needs_no_network(tmp_path):
  text = report.report(run(tmp_path)).read_text('utf-8')
  page = Page(text)
  assert all(link.startswith('#') for link in page.links)
  assert "default-src 'none'" in text and '@import' not in text and 'fetch(' not in text
  assert page.tags.count('svg') == 3


def test_same_records_give_the_same_page(tmp_path):
  run(tmp_path)
  assert report.report(tmp_path).read_bytes() == report.report(tmp_path).read_bytes()


@pytest.mark.parametrize(
  'text',
  ['Wait, no: re-check. await, WAIT', '<think>等等, 重新检查</think><answer>3</answer>', '<THINK> wait', '', 'abc'],
)
def test_segments_mark_what_templates_count(text):
  cut = report.segments(text)
  assert ''.join(piece for _, piece in cut) == text
  assert all(piece for _, piece in cut)
  assert sum(kind == report.REFLECTION for kind, _ in cut) == templates.reflections(text)
  assert [piece for kind, piece in cut if kind == report.TAG] == [t for t in templates.TAGS if t in text]


def test_reader_opens_with_first_middle_and_last_step(tmp_path):
  data = report.reader(writer.read_samples(run(tmp_path, steps=(0, 10, 20, 30, 40))))
  assert data['steps'] == [0, 10, 20, 30, 40] and data['shown'] == [0, 20, 40]
  completion = data['problems'][0]['at'][20][1]
  assert completion['correct'] and completion['reward'] == 1.5 and completion['length'] == 9
  assert completion['parts'] == [('math', 1.0), ('format', 0.5)] and completion['stop'] == 'eos'
  assert report.reader({3: []})['shown'] == [3] and report.reader({})['shown'] == []


def test_reader_stays_within_its_budget(tmp_path, monkeypatch):
  samples = writer.read_samples(run(tmp_path, response='x' * 1000, problems=10, samples=20))
  samples[15] = samples[15] + [{**samples[15][0], 'id': 'late'}]
  monkeypatch.setattr(report, 'BUDGET', 4 * report.SAMPLES * 1500 * 3)
  data = report.reader(samples)
  assert data['total'] == 11 and 1 < len(data['problems']) < 6
  assert {len(rows) for p in data['problems'] for rows in p['at'].values()} == {report.SAMPLES}
  monkeypatch.setattr(report, 'BUDGET', 10)
  assert len(report.reader(samples)['problems']) == 1


@pytest.mark.parametrize(
  ('parts', 'fields', 'expected'),
  [
    ({'math': 1.0, 'format': 0.0}, {}, True),
    ({'math': 0.0, 'format': 1.0}, {}, False),
    ({'math': None}, {}, False),
    ({'format': 1.0}, {}, False),
    ({'math': 0.0}, {'correct': True}, True),
    ({'math': 1.0}, {'correct': False}, False),
  ],
)
def test_correctness_comes_from_the_row_or_from_its_accuracy_parts(parts, fields, expected):
  row = {
    'id': 1,
    'problem': 'p',
    'answer': '',
    'response': '',
    'reward': 0.0,
    'parts': parts,
    'length': 1,
    'stop': 'eos',
    **fields,
  }
  assert report.reader({0: [row]})['problems'][0]['at'][0][0]['correct'] is expected


def test_table_before_and_after():
  summary = {
    'base': {'pass@1': 0.15, 'cons@16': None, 'length_mean': 14.0, 'odd': 2.0},
    'final': {'pass@1': 0.76, 'cons@16': 0.98, 'length_mean': 42.0, 'odd': 3.0},
  }
  rows = {row['label']: (row['base'], row['final'], row['change']) for row in report.before_after(summary, [])}
  assert list(rows.values()) == [
    ('15.0%', '76.0%', '+61.0 points'),
    ('–', '98.0%', ''),
    ('14', '42', '× 3.00'),
    ('2', '3', '× 1.50'),
  ]
  assert 'Majority vote of 16 (cons@16)' in rows and 'odd' in rows


def test_table_of_an_unfinished_run():
  records = [
    {'step': 0, 'eval/pass@1': 0.1},
    {'step': 1, 'reward/mean': 1.0},
    {'step': 2, 'eval/pass@1': 0.3},
    {'step': 3, 'reward/mean': 1.0},
  ]
  (row,) = report.before_after({}, records)
  assert (row['base'], row['final']) == ('10.0%', '30.0%')
  assert report.before_after({}, records[1:2]) == []


def test_tables_by_kind_and_language(tmp_path):
  summary = {
    'base': {'pass@1': 0.1, 'kind/math/pass@1': 0.2, 'kind/math/length_mean': 12.0, 'language/zh/format': 0.0},
    'final': {'pass@1': 0.4, 'kind/math/pass@1': 0.5, 'kind/code/pass@1': 0.25, 'language/zh/format': 1.0},
  }
  kinds, languages = report.groups(summary, [])
  rows = {name: dict(zip(kinds['columns'], cells)) for name, cells in kinds['rows']}
  accuracy, length = report.LABELS['pass@1'], report.LABELS['length_mean']
  assert rows['math'][accuracy] == ('20.0%', '50.0%') and rows['code'][accuracy] == ('–', '25.0%')
  assert rows['math'][length] == ('12', '–')
  assert [name for name, _ in languages['rows']] == ['zh']
  assert [row['key'] for row in report.before_after(summary, [])] == [
    'pass@1'
  ]  # kinds and languages have their own tables
  (run(tmp_path) / 'summary.json').write_text(json.dumps(summary | {'base': {'kind/<i>/pass@1': 1.0}}))
  page = Page(report.report(tmp_path).read_text('utf-8'))
  assert 'By kind of problem' in page.text and '<i>' in page.text and 'i' not in page.tags
  assert report.groups({}, [{'step': 0, 'eval/pass@1': 0.1}]) == []


def test_command_line(tmp_path):
  command = [sys.executable, '-W', 'error::RuntimeWarning', '-m', 'r1jax.metrics.report']
  process = subprocess.run([*command, run(tmp_path)], capture_output=True, text=True, check=True)
  assert process.stdout.strip() == str(tmp_path / 'report.html')
  failed = subprocess.run([*command, tmp_path / 'none'], capture_output=True, text=True)
  assert failed.returncode == 1 and len(failed.stderr.strip().splitlines()) == 1 and 'missing' in failed.stderr


SAMPLE = {
  'id': 'p',
  'problem': '1',
  'answer': '1',
  'response': 'r',
  'reward': 1.0,
  'parts': {},
  'length': 1,
  'stop': 'eos',
}
DEEP = '{"a":' * 700 + '1' + '}' * 700


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('metrics.jsonl', '{"reward/mean": 1}'),
    ('metrics.jsonl', '[1]'),
    ('metrics.jsonl', '3'),
    ('metrics.jsonl', '{"step": "1"}'),
    ('metrics.jsonl', '{"step": null}'),
    ('metrics.jsonl', '{"step": 1e400}'),
    ('metrics.jsonl', '{"step": true}'),
    ('metrics.jsonl', f'{{"step": {10**30}}}'),
    ('metrics.jsonl', '{"step": -1}'),
    ('metrics.jsonl', '{"step": 1, "reward/mean": "high"}'),
    ('metrics.jsonl', '{"step": 1, "reward/mean": {}}'),
    ('metrics.jsonl', f'{{"step": 1, "reward/mean": 1{"0" * 400}}}'),
    ('metrics.jsonl', '[' * 100_000),
    ('metrics.jsonl', '\udc80'),
    ('summary.json', '[]'),
    ('summary.json', '{"base": [], "final": {}}'),
    ('summary.json', '{"base": {"pass@1": "x"}, "final": {}}'),
    ('summary.json', '{"seconds": 3}'),
    ('summary.json', '{"length_ratio": "long"}'),
    ('summary.json', '{'),
    ('config.json', DEEP),
    ('config.json', '7'),
    *(('samples/step_000005.jsonl', json.dumps({k: v for k, v in SAMPLE.items() if k != name})) for name in SAMPLE),
    *(
      ('samples/step_000005.jsonl', json.dumps(SAMPLE | {name: value}))
      for name, value in (
        ('parts', [1]),
        ('parts', {'math': 'x'}),
        ('response', 5),
        ('reward', 'x'),
        ('length', []),
        ('id', []),
        ('problem', None),
      )
    ),
    ('samples/step_000005.jsonl', 'null'),
  ],
  ids=str,
)
def test_a_damaged_record_is_an_error_of_one_line(tmp_path, name, text):
  folder = run(tmp_path)
  (folder / name).write_text(text + '\n', errors='surrogateescape')
  with pytest.raises(writer.RecordError) as error:
    report.report(folder)
  message = str(error.value)
  assert '\n' not in message and str(folder / name) in message and len(message) < 500
  assert (', line 1: ' in message) == name.endswith('.jsonl')


def test_non_finite_numbers_and_special_characters_are_accepted(tmp_path):
  folder = run(tmp_path, steps=(0,))
  (folder / 'metrics.jsonl').write_text(
    '{"step": 0, "kind/a$b_{/reward": 1e999, "time/$x": NaN, "eval/pass@1": 0.5}\n'
    '{"step": 1, "kind/a$b_{/reward": 2, "kind/_$/reward": 1, "time/$x": 1}\n'
  )
  (folder / 'samples' / 'step_000000.jsonl').write_text(json.dumps(SAMPLE | {'reward': float('inf'), 'answer': [1]}))
  text = report.report(folder).read_text('utf-8')
  assert json.loads(Page(text).data)['problems'][0]['at']['0'][0]['reward'] is None
  assert 'a$b {' in text


def test_a_record_that_is_not_a_file_is_refused_without_waiting(tmp_path):
  os.mkfifo(run(tmp_path) / 'summary.json')
  with pytest.raises(writer.RecordError, match='summary.json is not a regular file'):
    report.report(tmp_path)
