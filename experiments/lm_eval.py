"""Evaluates a model with EleutherAI's lm-evaluation-harness: its tasks, prompts and metrics, our forward and sampler.

  pip install -c constraints.txt -e '.[lm-eval]'
  python -m experiments.lm_eval --model.path=DIR --tasks=gsm8k,mmlu --workdir W [--include_path=TASKS] [--limit=100]

DIR is a Hugging Face directory, a GGUF file, an imported model or a run's directory. W gets results.json, as lm_eval
writes it; samples/TASK.jsonl, every request with the model's answers; and `cache`, by which the same command goes on
where it was stopped.
"""

import json
import os

from absl import app, flags
import jax

from r1jax import config as config_lib
from r1jax import parallel, sampling
from r1jax.metrics import writer
from r1jax.runs import cli, policies, runtime
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import exclusive

MISSING = "lm_eval is missing; `pip install -c constraints.txt -e '.[lm-eval]'`."


def open_harness(path, *, dtype='float32', batch=8, limit=0, think_end='', seed=0):
  """The evaluation.harness.HarnessModel of a model.

  Args:
    path: of the model. dtype: of the computation.
    batch: rounded up to a multiple of the devices. limit: tokens that the model reads at once; 0: its context.
    think_end, seed: see the flags.

  Raises:
    ConfigError: lm_eval is missing, or the limit is over the model's context. ModelDirError.
  """
  try:
    from r1jax.evaluation.harness import HarnessModel
  except ModuleNotFoundError as error:
    config_lib.require(not (error.name or '').startswith('lm_eval'), MISSING)
    raise
  config_lib.require(jax.process_count() == 1, 'lm_eval runs in one process; start only one.')
  source, mesh = policies.open_policy(path), parallel.make_mesh(config_lib.Mesh())
  limit, shards = limit or source.cfg.context, parallel.batch_shards(mesh)
  config_lib.require(
    limit <= source.cfg.context, f"--max_length is {limit}, over the model's context of {source.cfg.context}; lower it."
  )
  tokenizer, precision = source.load_tokenizer(), sampling.Precision(dtype)
  engine = sampling.Engine(source.cfg, tokenizer, mesh, max_prompt=1, max_response=1, precision=precision)
  info = {'model_path': os.fspath(path), 'model_sha256': source.digest, 'model_dtype': dtype, 'max_length': limit}
  return HarnessModel(
    source.cfg,
    tokenizer,
    policies.load_weights(source, engine),
    mesh,
    precision,
    limit=limit,
    batch=-(-batch // shards) * shards,
    key=jax.random.key(seed),
    think_end=think_end,
    info=info,
  )


def require_tasks(manager, tasks):
  """Raises ConfigError for a name that matches none of the tasks, groups and tags of a TaskManager."""
  unknown = [name for name in tasks if not manager.match_tasks([name])]
  config_lib.require(
    not unknown,
    f'lm_eval knows no task {unknown[0]!r}; `lm-eval ls tasks` lists its own, and --include_path adds a folder of '
    'yours.'
    if unknown
    else '',
  )


@exclusive
def evaluate(options, workdir):
  """Runs tasks and writes what they give. Returns lm_eval's results without the samples.

  Args:
    options: dict with 'model' (keyword arguments of `open_harness`), 'tasks' (names), 'include_path' and 'arguments'
      (of lm_eval.simple_evaluate).
    workdir: W.
  """
  runtime.set_up_process()
  os.environ.setdefault('DISABLE_MULTIPROC', '1')  # lm_eval would fork this process for errors, despite JAX's threads
  model = open_harness(**options['model'])
  from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
  from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

  identity = model.info | {'seed': options['model'].get('seed', 0), 'think_end': model.think_end}
  del identity['model_path']
  settings_lib.require_same_settings(os.path.join(workdir, 'lm_eval.json'), identity)
  manager = TaskManager(include_path=options['include_path'] or None)
  require_tasks(manager, options['tasks'])
  results = simple_evaluate(
    model,
    tasks=options['tasks'],
    task_manager=manager,
    use_cache=os.path.join(workdir, 'cache'),
    batch_size=model.batch,
    **options['arguments'],
  )
  write(workdir, results)
  return results


def write(workdir, results):
  """Writes results.json and the samples, which are taken out of `results`."""
  from lm_eval.utils import handle_non_serializable  # pyright: ignore[reportMissingImports]

  dumps = lambda value, **form: json.dumps(value, default=handle_non_serializable, ensure_ascii=False, **form)
  os.makedirs(os.path.join(workdir, 'samples'), exist_ok=True)
  for task, rows in results.pop('samples', {}).items():
    lines = [dumps(row) + '\n' for row in rows]
    writer.replace_text(os.path.join(workdir, 'samples', f'{task}.jsonl'), ''.join(lines))
  writer.replace_text(os.path.join(workdir, 'results.json'), dumps(results, indent=2) + '\n')


def table(results):
  """The lines of a Markdown table of the metrics in lm_eval's results."""
  lines = ['| task | metric | filter | value | standard error |', '|---|---|---|---:|---:|']
  for task, found in results['results'].items():
    for name, value in found.items():
      metric, _, used = name.partition(',')
      if used and not metric.endswith('_stderr'):
        error = found.get(f'{metric}_stderr,{used}')
        shown = [f'{x:.4f}' if isinstance(x, float) else str(x) for x in (value, error)]
        lines.append(f'| {" | ".join([task, metric, used, *shown])} |')
  return lines


def main(_):
  f = flags.FLAGS
  names = ('num_fewshot', 'limit', 'apply_chat_template', 'system_instruction', 'gen_kwargs')
  options = {
    'model': {
      'path': f['model.path'].value,
      'dtype': f['model.dtype'].value,
      'batch': f.batch,
      'limit': f.max_length,
      'think_end': f.think_end,
      'seed': f.seed,
    },
    'tasks': f.tasks,
    'include_path': f.include_path,
    'arguments': {name: f[name].value for name in names} | {'confirm_run_unsafe_code': f.confirm_run_unsafe_code},
  }
  with cli.errors_in_one_line():
    results = evaluate(options, f.workdir)
  print('\n'.join(table(results)))


if __name__ == '__main__':
  flags.DEFINE_string('model.path', None, 'A model, or the folder of a run.', required=True)
  flags.DEFINE_enum('model.dtype', 'float32', ['float32', 'bfloat16'], 'Dtype of the computation.')
  flags.DEFINE_list('tasks', None, "Names of lm_eval's tasks, groups or tags.", required=True)
  flags.DEFINE_string('include_path', '', 'A folder with task files of your own.')
  flags.DEFINE_string('workdir', None, 'The folder for results and samples.', required=True)
  flags.DEFINE_integer('limit', None, 'Problems of each task; all where not given.', lower_bound=1)
  flags.DEFINE_integer('num_fewshot', None, "Examples before each problem; the task's number where not given.")
  flags.DEFINE_bool('apply_chat_template', False, "Whether prompts go through the model's chat template.")
  flags.DEFINE_string('system_instruction', None, "The system's message.")
  flags.DEFINE_string('gen_kwargs', None, 'How to sample instead of as a task says: temperature=0.6,do_sample=True.')
  flags.DEFINE_integer('batch', 8, 'Continuations, or responses, at a time.', lower_bound=1)
  flags.DEFINE_integer('max_length', 0, "Tokens that the model reads at once; 0: the model's context.", lower_bound=0)
  flags.DEFINE_string('think_end', '', 'Text that ends the thinking, such as </think>; what follows it is graded.')
  flags.DEFINE_integer('seed', 0, 'Of tasks that sample.')
  flags.DEFINE_bool('confirm_run_unsafe_code', False, 'Whether tasks may run code that the model writes, unprotected.')
  app.run(main)
