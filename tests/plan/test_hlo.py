"""What is read out of compiled programs, on programs whose collectives and loops are known."""

import jax
import jax.numpy as jnp
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.plan.bound import received
from tljax.plan.collectives import Transfer, transfers
from tljax.plan.compiled import compile_program, size_in, warnings_in
from tljax.plan.hlo import Module, bytes_of

LAYERS = 5
P = jax.P


@pytest.fixture(scope="module")
def scanned():
    """A scan over five layers whose weights, float32 [32, 16], are gathered from eight devices; then one sum."""
    mesh = make_mesh(1, 8, 1, devices=jax.devices()[:8])

    def local(w, x):
        def layer(x, w):
            whole = jax.lax.all_gather(w, "fsdp", axis=0, tiled=True)
            return jnp.tanh(x @ whole @ whole.T), None

        x, _ = jax.lax.scan(layer, x, w)
        return jax.lax.psum(x, "fsdp")

    with jax.set_mesh(mesh):
        step = jax.shard_map(local, in_specs=(P(None, "fsdp"), P()), out_specs=P(), check_vma=False)
        w = jax.ShapeDtypeStruct((LAYERS, 32, 16), jnp.float32, sharding=jax.NamedSharding(mesh, P(None, "fsdp")))
        x = jax.ShapeDtypeStruct((4, 32), jnp.float32, sharding=jax.NamedSharding(mesh, P()))
        return Module(jax.jit(step).lower(w, x).compile().as_text())


def test_collectives_are_counted_by_place_and_times(scanned):
    found = {t.kind: t for t in transfers(scanned, LAYERS)}
    assert found == {
        "all-gather": Transfer("all-gather", 32 * 16 * 4, group=8, times=LAYERS, in_layers=True),
        "all-reduce": Transfer("all-reduce", 4 * 32 * 4, group=8, times=1, in_layers=False),
    }
    assert found["all-gather"].received == 32 * 16 * 4 * 7 / 8
    assert found["all-reduce"].received == 2 * 4 * 32 * 4 * 7 / 8


def test_a_loop_of_other_length_is_not_that_over_the_layers(scanned):
    assert not any(t.in_layers for t in transfers(scanned, LAYERS + 1))


@pytest.mark.parametrize(("axis", "group"), [("data", 2), ("fsdp", 4), (("data", "fsdp"), 8)])
def test_a_group_is_as_large_as_its_axes(axis, group):
    mesh = make_mesh(2, 4, 1, devices=jax.devices()[:8])
    with jax.set_mesh(mesh):
        summed = jax.shard_map(lambda x: jax.lax.psum(x, axis), in_specs=P(), out_specs=P(), check_vma=False)
        x = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=jax.NamedSharding(mesh, P()))
        module = Module(jax.jit(summed).lower(x).compile().as_text())
    assert [(t.kind, t.group, t.size) for t in transfers(module, LAYERS)] == [("all-reduce", group, 32.0)]


# As libtpu writes a gather that runs beside products: one collective in three kernels, results partly on the chip.
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


def test_a_collective_spread_over_kernels_counts_once():
    assert transfers(Module(TPU), 32) == [Transfer("all-gather", 4096 * 64 * 2, group=16, times=32, in_layers=True)]


# As libtpu writes a reduce-scatter: an all-reduce and this device's slice of it, in one kernel.
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


def test_an_all_reduce_of_which_a_kernel_keeps_a_slice_is_a_reduce_scatter():
    size = (4096 + 8) * 64 * 2
    assert transfers(Module(SCATTER), 32) == [Transfer("reduce-scatter", size, group=8, times=1, in_layers=False)]
    # Whole, where something else reads it too, or where the slice is taken by the next kernel.
    used = SCATTER.replace("tuple(%a.2, %b.2)", "tuple(%a.1, %b.2)")
    assert [t.kind for t in transfers(Module(used), 32)] == ["all-reduce"]
    apart = SCATTER.replace("fusion(%s.1, %s.2), kind=kCustom, calls=", "call(%s.1, %s.2), to_apply=")
    assert [t.kind for t in transfers(Module(apart), 32)] == ["all-reduce"]


# As libtpu writes a gather over three sides of a torus: zeros, into which every device has written its part, added up.
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


def test_a_gather_written_as_a_sum_is_told_apart_and_costs_as_much_as_one():
    (found,) = transfers(Module(SUMMED), 32)
    assert (found.kind, found.group) == ("all-gather as all-reduce", 64)
    assert found.received == 2 * 63 / 64 * 4096 * 64 * 2
    assert [t.kind for t in transfers(Module(SUMMED.replace("all-reduce(%own)", "all-reduce(%p.1)")), 32)] == [
        "all-reduce"
    ]


# As libtpu writes a sum over four slices: each device sends its own part through its host, and receives the sum.
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


def test_what_moves_between_slices_is_told_apart():
    size = 256 * 8 * 2
    found = transfers(Module(SLICES), 32)
    assert found == [Transfer("all-reduce", size, group=4, times=1, in_layers=False, network=True)]
    assert (received(found), received(found, network=True)) == (0, 1.5 * size)


@pytest.mark.parametrize(
    ("groups", "group"),
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
def test_every_way_to_write_groups(groups, group):
    """As XLA writes them: counted, listed, iota, and named by the axes of a mesh."""
    shape = "f32[8]{0:T(128)}"
    text = (
        "HloModule jit_f, num_partitions=16\n\nENTRY %main (p: f32[8]) -> f32[8] {\n"
        f"  %p = {shape} parameter(0)\n"
        f"  ROOT %r = {shape} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add\n}}\n"
    )
    assert [t.group for t in transfers(Module(text), 4)] == [group]


def test_sizes_of_shapes():
    assert bytes_of("(f32[2,3]{1,0}, bf16[4]{0:T(128)}, pred[5]{0}, s32[]{:T(128)}, u4[6]{0}, f8e4m3fn[7]{0})") == 51


def test_sizes_in_the_compilers_words():
    told = "the total memory required for HLO temporaries (29.79G) exceeds available HBM (15.75G)."
    assert size_in(told) == 29.79 * 1024**3
    assert size_in("no size") == 0


def test_involuntary_rematerialisation_is_read_from_the_log():
    log = (
        "W1122 spmd_partitioner.cc:656] Involuntary full rematerialization. The compiler cannot go from sharding "
        "{devices=[2,4,1]<=[8]} to {devices=[1,1,8]<=[8]} efficiently for HLO operation %param = f32[32,16,64]{2,1,0} "
        'parameter(0), sharding={devices=[2,4,1]<=[8]}, metadata={op_name="x"}. As the last resort, SPMD will replicate'
    )
    assert warnings_in(f"{log}\n{log}\nanother line") == ("%param = f32[32,16,64] parameter(0) of x",)
    assert warnings_in("nothing") == ()


def test_involuntary_rematerialisation_is_heard(capfd):
    """A resharding that XLA cannot do but by replication; what it says reaches the plan and not the screen."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:8])

    def sharding(*axes):
        return jax.NamedSharding(mesh, P(*axes))

    x = jax.ShapeDtypeStruct((64, 64, 64), jnp.float32, sharding=sharding("a", "b", None))

    def program(to):
        return jax.jit(lambda x: jax.lax.with_sharding_constraint(jnp.sin(x), to)).lower(x)

    found = compile_program(lambda: program(sharding(None, None, ("a", "b"))), layers=1)
    assert any("32,16,64" in text for text in found.warnings)
    assert compile_program(lambda: program(sharding("a", None, None)), layers=1).warnings == ()
    assert "Involuntary" not in capfd.readouterr().err
