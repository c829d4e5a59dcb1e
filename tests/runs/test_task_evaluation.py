"""Evaluation by tasks with an engine and graders that cost nothing: records, resuming, refusals, few-shot prompts."""

import concurrent.futures
import dataclasses
import json
import re
import shutil
import types

import jax
import numpy as np
import pytest

from configs import evaluation as configs
from configs import r1_zero
from r1jax import config, rewards, templates
from r1jax.batch import EOS, LENGTH, RolloutBatch
from r1jax.config import ConfigError
from r1jax.data.toy import arithmetic
from r1jax.metrics import writer
from r1jax.rewards.workers import pool
from r1jax.runs import task_evaluation, tasks


class Tokenizer:
  """A token is a character."""

  def encode(self, text, bos=False):
    return list(text.encode())

  def response(self, ids):
    return bytes(ids.tolist()).decode(), ()


class Engine:
  """Answers a number below 5, which depends on the key and the prompt alone; remembers the prompts it was given."""

  shards, any_batch, watch = 1, False, None

  def __init__(self, prompts):
    self.prompts = prompts

  def require_divisible(self, count):
    pass

  def prepare_params(self, params):
    return params

  def sample(self, params, prompts, keys, sampling, version=0):
    self.prompts += [bytes(p).decode() for p in prompts]
    draws = (
      np.asarray(jax.random.key_data(keys))[..., -1].astype(np.int64) + np.array([sum(p) for p in prompts])[:, None]
    )
    texts = [f'so </think> <answer>{n % 5}</answer>' if n % 7 else 'never' for n in draws.ravel()]
    tokens = np.zeros((*draws.shape, 40), np.int32)
    for row, text in zip(tokens.reshape(-1, 40), texts):
      row[: len(text)] = list(text.encode())
    stop = np.array([EOS if 'so' in text else LENGTH for text in texts]).reshape(draws.shape)
    lengths, zeros = (tokens > 0).sum(axis=2), np.zeros(draws.shape)
    return RolloutBatch(zeros, zeros, tokens, lengths, tokens > 0, tokens * 0.0, stop=stop)


class Grader:
  """Grades at once, in this process."""

  def __init__(self, cfg):
    self.name = cfg.accuracy

  def submit(self, items, parts=None):
    verdicts = [rewards.verdict_function(self.name, {})(item) for item in items]
    done = concurrent.futures.Future()
    scores = np.array([v['score'] for v in verdicts], np.float32)
    done.set_result(pool.Scores({self.name: scores}, {self.name: verdicts}, 0, 0.0))
    return done

  def close(self):
    pass


@pytest.fixture
def prompts(monkeypatch):
  """The prompts that were sampled, by the engine that takes the place of the real one."""
  seen = []
  source = types.SimpleNamespace(cfg=types.SimpleNamespace(context=512), load_tokenizer=lambda _: Tokenizer())
  open_policy = lambda path: types.SimpleNamespace(**vars(source), digest=f'digest of {path}')
  monkeypatch.setattr(task_evaluation.policies, 'open_policy', open_policy)
  monkeypatch.setattr(task_evaluation.policies, 'make_engine', lambda *_: Engine(seen))
  monkeypatch.setattr(task_evaluation.policies, 'load_weights', lambda *_: {})
  monkeypatch.setattr(task_evaluation.grading, 'make_graders', lambda cfg: (Grader(cfg), {}))
  return seen


