"""Eight devices against one, in a process of its own: the number of devices is fixed when JAX starts."""

import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize('model', ['dense', 'qwen3_moe', 'deepseek_v3'])
def test_every_mesh_gives_the_tokens_and_the_update_of_one_device(model, pytestconfig):
  env = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
    'PYTHONPATH': str(pytestconfig.rootpath),
  }
  script = pathlib.Path(__file__).with_name('on_eight_devices.py')
  out = subprocess.run([sys.executable, str(script), model], env=env, capture_output=True, text=True, timeout=1200)
  assert out.returncode == 0, out.stdout + out.stderr[-3000:]
