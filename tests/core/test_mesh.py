"""The mesh: shapes that are refused, specs that collide, host rows that become global arrays."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from tljax.core import mesh
from tljax.core.errors import InputError
from tljax.core.mesh import P


@pytest.mark.parametrize(
    "asked, shape", [((1, -1, 1), (1, 8, 1)), ((2, -1, 2), (2, 2, 2)), ((-1, 1, 4), (2, 1, 4)), ((8, 1, 1), (8, 1, 1))]
)
def test_one_axis_takes_what_remains(asked, shape):
    made = mesh.make_mesh(*asked)
    assert tuple(made.shape.items()) == tuple(zip(("data", "fsdp", "tensor"), shape, strict=True))
    assert made.axis_types == (AxisType.Explicit,) * 3


def test_a_mesh_over_some_devices():
    made = mesh.make_mesh(devices=jax.devices()[:1])
    assert dict(made.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    "asked, nearest",
    [
        ((3, -1, 1), "data=4, fsdp=2, tensor=1"),
        ((1, 16, 1), "data=1, fsdp=8, tensor=1"),
        ((2, 2, 1), "data=2, fsdp=2, tensor=2"),
        ((1, -1, 16), "data=1, fsdp=1, tensor=8"),
    ],
)
def test_impossible_meshes_are_refused_with_a_possible_one(asked, nearest):
    with pytest.raises(InputError, match=rf"does not fit 8 devices.*nearest possible mesh is {nearest}$"):
        mesh.make_mesh(*asked)


@pytest.mark.parametrize("asked", [(-1, -1, 1), (0, 1, 8), (-2, 1, 1)])
def test_axes_that_mean_nothing_are_refused(asked):
    with pytest.raises(InputError, match=r"every axis is a positive number, and at most one is -1"):
        mesh.make_mesh(*asked)


def test_specs():
    assert mesh.spec("batch", None, "heads") == P(("data", "fsdp"), None, "tensor")
    with pytest.raises(ValueError, match="use a mesh axis twice"):
        mesh.spec("batch", "embed")
    with pytest.raises(ValueError, match=r"unknown logical axes \['bath'\]"):
        mesh.spec("bath")


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (8, 1, 1)])
def test_rows_become_global_arrays_in_their_order(shape):
    rows = {"tokens": np.arange(32, dtype=np.int32).reshape(8, 4), "weights": np.arange(8, dtype=np.float32)}
    with jax.set_mesh(mesh.make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
        batch = mesh.global_batch(rows)
        places = shape[0] * shape[1]
        for name, array in rows.items():
            assert batch[name].sharding.spec == mesh.spec("batch", *(None,) * (array.ndim - 1))
            assert batch[name].addressable_shards[0].data.shape == (8 // places, *array.shape[1:])
            np.testing.assert_array_equal(np.asarray(batch[name]), array, strict=True)
        np.testing.assert_array_equal(mesh.process_rows(16), np.arange(16))


def test_micro_batches_come_first():
    tokens = np.arange(48, dtype=np.int32).reshape(3, 8, 2)
    with jax.set_mesh(mesh.make_mesh(2, 2, 2)):
        batch = mesh.global_batch({"tokens": tokens}, accumulate=True)
    assert batch["tokens"].sharding.spec == P(None, ("data", "fsdp"), None)
    assert batch["tokens"].addressable_shards[0].data.shape == (3, 2, 2)
    np.testing.assert_array_equal(np.asarray(batch["tokens"]), tokens)


def test_rows_that_do_not_divide_are_refused():
    with jax.set_mesh(mesh.make_mesh(2, 2, 2)):
        with pytest.raises(InputError, match=r"batch.rows is 6.*data x fsdp = 4 places.*such as 4 or 8"):
            mesh.check_rows(6)
        with pytest.raises(InputError, match=r"batch.rows is 2.*such as 4,"):
            mesh.check_rows(2)
        with pytest.raises(InputError, match=r"6 rows of tokens for the 4 data x fsdp places"):
            mesh.global_batch({"tokens": np.zeros((6, 3), np.int32)})
        with pytest.raises(InputError, match=r"different numbers of rows: .*'tokens': 4, 'weights': 8"):
            mesh.global_batch({"tokens": np.zeros((4, 3), np.int32), "weights": np.zeros(8, np.float32)})
        mesh.check_rows(12)
