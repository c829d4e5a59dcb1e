"""The order of the packages, the names of the files, and what setup.py installs, read off the sources with ast."""

import ast
import importlib.metadata
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ('r1jax', 'experiments', 'configs')

# A file imports only from its own entry and from entries of lower levels. The longest entry that
# a module's name begins with is its own.
LEVELS = [
  ['r1jax.typed', 'r1jax.modelfiles'],
  ['r1jax.batch', 'r1jax.config', 'r1jax.gguf_files', 'r1jax.keys', 'r1jax.params', 'r1jax.templates'],
  ['r1jax.protocols', 'r1jax.parallel', 'r1jax.tokenizers', 'r1jax.losses', 'r1jax.metrics'],
  ['r1jax.models', 'r1jax.rewards', 'r1jax.data'],
  ['r1jax.sampling', 'r1jax.checkpoint', 'r1jax.training'],
  ['r1jax.rewards.neural'],  # opens and samples models where a config names them
  ['r1jax.rollout', 'r1jax.evaluation', 'r1jax.planning'],
  ['r1jax.recipes', 'r1jax.search'],
  ['r1jax.runs'],
  ['configs'],  # read by the jobs made of several experiments
  ['experiments'],
]
LEVEL = {entry: level for level, entries in enumerate(LEVELS) for entry in entries}

# Installed for another package's sake: no file of ours imports them.
INDIRECT = {'importlib-resources'}


