"""Meshes and sharding rules that do not fit say so."""

import types

import jax
from jax.sharding import PartitionSpec
import pytest

from r1jax import config, models, parallel
from r1jax.config import ConfigError
from r1jax.parallel.mesh import AXES
from r1jax.params import Spec

DEVICES = list(range(8))  # only their number is looked at before an error


def mesh(**shape):
  return types.SimpleNamespace(shape=dict.fromkeys(AXES, 1) | shape)


@pytest.mark.parametrize(
  ('sizes', 'devices', 'want'),
  [
    (dict(), 1, (1, 1, 1, 1, 1)),
    (dict(data=2, tp=2), 8, (2, 2, 1, 2, 1)),
    (dict(data=-1, fsdp=2), 8, (4, 2, 1, 1, 1)),
    (dict(fsdp=1, tp=-1), 8, (1, 1, 1, 8, 1)),
    (dict(fsdp=2, expert=2, seq=2), 8, (1, 2, 2, 1, 2)),
  ],
)
def test_minus_one_takes_the_devices_left_over(monkeypatch, sizes, devices, want):
  monkeypatch.setattr(jax.sharding, 'Mesh', lambda grid, axes: (grid.shape, axes))
  assert parallel.make_mesh(config.Mesh(**sizes), DEVICES[:devices]) == (want, AXES)


@pytest.mark.parametrize(
  ('sizes', 'parts'),
  [
    (dict(data=-1, fsdp=-1), ['only one axis can be -1']),
    (dict(data=3, fsdp=-1), ["'data': 3", '8 devices', 'divide 8']),
    (dict(data=2, fsdp=2, tp=1), ["'fsdp': 2", '8 devices']),
    (dict(data=0, fsdp=-1), ["'data': 0"]),
    (dict(data=-2, fsdp=-4, tp=1), ["'data': -2"]),
  ],
)
def test_meshes_that_do_not_fit_the_devices_are_refused(sizes, parts):
  with pytest.raises(ConfigError) as error:
    parallel.make_mesh(config.Mesh(**sizes), DEVICES)
  assert all(part in str(error.value) for part in parts)


def test_only_axis_data_crosses_slices(monkeypatch):
  monkeypatch.setattr(jax.sharding, 'Mesh', lambda grid, axes: grid)
  devices = [types.SimpleNamespace(slice_index=i % 2, platform='tpu') for i in range(8)]
  grid = parallel.make_mesh(config.Mesh(data=2, fsdp=2, tp=2), devices)
  assert [{d.slice_index for d in part.flat} for part in grid] == [{0}, {1}]
  with pytest.raises(ConfigError, match='2 slices.* multiple of 2'):
    parallel.make_mesh(config.Mesh(fsdp=-1), devices)
  hosts = [types.SimpleNamespace(slice_index=i % 2, platform='gpu') for i in range(8)]
  assert parallel.make_mesh(config.Mesh(fsdp=-1), hosts).size == 8


def test_a_samplers_mesh_takes_what_it_does_not_name_from_the_trainers():
  mesh = config.Mesh(fsdp=4, tp=2)
  assert parallel.with_default_sizes(config.Mesh(*[0] * 5), mesh) == mesh
  assert parallel.with_default_sizes(config.Mesh(0, 1, 0, -1, 0), mesh) == config.Mesh(fsdp=1, tp=-1)


def test_two_axes_of_a_tensor_on_one_mesh_axis_are_refused():
  specs = {'w': Spec((4, 4), ('mlp', 'heads'))}
  with pytest.raises(ConfigError, match=r"\['w'\]: axes 'mlp' and 'heads' both go to mesh axis 'tp'"):
    parallel.check_divisible(specs, mesh())


def test_sizes_that_do_not_divide_are_refused_with_the_remedy():
  with pytest.raises(
    ConfigError,
    match=r"\['w'\]: 6 'mlp' do not divide over 4 devices on axis 'tp'; "
    'choose a mesh whose tp divides 6',
  ):
    parallel.check_divisible({'w': Spec((6,), ('mlp',))}, mesh(tp=4))
  parallel.check_divisible({'w': Spec((6,), ('mlp',))}, mesh(tp=3))


@pytest.mark.parametrize(('tp', 'over'), [(2, 'tp'), (4, None), (8, None)])
def test_key_heads_that_do_not_divide_lie_whole_on_every_device(tp, over):
  spec = Spec((16, 2, 8), ('embed', 'kv_heads', 'head_dim'))
  parallel.check_divisible({'k': spec}, mesh(tp=tp))
  assert parallel.partition_spec(spec, mesh(tp=tp)) == PartitionSpec('fsdp', over, None)
  with pytest.raises(ConfigError, match="2 'heads' do not divide over 4"):
    parallel.check_divisible({'q': Spec((16, 2, 8), ('embed', 'heads', 'head_dim'))}, mesh(tp=4))


def test_an_axis_without_a_rule_is_refused():
  with pytest.raises(ConfigError, match="no sharding rule for logical axis 'pages'; known: layers, embed"):
    parallel.check_divisible({'w': Spec((6,), ('pages',))}, mesh())


@pytest.mark.parametrize('name', models.PRESETS)
def test_every_preset_has_rules_that_do_not_collide(name):
  parallel.check_divisible(models.specs(models.PRESETS[name]), mesh())


def test_a_sharding_is_spelt_in_one_way():
  small = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  spelt = lambda *axes: parallel.canonical(jax.sharding.NamedSharding(small, PartitionSpec(*axes)))
  assert spelt(None, 'fsdp', None) == spelt() == spelt(('data', 'fsdp'), 'tp') == parallel.replicated(small)
  assert parallel.batch_shards(mesh(data=2, fsdp=3, expert=7, tp=5, seq=11)) == 42
