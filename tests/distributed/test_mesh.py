"""The mesh: shapes that are refused, specs that name an axis twice, and host rows as global arrays."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from tljax.core.errors import InputError
from tljax.distributed import mesh
from tljax.distributed.mesh import P


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ((1, -1, 1), (1, 8, 1, 1)),
        ((2, -1, 2), (2, 2, 1, 2)),
        ((-1, 1, 4), (2, 1, 1, 4)),
        ((8, 1, 1), (8, 1, 1, 1)),
        ((1, -1, 1, 4), (1, 2, 4, 1)),
        ((1, 2, 2, -1), (1, 2, 2, 2)),
        ((1, -1, 1, 2, 2), (2, 2, 2, 1)),
        ((2, 1, -1, 1, 2), (4, 1, 1, 2)),
    ],
)
def test_an_axis_of_minus_1_takes_the_devices_that_remain(sizes, shape):
    device_mesh = mesh.make_mesh(*sizes)
    assert tuple(device_mesh.shape.items()) == tuple(zip(("data", "fsdp", "sequence", "tensor"), shape, strict=True))
    assert device_mesh.axis_types == (AxisType.Explicit,) * 4


def test_a_mesh_can_take_some_of_the_devices():
    device_mesh = mesh.make_mesh(devices=jax.devices()[:1])
    assert set(device_mesh.shape.values()) == {1} and mesh.describe_mesh(device_mesh) == "one device"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU v5e of a slice of 2 x 2 that is one of several, as JAX shows it."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0
    process_index: int = 0


def chips(slices):
    """The chips of all slices, in mixed order."""
    return [Chip(4 * s + 2 * y + x, s, (x, y, 0)) for y in (0, 1) for s in range(slices) for x in (0, 1)]


@pytest.mark.parametrize("sizes", [{}, {"slices": 2}, {"sequence": 2}, {"data": 2}])
def test_weights_are_split_within_a_slice(sizes, monkeypatch):
    """TPU devices report their slices, and "data" runs over one slice after the other."""
    arrays = []
    monkeypatch.setattr(mesh, "Mesh", lambda devices, *_, **__: arrays.append(devices))
    mesh.make_mesh(**sizes, devices=chips(2))
    per_slice = np.vectorize(lambda chip: chip.slice_index)(arrays[0]).reshape(2, -1)
    assert arrays[0].shape[0] == 2 * sizes.get("data", 1)
    np.testing.assert_array_equal(per_slice, [[0] * 4, [1] * 4])


def test_a_wrong_number_of_tpu_slices_is_refused():
    with pytest.raises(InputError, match=r"mesh.slices is 4, but the devices are of 2 slices; use mesh.slices=2, or 0"):
        mesh.make_mesh(slices=4, devices=chips(2))
    with pytest.raises(InputError, match=r"mesh.slices is 2, but the devices are of 1 slice; use mesh.slices=1, or 0"):
        mesh.make_mesh(slices=2, devices=chips(1))
    with pytest.raises(InputError, match=r"slices=2, fsdp=3 does not fit 8 .* nearest possible mesh is slices=2, "):
        mesh.make_mesh(fsdp=3, devices=chips(2))


def test_devices_that_report_no_slices_are_split_into_equal_parts():
    device_mesh = mesh.make_mesh(data=2, tensor=2, slices=2)
    assert [d.id for d in device_mesh.devices[:2].flat] == [0, 1, 2, 3] and dict(device_mesh.shape)["data"] == 4
    assert mesh.describe_mesh(device_mesh) == "data 4 x tensor 2"


@pytest.mark.parametrize(
    "sizes, nearest",
    [
        ((3, -1, 1), "data=4, fsdp=2"),
        ((1, 16, 1), "fsdp=8"),
        ((2, 2, 1), "data=2, fsdp=2, tensor=2"),
        ((1, -1, 16), "fsdp=1, tensor=8"),
        ((1, -1, 1, 3), "fsdp=2, sequence=4"),
        ((1, -1, 1, 5), "fsdp=2, sequence=4"),
        ((1, 2, 1, 1, 3), "slices=4, fsdp=2"),
        ((8, 1, 1, 2), "data=4, sequence=2"),
    ],
)
def test_impossible_meshes_are_refused_with_the_nearest_possible_one(sizes, nearest):
    with pytest.raises(InputError, match=rf"does not fit 8 devices.*nearest possible mesh is {nearest}$"):
        mesh.make_mesh(*sizes)


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 8), (-2, 1, 1), (1, -1, 1, -1), (1, 1, 8, 0), (1, 8, 1, 1, -1)])
def test_invalid_axis_sizes_are_refused(sizes):
    with pytest.raises(InputError, match=r"every axis is a positive number, and at most one is -1"):
        mesh.make_mesh(*sizes)


def test_a_spec_names_the_mesh_axes_of_logical_axes_and_no_mesh_axis_twice():
    assert mesh.spec("batch", None, "heads") == P(("data", "fsdp"), None, "tensor")
    assert mesh.spec("batch", "positions") == P(("data", "fsdp"), "sequence")
    with pytest.raises(ValueError, match="use a mesh axis twice"):
        mesh.spec("batch", "embed")
    with pytest.raises(ValueError, match=r"unknown logical axes \['bath'\]"):
        mesh.spec("bath")


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (8, 1, 1), (1, 2, 2, 2)])
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


def test_micro_batches_are_the_first_axis_and_not_sharded():
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
    with jax.set_mesh(mesh.make_mesh(1, 8, 1)), pytest.raises(InputError, match=r"or the mesh fsdp=4, sequence=2$"):
        mesh.check_rows(12)
    with jax.set_mesh(mesh.make_mesh(1, -1, 2)), pytest.raises(InputError, match=r"mesh fsdp=2, sequence=2, tensor=2$"):
        mesh.check_rows(2)
    with jax.set_mesh(mesh.make_mesh(2)), pytest.raises(InputError, match=r"mesh data=2, fsdp=2, sequence=2$"):
        mesh.check_rows(4)


def test_row_lengths_that_do_not_divide_are_refused():
    with jax.set_mesh(mesh.make_mesh(1, -1, 1, 4)):
        with pytest.raises(InputError, match=r"batch.tokens is 1020, .* = 8 parts .* such as 1016 or 1024,"):
            mesh.check_row_length(1020)
        mesh.check_row_length(1024)
    with jax.set_mesh(mesh.make_mesh()):
        mesh.check_row_length(1021)


def test_the_platform_is_that_of_the_mesh(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert mesh.mesh_platform() == "tpu"
    with jax.set_mesh(mesh.make_mesh(1, 8, 1)):
        assert mesh.mesh_platform() == "cpu"