@pytest.fixture
def folder(tmp_path):
  """A folder of two files of problems, and one of examples."""
  path = tmp_path / 'data'
  path.mkdir()
  row = lambda i: {'id': f'p{i}', 'problem': f'What is {i}?', 'answer': str(i % 5), 'lang': ['en', 'zh'][i % 2]}
  write = lambda name, rows: (path / name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
  write('digits.jsonl', map(row, range(11)))
  write('shots.jsonl', [row(i) | {'solution': f'It is {i}.'} for i in (3, 4, 5, 6, 7)])
  return path


def settings(folder, **more):
  """A config.Evaluate of two models, one of them with two runs, and two tasks."""
  digits = lambda **more: configs.task(path='digits.jsonl', grader='exact', template='plain', **more)
  c = configs.get_config('small')
  c.tasks = dict(digits=digits(fields=dict(lang='language'), split='language', samples=3), five=digits(problems=5))
  c.update(dict(folder=str(folder), models=dict(base='B', rl='R0,R1'), rollout=dict(prompts=4, max_response=40)))
  c.update(more)
  return config.convert(c, config.Evaluate)


def files(workdir):
  """{name: bytes} of all that an evaluation has written."""
  return {str(p.relative_to(workdir)): p.read_bytes() for p in workdir.rglob('*') if p.is_file()}


def test_records_and_tables(prompts, folder, tmp_path):
  table = task_evaluation.run_tasks(settings(folder), str(tmp_path / 'w'))
  read = lambda name: [json.loads(line) for line in (tmp_path / 'w' / name).read_text().splitlines()]
  rows, five = read('rl/digits.jsonl'), read('base/five.jsonl')
  assert len(rows) == 2 * 11 * 3 and [r['seed'] for r in rows] == [0] * 33 + [1] * 33
  assert [r['sample'] for r in rows] == [0, 1, 2] * 22 and len({r['id'] for r in rows}) == 11
  assert [r['id'] for r in five] == [r['id'] for r in read('base/digits.jsonl')[::3]][:5]  # by hash, not the first five
  assert [r['id'] for r in five] != ['p0', 'p1', 'p2', 'p3', 'p4']
  base = read('base/digits.jsonl')
  assert [r['response'] for r in base] == [r['response'] for r in rows[:33]] != [r['response'] for r in rows[33:]]
  for row in base:
    number = int(row['id'][1:])
    assert row['correct'] == (f'<answer>{number % 5}<' in row['response']) == row['score']
    assert row['split'] == ('zh' if number % 2 else 'en') and row['length'] == len(row['response'])
    assert (row['stop'] == LENGTH) == (row['response'] == 'never') == (row['answer'] is None) == (row['voted'] is None)
    assert row['reason'] in ('equal', 'not equal') or 'answer' in row['reason']
  cell = next(r for r in table['rows'] if (r['task'], r['split']) == ('digits', ''))['models']
  assert (cell['rl']['problems'], cell['rl']['runs'], cell['rl']['k'], cell['base']['runs']) == (11, 2, 3, 1)
  mean = lambda rows, field: np.mean([r[field] for r in rows])
  assert cell['rl']['figures']['pass@1'][0] == pytest.approx(mean(rows, 'correct'))
  assert cell['rl']['figures']['length'][0] == pytest.approx(mean(rows, 'length'))
  assert cell['rl']['difference']['pass@1'][0] == pytest.approx(mean(rows, 'correct') - mean(base, 'correct'))
  solved = {r['id'] for r in base if r['correct']}
  assert cell['base']['figures']['pass@3'][0] == pytest.approx(len(solved) / 11)
  english = next(r for r in table['rows'] if r['split'] == 'en')['models']['base']
  assert english['problems'] == 6
  assert english['figures']['pass@1'][0] == pytest.approx(mean([r for r in base if r['split'] == 'en'], 'correct'))
  assert json.loads((tmp_path / 'w' / 'table.json').read_text()) == table


def test_an_evaluation_cut_off_anywhere_ends_with_the_same_files(prompts, folder, tmp_path):
  cfg, whole = settings(folder), tmp_path / 'whole'
  task_evaluation.run_tasks(cfg, str(whole))
  want, all_prompts = files(whole), len(prompts)
  path, text = 'rl/digits.jsonl', want['rl/digits.jsonl']
  lines = text.splitlines(keepends=True)
  # (bytes that are left, chunks of four problems that must then be sampled): within a line, at the end of a chunk's
  # last line with and without its newline, in the second run, nothing.
  at = lambda count: sum(map(len, lines[:count]))
  for number, (left, chunks) in enumerate([(at(13) + 20, 5), (at(12), 5), (at(12) - 1, 6), (at(33 + 14), 2), (0, 6)]):
    cut = tmp_path / f'cut{number}'
    shutil.copytree(whole, cut)
    (cut / path).write_bytes(text[:left])
    for name in ('table.json', 'table.md', 'table.html'):
      (cut / name).unlink()
    prompts.clear()
    task_evaluation.run_tasks(cfg, str(cut))
    page = {'table.html': want['table.html'].replace(b'whole', f'cut{number}'.encode())}  # it names the folder
    assert files(cut) == want | page
    assert len(prompts) == 4 * chunks < all_prompts  # the last chunk of a run is filled up


def test_the_samples_do_not_depend_on_the_chunks(prompts, folder, tmp_path):
  task_evaluation.run_tasks(settings(folder), str(tmp_path / 'a'))
  task_evaluation.run_tasks(settings(folder, rollout=dict(prompts=2, chunk=1)), str(tmp_path / 'b'))
  for name, text in files(tmp_path / 'a').items():
    assert files(tmp_path / 'b')[name] == text or name in ('table.html', 'summary.json')


@pytest.mark.parametrize(
  ('more', 'match'),
  [
    (dict(seed=1), 'seed was 0, is 1'),
    (dict(rollout=dict(temperature=1.0)), 'temperature was 0.6, is 1.0'),
    (dict(models=dict(base='other')), 'runs'),
    (dict(tasks=dict(five=dict(problems=4))), 'problems'),
    (dict(tasks=dict(digits=dict(threshold=0.5))), 'thresholds'),
  ],
)
def test_other_settings_in_the_same_folder_are_refused(prompts, folder, tmp_path, more, match):
  task_evaluation.run_tasks(settings(folder), str(tmp_path / 'w'))
  before = files(tmp_path / 'w')
  with pytest.raises(ConfigError, match=f'started with other settings: .*{match}') as error:
    task_evaluation.run_tasks(settings(folder, **more), str(tmp_path / 'w'))
  assert '\n' not in str(error.value) and files(tmp_path / 'w') == before


def test_a_changed_file_of_problems_is_refused_and_new_tasks_and_models_are_added(prompts, folder, tmp_path):
  cfg = settings(folder)
  run = lambda **more: task_evaluation.run_tasks(dataclasses.replace(cfg, **more), str(tmp_path / 'w'))
  run(only=('five',), models={'base': 'B'})
  prompts.clear()
  assert len(run()['rows']) == 4 and len(prompts) == 3 * 12 + 2 * 8  # base's five were there
  text = (folder / 'digits.jsonl').read_text()
  (folder / 'digits.jsonl').write_text(text.replace('What is 7', 'What was 7'))
  with pytest.raises(ConfigError, match='started with other settings: problems'):
    run()


def test_a_damaged_file_of_samples_is_refused(prompts, folder, tmp_path):
  task_evaluation.run_tasks(settings(folder), str(tmp_path / 'w'))
  path = tmp_path / 'w' / 'base' / 'digits.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:2] + lines[3:]))
  with pytest.raises(writer.RecordError, match='line 3: sample 0 of .* in the place of sample 2'):
    task_evaluation.run_tasks(settings(folder), str(tmp_path / 'w'))


@pytest.mark.parametrize(
  ('more', 'match'),
  [
    (dict(only=('digit',)), "only has 'digit', which is no task; the nearest known one is 'digits'"),
    (dict(model=dict(path='x')), 'both set'),
    (dict(models=dict(base='')), "models.base is ''; name a model"),
    (dict(tasks=dict(five=dict(few_shot=dict(count=2)))), 'tasks.five: few_shot.path is empty, and its problems are'),
    (dict(tasks=dict(five=dict(few_shot=dict(path='x')))), r'tasks.five.few_shot has 0 examples and the path \'x\''),
    (dict(tasks=dict(five=dict(grader='exakt'))), "unknown reward 'exakt'; the nearest known one is 'exact'"),
    (dict(tasks=dict(five=dict(options=dict(were='tags')))), "no option 'were'; the nearest known one is 'where'"),
    (dict(tasks=dict(five=dict(template='plane'))), "tasks.five.template is 'plane'; known: "),
    (dict(tasks=dict(five=dict(path=''))), r'tasks.five.path is empty; .* --config.tasks.five.path=FILE'),
    (dict(rollout=dict(max_prompt=11)), r'tasks.digits: 1 of 11 prompts exceed rollout.max_prompt 11; set it to 12'),
    (dict(rollout=dict(max_response=500)), "exceed base's context of 512"),
  ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(prompts, folder, tmp_path, more, match):
  with pytest.raises(ConfigError, match=match) as error:
    task_evaluation.run_tasks(settings(folder, **more), str(tmp_path / 'w'))
  assert '\n' not in str(error.value) and not (tmp_path / 'w').exists() and not prompts


def test_without_a_model_or_tasks_there_is_nothing_to_do(tmp_path):
  c = configs.get_config('small')
  with pytest.raises(ConfigError, match='model.path is empty; pass a model'):
    task_evaluation.run_tasks(config.of_evaluation(c), str(tmp_path / 'w'))
  c.tasks = {}
  with pytest.raises(ConfigError, match='tasks is empty'):
    config.of_evaluation(c)


def test_a_config_without_tasks_is_one_of_rl():
  assert isinstance(config.of_evaluation(r1_zero.get_config('toy')), config.RL)


SHOTS = dict(count=2, path='shots.jsonl', response='{solution}\n#### {answer}')


def test_examples_stand_before_the_problem_in_the_same_template(prompts, folder, tmp_path):
  few = configs.task(path='digits.jsonl', grader='exact', template='step_by_step', few_shot=SHOTS)
  task_evaluation.run_tasks(settings(folder, tasks=dict(few=few), only=('few',)), str(tmp_path / 'w'))
  head, tail = 'Question:\n', "\nAnswer:\nLet's think step by step.\n"
  shot = lambda i: f'{head}What is {i}?{tail}It is {i}.\n#### {i % 5}\n\n'
  for i, first, second in ((0, 3, 4), (3, 4, 5), (4, 3, 5), (9, 3, 4)):  # never its own text
    assert f'{shot(first)}{shot(second)}{head}What is {i}?{tail}' in prompts


def test_examples_are_turns_of_a_chat_and_of_the_same_split(folder):
  few = configs.task(path='digits.jsonl', grader='exact', template='chat_boxed', few_shot=SHOTS, split='lang')
  few['filter'] = dict(lang=('zh',))  # there is one English example less than needed for p6
  found = {p['id']: p for p in tasks.load(settings(folder, tasks=dict(few=few)), 'few').problems}
  ask = lambda i: templates.TEMPLATES['chat_boxed'].format({'problem': f'What is {i}?'})
  assert found['p5']['problem'] == 'What is 5?' and found['p5']['turns'] == [
    {'role': 'user', 'content': ask(3)},
    {'role': 'assistant', 'content': 'It is 3.\n#### 3'},
    {'role': 'user', 'content': ask(7)},
    {'role': 'assistant', 'content': 'It is 7.\n#### 2'},
    {'role': 'user', 'content': 'What is 5?'},  # the sampler puts it into the template
  ]


def test_examples_of_a_generated_source_are_its_training_problems():
  c = configs.get_config('small')
  c.model.path = 'x'
  c.tasks.chain.few_shot.update(count=2, response='<answer> {answer} </answer>')
  held_out, found = (
    arithmetic.problems('chain', 0, 16, held_out=True),
    tasks.load(config.of_evaluation(c), 'chain').problems,
  )
  texts = {p['problem'] for p in arithmetic.problems('chain', 0, 4096, held_out=False)}
  assert len(found) == 16 and not texts & {p['problem'] for p in held_out}
  first, answer, empty, *rest = found[0]['turns'][0]['content'].split('\n')
  assert first in texts and re.fullmatch(r'<answer> \d+ </answer>', answer) and not empty
  assert rest[0] in texts and rest[-1] == found[0]['problem']


@pytest.mark.parametrize(
  ('shots', 'match'),
  [
    (dict(path='none.jsonl'), r'tasks.few: there is no file .*none.jsonl'),
    (dict(count=6), "tasks.few: few_shot.path 'shots.jsonl' has [45] examples .* few_shot.count is 6; lower it"),
    (dict(response='{thinking}'), "tasks.few: none of the 5 lines .* no field 'thinking'"),
  ],
)
def test_examples_that_cannot_be_had_are_refused(folder, shots, match):
  few = configs.task(path='digits.jsonl', grader='exact', few_shot=SHOTS | shots)
  with pytest.raises(ValueError, match=match):
    tasks.load(settings(folder, tasks=dict(few=few)), 'few')


def test_problems_with_the_same_id_are_refused(folder):
  path = folder / 'digits.jsonl'
  path.write_text(path.read_text().replace('"p4"', '"p7"'))
  with pytest.raises(ConfigError, match="tasks.digits: 1 problems have the 'id' of another one"):
    tasks.load(settings(folder), 'digits')


def test_the_problems_of_a_generated_source_are_the_held_out_ones():
  c = configs.get_config('small')
  c.model.path = 'x'
  found = tasks.load(config.of_evaluation(c), 'stories').problems
  assert len(found) == 16 and all('held_out' in p['id'] for p in found)


@pytest.mark.parametrize(
  ('name', 'count', 'splits'),
  [
    *[('aime_2024', 30, 1), ('math500', 500, 7), ('gsm8k', 1319, 1), ('mgsm', 2750, 11), ('cmath', 600, 6)],
    pytest.param('mmlu', 14_042, 57, marks=pytest.mark.slow),
    pytest.param('mmlu_few_shot', 14_042, 57, marks=pytest.mark.slow),
  ],
)
def test_benchmarks_are_whole(data_dir, name, count, splits):
  c = configs.get_config('paper')
  c.update(dict(folder=str(data_dir), model=dict(path='x')))
  found = tasks.load(config.of_evaluation(c), name)
  assert len(found.problems) == count
  assert len({str(p.get(found.task.split)) for p in found.problems}) == splits
  if name == 'mmlu_few_shot':
    turns = found.problems[0]['turns']
    assert len(turns) == 11 and {t['content'][:7] for t in turns[1::2]} == {'\\boxed{'}