def sources(*folders):
  return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def module_of(path):
  """(dotted name, whether it is a package's __init__) of a source file."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return ('.'.join(parts[:-1]), True) if parts[-1] == '__init__' else ('.'.join(parts), False)


def imports(code, module, is_package=False):
  """The dotted names that `code`, the text of `module`, imports anywhere in it, relative ones resolved.

  `from a import b` gives 'a.b', as b may be a module; `from a import b` of a function is 'a.b' too.
  """
  found = []
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        parents = module.split('.')[: len(module.split('.')) - node.level + is_package]
        base = '.'.join(parents + ([node.module] if node.module else []))
      found += [f'{base}.{alias.name}' for alias in node.names]
  return found


def entry_of(name):
  """The longest entry of LEVELS that `name` lies in, or None."""
  inside = [entry for entry in LEVEL if name == entry or name.startswith(entry + '.')]
  return max(inside, key=len, default=None)


def violations(code, module, is_package=False):
  """One line for each import by `module` of something of ours that the order does not allow."""
  own, out = entry_of(module), []
  for name in imports(code, module, is_package):
    top = name.split('.')[0]
    if module.split('.')[0] == 'configs':
      # Recipes are made of other configs; the students learn as the second SFT does, or on policy.
      recipe = top == 'configs'
      variants = name in ('configs.pods', 'configs.published', 'configs.smollm2')
      made_of = {
        'configs.r1': recipe,
        'configs.ablations': recipe,
        'configs.r1_zero': variants,
        'configs.smollm2': recipe,
        'configs.distill': name in ('configs.sft', 'configs.r1_zero'),
      }
      allowed = top == 'ml_collections' or name in ('configs.common', 'configs.stages') or made_of.get(module, False)
    elif top not in OURS:
      continue
    else:
      other = entry_of(name)
      allowed = own is not None and other is not None and (own == other or LEVEL[other] < LEVEL[own])
    if not allowed:
      out.append(f'{module} imports {name}')
  return out


@pytest.mark.parametrize(
  ('module', 'code', 'count'),
  [
    ('r1jax.losses.policy', 'from r1jax.losses import kl', 0),
    ('r1jax.losses.policy', 'from r1jax import config as c, params', 0),
    ('r1jax.losses.policy', 'from . import kl', 0),
    ('r1jax.losses.policy', 'import jax\nfrom jax import numpy', 0),
    ('r1jax.losses.policy', 'from r1jax.parallel import mesh', 1),  # same level, other package
    ('r1jax.losses.policy', 'from ..models import layers', 1),  # a higher level
    ('r1jax.losses.policy', 'def f():\n  import r1jax.models.layers', 1),  # also inside a function
    ('r1jax.losses.policy', 'from r1jax import models, sampling, params', 2),
    ('r1jax.losses.policy', 'from r1jax import nowhere', 1),  # not in the list
    ('r1jax.rewards.workers.pool', 'from r1jax.rewards.neural import judge', 1),  # a part with a level of its own
    ('r1jax.rewards.neural.judge', 'from r1jax.rewards.workers import worker', 0),
    ('r1jax.config', 'from r1jax import params', 1),
    ('r1jax.rollout', 'from experiments import rl', 1),
    ('experiments.rl', 'from experiments import sft\nfrom r1jax import rollout', 0),
    ('experiments.rl', 'from configs import r1_zero', 0),
    ('configs.r1_zero', 'from ml_collections import ConfigDict\nfrom configs import common', 0),
    ('configs.r1_zero', 'import os\nfrom configs import toy_base\nimport r1jax.config', 3),
    ('configs.r1', 'from configs import toy_base\nimport r1jax.config', 1),
  ],
)
def test_the_order_is_read_right(module, code, count):
  assert len(violations(code, module)) == count


def test_relative_imports_of_a_package_start_at_itself():
  assert imports('from . import a\nfrom .b import c', 'r1jax.losses', is_package=True) == [
    'r1jax.losses.a',
    'r1jax.losses.b.c',
  ]
  assert imports('from . import a\nfrom ..b import c', 'r1jax.losses.policy') == ['r1jax.losses.a', 'r1jax.b.c']


def test_each_file_imports_only_from_lower_levels():
  found = [line for path in sources(*OURS) for line in violations(path.read_text(), *module_of(path))]
  assert not found, '\n'.join(found)


def test_each_module_has_a_level():
  modules = [module_of(path)[0] for path in sources('r1jax')]
  assert [name for name in modules if name != 'r1jax' and entry_of(name) is None] == []


def test_no_file_takes_the_name_of_a_standard_module():
  paths = sources(*OURS, 'tests')
  names = {part for path in paths for part in path.relative_to(ROOT).with_suffix('').parts} - {'__init__'}
  assert sorted(names & sys.stdlib_module_names) == []


def setup_arguments():
  """The keyword arguments of the call of setup() that are literals."""
  tree = ast.parse((ROOT / 'setup.py').read_text())
  call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, 'id', '') == 'setup')
  out = {}
  for keyword in call.keywords:
    try:
      out[keyword.arg] = ast.literal_eval(keyword.value)
    except ValueError:
      pass  # packages=find_packages(...)
  return out


def distribution(requirement):
  """The normalised name in 'jax[tpu]>=1', 'ml_collections' and the like."""
  return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', requirement)[0]).lower()


def third_party(*folders):
  """Names of top-level modules, neither ours nor Python's, that the folders' files import."""
  names = {name.split('.')[0] for path in sources(*folders) for name in imports(path.read_text(), *module_of(path))}
  names -= {'exchange'}  # beside it in the sandbox, where rewards/coding/inside.py runs
  return names - set(OURS) - {'tests', '__future__'} - sys.stdlib_module_names


def test_what_the_product_imports_is_what_setup_installs():
  setup = setup_arguments()
  wanted = {
    distribution(r)
    for r in setup['install_requires']
    + [name for extra in ('judge', 'types') for name in setup['extras_require'][extra]]
  }
  providers = importlib.metadata.packages_distributions()
  extras = setup['extras_require']
  # Imported by experiments/benchmark_torch.py and trl_rl.py, and for experiments/lm_eval.py, alone.
  compared_with = {*extras['torch-parity'], *extras['trl'], *extras['lm-eval']}
  names = third_party(*OURS) - compared_with
  used = {name: {distribution(d) for d in providers.get(name, [])} for name in names}
  assert sorted(name for name, dists in used.items() if not dists & wanted) == []  # imported, not installed
  assert sorted(wanted - INDIRECT - set().union(*used.values())) == []  # installed, imported nowhere


def test_constraints_pin_each_requirement_once():
  lines = [line for line in (ROOT / 'constraints.txt').read_text().splitlines() if line and not line.startswith('#')]
  assert [line for line in lines if not re.fullmatch(r'[\w.-]+==[\w.]+', line)] == []
  pinned = [distribution(line) for line in lines]
  assert sorted(name for name in set(pinned) if pinned.count(name) > 1) == []
  setup = setup_arguments()
  named = {distribution(r) for r in sum(setup['extras_require'].values(), setup['install_requires'])}
  assert sorted(named - set(pinned)) == []


def test_every_folder_of_sources_is_a_package():
  bare = {path.parent for path in sources(*OURS) if not (path.parent / '__init__.py').exists()}
  assert sorted(str(folder.relative_to(ROOT)) for folder in bare) == []


def test_other_files_inside_the_packages_are_installed_with_them():
  patterns = setup_arguments()['package_data']['']
  others = [path for path in (ROOT / 'r1jax').rglob('*') if path.is_file() and path.suffix not in ('.py', '.pyc')]
  assert sorted(str(p.relative_to(ROOT)) for p in others if not any(p.match(pattern) for pattern in patterns)) == []
