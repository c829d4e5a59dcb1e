"""What recipes are made of: stages in order, each an experiment with its config."""
from ml_collections import ConfigDict


def stage(experiment, config, about, evaluation=''):
  return ConfigDict(dict(experiment=experiment, config=config, about=about, evaluation=evaluation))


def external(about):
  return stage('external', ConfigDict(dict(path='')), about)


def recipe(stages, **more):
  """Stages keep their order."""
  c = ConfigDict(dict(seed=0), sort_keys=False)
  c.stages = ConfigDict(stages, sort_keys=False)
  c.update(more)
  return c
