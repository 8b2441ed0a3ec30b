"""Collectives, sizes and warnings are read from compiled programs, here from programs in which they are known."""

import jax
import jax.numpy as jnp
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.plan.collectives import Transfer, find_transfers, received_bytes
from tljax.plan.compiled import compile_program, find_replicated, parse_program_size
from tljax.plan.hlo import Module, shape_bytes

LAYERS = 5
P = jax.P


@pytest.fixture(scope="module")
def scanned():
    """A scan over five layers gathers weights, float32 [32, 16], from eight devices; one sum follows."""
    mesh = make_mesh(1, 8, 1, devices=jax.devices()[:8])

    def local(w, x):
        def layer(x, w):
            gathered = jax.lax.all_gather(w, "fsdp", axis=0, tiled=True)
            return jnp.tanh(x @ gathered @ gathered.T), None

        x, _ = jax.lax.scan(layer, x, w)
        return jax.lax.psum(x, "fsdp")

    with jax.set_mesh(mesh):
        step = jax.shard_map(local, in_specs=(P(None, "fsdp"), P()), out_specs=P(), check_vma=False)
        w = jax.ShapeDtypeStruct((LAYERS, 32, 16), jnp.float32, sharding=jax.NamedSharding(mesh, P(None, "fsdp")))
        x = jax.ShapeDtypeStruct((4, 32), jnp.float32, sharding=jax.NamedSharding(mesh, P()))
        return Module(jax.jit(step).lower(w, x).compile().as_text())


def test_every_collective_has_its_size_runs_and_loop(scanned):
    transfers = {t.kind: t for t in find_transfers(scanned, LAYERS)}
    assert transfers == {
        "all-gather": Transfer("all-gather", 32 * 16 * 4, group_size=8, num_runs=LAYERS, in_layers=True),
        "all-reduce": Transfer("all-reduce", 4 * 32 * 4, group_size=8, num_runs=1, in_layers=False),
    }
    assert transfers["all-gather"].received == 32 * 16 * 4 * 7 / 8
    assert transfers["all-reduce"].received == 2 * 4 * 32 * 4 * 7 / 8


def test_a_loop_of_another_length_is_not_the_loop_over_the_layers(scanned):
    assert not any(t.in_layers for t in find_transfers(scanned, LAYERS + 1))


@pytest.mark.parametrize(("axis", "group_size"), [("data", 2), ("fsdp", 4), (("data", "fsdp"), 8)])
def test_a_group_is_as_large_as_its_axes(axis, group_size):
    mesh = make_mesh(2, 4, 1, devices=jax.devices()[:8])
    with jax.set_mesh(mesh):
        summed = jax.shard_map(lambda x: jax.lax.psum(x, axis), in_specs=P(), out_specs=P(), check_vma=False)
        x = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=jax.NamedSharding(mesh, P()))
        module = Module(jax.jit(summed).lower(x).compile().as_text())
    assert [(t.kind, t.group_size, t.size) for t in find_transfers(module, LAYERS)] == [
        ("all-reduce", group_size, 32.0)
    ]


# libtpu writes a gather that runs beside matrix products as one collective in several kernels.
TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=16

%begin (p.1: bf16[1,256,64]) -> bf16[1,4096,64] {
  %p.1 = bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %all-gather.1 = bf16[1,4096,64]{2,1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=53, \
replica_groups=mesh['axis_0'=16,'axis_1'=1] {'axis_0'}, dimensions={1}, use_global_device_ids=true
}

%end (p.2: bf16[1,256,64]) -> bf16[1,4096,64] {
  %p.2 = bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %all-gather.2 = bf16[1,4096,64]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p.2), channel_id=53, \
replica_groups=mesh['axis_0'=16,'axis_1'=1] {'axis_0'}, dimensions={1}, use_global_device_ids=true
}

%body (s.1: (s32[], bf16[1,256,64])) -> (s32[], bf16[1,256,64]) {
  %s.1 = (s32[]{:T(128)}, bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  %w.1 = bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%s.1), index=1
  %fusion.1 = bf16[1,4096,64]{2,1,0:T(8,128)(2,1)} fusion(%w.1), kind=kCustom, calls=%begin
  %fusion.2 = bf16[1,4096,64]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w.1), kind=kCustom, calls=%end
  ROOT %t.1 = (s32[]{:T(128)}, bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)}) tuple(%i.1, %w.1)
}

%condition (s.2: (s32[], bf16[1,256,64])) -> pred[] {
  %n.1 = s32[]{:T(128)} constant(32)
  %s.2 = (s32[]{:T(128)}, bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%s.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.2, %n.1), direction=LT
}

