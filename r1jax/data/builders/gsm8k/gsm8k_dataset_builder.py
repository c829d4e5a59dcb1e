"""TFDS builder of GSM8K from a local file; nothing is downloaded."""

import tensorflow_datasets as tfds

from r1jax.data.reader import read_jsonl

FIELDS = ('id', 'problem', 'solution', 'answer')


class Builder(tfds.core.GeneratorBasedBuilder):
  """Grade-school word problems; each record has the strings id, problem, solution, answer."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, source, **kwargs):
    """source: path of GSM8K's JSON Lines file (.gz or not), with 'question' or 'problem', and 'answer'."""
    self._problems, _ = read_jsonl(source)  # read first, so that a bad file leaves no folder behind
    super().__init__(**kwargs)

  def _info(self):
    # The order of the file is kept, so that runs from the file and from the set are the same.
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict({field: tfds.features.Text() for field in FIELDS}), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i, problem in enumerate(self._problems):
      yield i, {field: problem.get(field, '') for field in FIELDS}
