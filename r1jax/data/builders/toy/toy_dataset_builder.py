"""TFDS builder of the toy worlds: configs 'trial' and 'chain', splits 'train' and 'held_out'."""

import tensorflow_datasets as tfds

FIELDS = ('id', 'problem', 'answer')


class Builder(tfds.core.GeneratorBasedBuilder):
  """Generated problems of one toy world; each record has the strings id, problem, answer."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name='trial', description='Signs to be found by trial and error.'),
    tfds.core.BuilderConfig(name='chain', description='Chained arithmetic.'),
  ]

  def _info(self):
    # The generator's order is kept.
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict({field: tfds.features.Text() for field in FIELDS}), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    from r1jax.data.sources import toy_pools

    assert self.builder_config is not None  # there are BUILDER_CONFIGS
    train, held_out = toy_pools(self.builder_config.name)
    return {'train': self._generate_examples(train), 'held_out': self._generate_examples(held_out)}

  def _generate_examples(self, problems):
    yield from enumerate(problems)
