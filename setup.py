"""What is installed; pyproject.toml has the rest. Names only: constraints.txt holds the versions tested together."""

from setuptools import find_packages, setup

setup(
  packages=find_packages(include=['r1jax', 'r1jax.*']),  # experiments and configs are run from a checkout
  package_data={'': ['*.j2', '*.jinja', '*.md', '*.txt', '*.tsv']},  # templates; what TFDS keeps beside a builder
  install_requires=[
    'absl-py',
    'array_record',  # tensorflow-datasets writes and reads its files without TensorFlow through it
    'flax',
    'gguf',
    'grain',
    'importlib_resources',  # tensorflow-datasets imports it without declaring it
    'jax',
    'jaxtyping',
    'jieba',
    'jinja2',
    'latex2sympy2_extended',
    'math-verify',
    'matplotlib',
    'ml-collections',
    'numpy',
    'optax',
    'orbax-checkpoint',
    'py3langid',
    'qwix',
    'safetensors',
    'scipy',
    'sentencepiece',
    'sympy',
    'tensorboardX',
    'tensorflow-datasets',
    'tokenizers',
    'tqdm',
  ],
  extras_require={
    'tpu': ['jax[tpu]'],
    'cuda': ['jax[cuda13]'],
    'plan': ['libtpu'],  # its compiler runs on a machine without a TPU
    'judge': ['httpx'],  # a judge behind an endpoint
    'types': ['beartype'],  # checks annotated shapes and dtypes where R1JAX_CHECK_TYPES is set
    'dev': ['basedpyright', 'beartype', 'httpx', 'pytest', 'pytest-xdist', 'ruff'],
    'torch-parity': ['accelerate', 'peft', 'torch', 'transformers'],  # transformers reads GGUF files with accelerate
    'lm-eval': ['lm_eval'],  # its model `hf`, for comparisons, also needs torch-parity
    'trl': ['datasets', 'torch', 'transformers', 'trl'],
  },
)