ENTRY %main (s.3: (s32[], bf16[1,256,64])) -> (s32[], bf16[1,256,64]) {
  %s.3 = (s32[]{:T(128)}, bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  ROOT %while.1 = (s32[]{:T(128)}, bf16[1,256,64]{2,1,0:T(8,128)(2,1)S(1)}) while(%s.3), condition=%condition, \
body=%body
}
"""


def test_a_collective_that_is_spread_over_kernels_counts_once():
    assert find_transfers(Module(TPU), 32) == [
        Transfer("all-gather", 4096 * 64 * 2, group_size=16, num_runs=32, in_layers=True)
    ]


# libtpu writes a reduce-scatter as an all-reduce and the device's own slice of it, in one kernel.
SCATTER = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%all-reduce-scatter.1 (p.1: bf16[4096,64], p.2: bf16[8,64]) -> (bf16[512,64], bf16[1,64]) {
  %p.1 = bf16[4096,64]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p.2 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %all-reduce.6 = (bf16[4096,64]{1,0:T(8,128)(2,1)}, bf16[8,64]{1,0:T(8,128)(2,1)}) all-reduce(%p.1, %p.2), \
channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, use_global_device_ids=true, to_apply=%add
  %a.1 = bf16[4096,64]{1,0:T(8,128)(2,1)} get-tuple-element(%all-reduce.6), index=0
  %b.1 = bf16[8,64]{1,0:T(8,128)(2,1)} get-tuple-element(%all-reduce.6), index=1
  %zero = u32[] constant(0)
  %me = u32[] partition-id()
  %a.2 = bf16[512,64]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%a.1, %me, %zero), dynamic_slice_sizes={512,64}
  %b.2 = bf16[1,64]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%b.1, %me, %zero), dynamic_slice_sizes={1,64}
  ROOT %both = (bf16[512,64]{1,0:T(8,128)(2,1)S(1)}, bf16[1,64]{1,0:T(8,128)(2,1)S(1)}) tuple(%a.2, %b.2)
}

ENTRY %main (s.1: bf16[4096,64], s.2: bf16[8,64]) -> (bf16[512,64], bf16[1,64]) {
  %s.1 = bf16[4096,64]{1,0:T(8,128)(2,1)} parameter(0)
  %s.2 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %f = (bf16[512,64]{1,0:T(8,128)(2,1)S(1)}, bf16[1,64]{1,0:T(8,128)(2,1)S(1)}) fusion(%s.1, %s.2), \
kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_an_all_reduce_is_a_reduce_scatter_if_its_kernel_uses_only_a_slice():
    size = (4096 + 8) * 64 * 2
    assert find_transfers(Module(SCATTER), 32) == [
        Transfer("reduce-scatter", size, group_size=8, num_runs=1, in_layers=False)
    ]
    # It is an all-reduce if something else reads it too, or if another kernel takes the slice.
    read_whole = SCATTER.replace("tuple(%a.2, %b.2)", "tuple(%a.1, %b.2)")
    assert [t.kind for t in find_transfers(Module(read_whole), 32)] == ["all-reduce"]
    other_kernel = SCATTER.replace("fusion(%s.1, %s.2), kind=kCustom, calls=", "call(%s.1, %s.2), to_apply=")
    assert [t.kind for t in find_transfers(Module(other_kernel), 32)] == ["all-reduce"]


# libtpu writes a gather over three axes of a torus as a sum of zeros into which every device has written its part.
SUMMED = """\
HloModule jit_step, is_scheduled=true, num_partitions=64

%fill (f.1: bf16[4096,64], f.2: bf16[64,64], f.3: u32[]) -> bf16[4096,64] {
  %f.1 = bf16[4096,64]{1,0:T(8,128)(2,1)} parameter(0)
  %f.2 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(1)
  %f.3 = u32[]{:T(128)S(6)} parameter(2)
  %c.1 = u32[]{:T(128)} constant(0)
  ROOT %f.4 = bf16[4096,64]{1,0:T(8,128)(2,1)} dynamic-update-slice(%f.1, %f.2, %f.3, %c.1)
}

ENTRY %main (p.1: bf16[4096,64], p.2: bf16[64,64], p.3: u32[]) -> bf16[4096,64] {
  %p.1 = bf16[4096,64]{1,0:T(8,128)(2,1)} parameter(0)
  %p.2 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(1)
  %p.3 = u32[]{:T(128)S(6)} parameter(2)
  %own = bf16[4096,64]{1,0:T(8,128)(2,1)} fusion(%p.1, %p.2, %p.3), kind=kLoop, calls=%fill
  ROOT %r.1 = bf16[4096,64]{1,0:T(8,128)(2,1)} all-reduce(%own), channel_id=1, replica_groups=[1,64]<=[64], \
to_apply=%add
}
"""


def test_a_gather_written_as_a_sum_has_its_own_kind_and_receives_as_much_as_a_sum():
    (transfer,) = find_transfers(Module(SUMMED), 32)
    assert (transfer.kind, transfer.group_size) == ("all-gather as all-reduce", 64)
    assert transfer.received == 2 * 63 / 64 * 4096 * 64 * 2
    assert [t.kind for t in find_transfers(Module(SUMMED.replace("all-reduce(%own)", "all-reduce(%p.1)")), 32)] == [
        "all-reduce"
    ]


# libtpu writes a sum over four slices as a send of the device's own part to its host, and a receive of the sum.
SLICES = """\
HloModule jit_step, is_scheduled=true, num_partitions=16

ENTRY %main (p.1: bf16[256,8]) -> bf16[256,8] {
  %p.1 = bf16[256,8]{1,0:T(8,128)(2,1)} parameter(0)
  %after.1 = token[] after-all()
  %send.1 = (bf16[256,8]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%p.1, %after.1), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (bf16[256,8]{1,0:T(8,128)(2,1)}, u32[], token[]) recv(%after.1), channel_id=1, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %done.1 = (bf16[256,8]{1,0:T(8,128)(2,1)}, token[]) recv-done(%recv.1), channel_id=1, is_host_transfer=true
  ROOT %r.1 = bf16[256,8]{1,0:T(8,128)(2,1)} get-tuple-element(%done.1), index=0
}
"""


def test_transfers_between_slices_count_apart():
    size = 256 * 8 * 2
    transfers = find_transfers(Module(SLICES), 32)
    assert transfers == [Transfer("all-reduce", size, group_size=4, num_runs=1, in_layers=False, between_slices=True)]
    assert (received_bytes(transfers), received_bytes(transfers, between_slices=True)) == (0, 1.5 * size)


@pytest.mark.parametrize(
    ("groups", "group_size"),
    [
        ("{}", 16),
        ("{{0,2,4,6},{1,3,5,7}}", 4),
        ("[8,2]<=[16]", 2),
        ("[2,8]<=[8,2]T(1,0)", 8),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", 4),
        ("mesh['axis_0'=8,'axis_1'=2] {'axis_0','axis_1'}", 16),
        ("mesh['axis_0'=16] {'axis_0':(2)4}", 4),
    ],
)
def test_every_way_to_write_groups_is_read(groups, group_size):
    """XLA lists the devices, counts them in an iota, or names axes of a mesh; {} means all."""
    shape = "f32[8]{0:T(128)}"
    text = (
        "HloModule jit_f, num_partitions=16\n\nENTRY %main (p: f32[8]) -> f32[8] {\n"
        f"  %p = {shape} parameter(0)\n"
        f"  ROOT %r = {shape} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add\n}}\n"
    )
    assert [t.group_size for t in find_transfers(Module(text), 4)] == [group_size]


def test_the_bytes_of_a_shape_are_those_of_its_arrays():
    assert shape_bytes("(f32[2,3]{1,0}, bf16[4]{0:T(128)}, pred[5]{0}, s32[]{:T(128)}, u4[6]{0}, f8e4m3fn[7]{0})") == 51


def test_the_size_of_a_refused_program_is_read_from_the_compilers_message():
    message = "the total memory required for HLO temporaries (29.79G) exceeds available HBM (15.75G)."
    assert parse_program_size(message) == 29.79 * 1024**3
    assert parse_program_size("no size") == 0


def test_replicated_operations_are_read_from_the_log_once_each():
    log = (
        "W1122 spmd_partitioner.cc:656] Involuntary full rematerialization. The compiler cannot go from sharding "
        "{devices=[2,4,1]<=[8]} to {devices=[1,1,8]<=[8]} efficiently for HLO operation %param = f32[32,16,64]{2,1,0} "
        'parameter(0), sharding={devices=[2,4,1]<=[8]}, metadata={op_name="x"}. As the last resort, SPMD will replicate'
    )
    assert find_replicated(f"{log}\n{log}\nanother line") == ("%param = f32[32,16,64] parameter(0) of x",)
    assert find_replicated("nothing") == ()


def test_replicated_operations_reach_the_plan_and_not_the_screen(capfd, without_program_cache):
    """XLA replicates the array for the first resharding, of which it warns; the second needs no replication."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:8])

    def sharding(*axes):
        return jax.NamedSharding(mesh, P(*axes))

    x = jax.ShapeDtypeStruct((64, 64, 64), jnp.float32, sharding=sharding("a", "b", None))

    def program(to):
        return jax.jit(lambda x: jax.lax.with_sharding_constraint(jnp.sin(x), to)).lower(x)

    compiled = compile_program(lambda: program(sharding(None, None, ("a", "b"))), num_layers=1)
    assert any("32,16,64" in text for text in compiled.replicated)
    assert compile_program(lambda: program(sharding("a", None, None)), num_layers=1).replicated == ()
    assert "Involuntary" not in capfd.readouterr().err
