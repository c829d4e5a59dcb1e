"""Samples responses of a policy and grades them: for rejection sampling, distillation and cold start.

  python -m experiments.generate --config configs/generate.py:toy --config.model.path=DIR --workdir D

D/samples holds JSON Lines files of rollout.prompts problems each, in the order of problem and sample; a row is the
problem with prompt, response, tokens, stop, sample, reward, parts and correct. If a command is stopped at any moment,
the same command continues with the missing files and ends with the same bytes.

All devices work on one file after another; with several processes, each writes its own files. Independent jobs share
the files of one D with --config.parts=8 --config.part=0 and so on. An endpoint can take the place of the policy
(config.endpoint: url, model, ...).
"""

import collections
import logging
import os

from r1jax import config as config_lib
from r1jax import data
from r1jax.data import shards
from r1jax.runs import cli, generation, json_files, runtime
from r1jax.runs import problems as problems_lib
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import working_in

log = logging.getLogger('r1jax')


class SampleStatistics:
  """Counts and means over graded samples, in all and by kind of problem; the samples of a problem come together."""

  def __init__(self):
    self._counts = collections.defaultdict(collections.Counter)
    self._sums = collections.defaultdict(collections.Counter)
    self._solved = False  # whether the current problem has a right sample

  def add(self, row):
    is_first = row['sample'] == 0
    newly_solved = row['correct'] and (is_first or not self._solved)
    self._solved = row['correct'] or (not is_first and self._solved)
    problem_kind = row.get('kind')
    for kind in dict.fromkeys(('all', problem_kind if isinstance(problem_kind, str) else 'all')):
      self._counts[kind].update({'problems': is_first, 'samples': 1, 'solved': newly_solved, f'stop/{row["stop"]}': 1})
      self._sums[kind].update({'pass@1': row['correct'], 'reward': row['reward'], 'tokens': row['tokens']})
      self._sums[kind].update({f'parts/{name}': x for name, x in row['parts'].items()})

  def result(self):
    """{kind or 'all': {name: value}}: counts of problems, samples, solved problems and stop reasons; means over samples
    of pass@1, reward, tokens and reward parts."""
    return {
      kind: dict(count) | {name: x / count['samples'] for name, x in self._sums[kind].items()}
      for kind, count in self._counts.items()
    }


def run_generate(cfg, workdir):
  """Samples this command's part. Returns the summary, or None while files of other parts are missing."""
  with working_in(workdir, part=cfg.part):
    return _run(cfg, workdir)


def _run(cfg, workdir):
  template, folder = problems_lib.get_template('data', cfg.data), os.path.join(workdir, generation.SAMPLES)
  name = generation.policy_name(cfg)
  settings_lib.require_same_settings(os.path.join(workdir, 'generate.json'), generation.settings(cfg, name))
  policy, grader = generation.make_policy(cfg, workdir)
  with grader, runtime.exit_together():
    problems, dropped = generation.load_problems(cfg, policy, template)
    generation.write_files(cfg, folder, problems, generation.start_sampling(policy, template))
  try:
    paths = shards.files(folder)
  except data.DataError as error:
    log.info('part %d of %d is done; %s', cfg.part, cfg.parts, error)
    return None
  statistics = SampleStatistics()
  for row in shards.read(folder):
    statistics.add(row)
  summary = {
    'figures': statistics.result(),
    'dropped': dropped,
    'files': len(paths),
    'sha256': shards.digest(paths),
    'policy': name,
    'seed': cfg.seed,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_shared(os.path.join(workdir, 'summary.json'), summary)
  return summary


def describe(summary, workdir):
  if not summary:  # files of other parts are still missing
    return ''
  f = summary['figures']['all']
  return (
    f'{workdir}/{generation.SAMPLES}: {f["samples"]} samples of {f["problems"]} problems, {summary["files"]} files, '
    f'{f["pass@1"]:.1%} right, {f["solved"]} problems solved'
  )


if __name__ == '__main__':
  cli.main(run_generate, config_lib.Generate, 'The folder for samples and summary.', describe)
