"""The instructions that plain `cuda.*` Python cannot express, each with a plain twin that the simulator runs.

Arrays are flat and C-contiguous. Where a function takes `base` and `offset`, a constant offset becomes part of the
instruction, so that one register addresses a whole tile. Indices count elements and fit in int32.
"""

from __future__ import annotations

from .driver import SIMULATED

__all__ = [
    "ALIGNMENT",
    "bits_of",
    "copy4",
    "copy16",
    "copy_commit",
    "copy_wait0",
    "copy_wait1",
    "float_of",
    "fresh",
    "ldmatrix4",
    "ldmatrix4_transposed",
    "load1",
    "load4",
    "load_half",
    "load_int",
    "mma_bf16",
    "mma_f16",
    "mma_tf32",
    "round_tf32",
    "store2",
    "store4",
    "store_half",
    "store_int",
    "sync_warp",
]

if SIMULATED:
    from .intrinsics_plain import (
        ALIGNMENT,
        bits_of,
        copy4,
        copy16,
        copy_commit,
        copy_wait0,
        copy_wait1,
        float_of,
        fresh,
        ldmatrix4,
        ldmatrix4_transposed,
        load1,
        load4,
        load_half,
        load_int,
        mma_bf16,
        mma_f16,
        mma_tf32,
        round_tf32,
        store2,
        store4,
        store_half,
        store_int,
        sync_warp,
    )

else:
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic

    ALIGNMENT = 16
    """Of shared arrays, in bytes: what 128-bit accesses need."""

    _VOID, _F16, _F32 = ir.VoidType(), ir.HalfType(), ir.FloatType()
    _I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
    _WORDS = types.UniTuple(types.uint32, 4)
    _FLOATS = types.UniTuple(types.float32, 4)

    def _is_flat(array):
        return isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"

    def _pointer(context, builder, signature, args, array, *indices):
        """Give the address of an element; separate steps keep a constant one foldable."""
        value = context.make_array(signature.args[array])(context, builder, value=args[array])
        pointer = value.data
        for i in indices:
            index = context.cast(builder, args[i], signature.args[i], types.int32)
            pointer = builder.gep(pointer, [index], inbounds=True)
        return pointer

    def _shared_address(builder, pointer):
        return builder.ptrtoint(builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, 3)), _I32)

    def _global_address(builder, pointer):
        return builder.ptrtoint(builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, 1)), _I64)

    def _scalar_load(number, kind):
        """Make a load of one number of an array of any type."""
        size = number.width // 8 if isinstance(number, ir.IntType) else 4

        @intrinsic
        def load(typingctx, array, base, offset):
            if not _is_flat(array):
                return None

            def codegen(context, builder, signature, args):
                pointer = _pointer(context, builder, signature, args, 0, 1, 2)
                return builder.load(builder.bitcast(pointer, number.as_pointer()), align=size)

            return kind(array, base, offset), codegen

        return load

    load1, load_int = _scalar_load(_F32, types.float32), _scalar_load(_I32, types.int32)
    load_half = _scalar_load(_I16, types.uint16)

    @intrinsic
    def store_int(typingctx, array, base, offset, value):  # noqa: D103 (its twin says it)
        if not _is_flat(array):
            return None

        def codegen(context, builder, signature, args):
            value = context.cast(builder, args[3], signature.args[3], types.int32)
            builder.store(value, _pointer(context, builder, signature, args, 0, 1, 2), align=4)
            return context.get_dummy_value()

        return types.void(array, base, offset, value), codegen

    @intrinsic
    def store_half(typingctx, array, index, value):  # noqa: D103
        if not _is_flat(array):
            return None

        def codegen(context, builder, signature, args):
            start = context.make_array(signature.args[0])(context, builder, value=args[0]).data
            index = context.cast(builder, args[1], signature.args[1], types.int32)
            pointer = builder.gep(builder.bitcast(start, _I16.as_pointer()), [index], inbounds=True)
            builder.store(context.cast(builder, args[2], signature.args[2], types.uint16), pointer, align=2)
            return context.get_dummy_value()

        return types.void(array, index, value), codegen

    def _as_float(builder, value, stored):
        """Turn a number as an array of `stored` holds it into float32."""
        if stored == types.uint16:  # the word of a bfloat16
            return builder.bitcast(builder.shl(builder.zext(value, _I32), _I32(16)), _F32)
        return builder.fpext(value, _F32) if stored == types.float16 else value

    def _as_stored(builder, value, stored):
        """Round a float32 to what an array of `stored` holds."""
        if stored == types.uint16:
            kind = ir.FunctionType(_I16, [_F32])
            return builder.call(ir.InlineAsm(kind, "cvt.rn.bf16.f32 $0, $1;", "=h,f"), [value])
        return builder.fptrunc(value, _F16) if stored == types.float16 else value

    _STORED = {types.float32: (_F32, 4), types.float16: (_F16, 2), types.uint16: (_I16, 2)}

    @intrinsic
    def load4(typingctx, array, base, offset):  # noqa: D103
        if not (_is_flat(array) and array.dtype in _STORED):
            return None

        def codegen(context, builder, signature, args):
            stored = signature.args[0].dtype
            number, size = _STORED[stored]
            pointer = _pointer(context, builder, signature, args, 0, 1, 2)
            vector = builder.load(builder.bitcast(pointer, ir.VectorType(number, 4).as_pointer()), align=4 * size)
            four = [_as_float(builder, builder.extract_element(vector, _I32(i)), stored) for i in range(4)]
            return cgutils.pack_array(builder, four)

        return _FLOATS(array, base, offset), codegen

    def _vector_store(count):
        """Make a store of `count` float32, rounded to what the array holds, in one instruction."""

        @intrinsic
        def store(typingctx, array, index, values):
            if not (_is_flat(array) and array.dtype in _STORED and getattr(values, "count", 0) == count):
                return None

            def codegen(context, builder, signature, args):
                stored = signature.args[0].dtype
                number, size = _STORED[stored]
                kind = ir.VectorType(number, count)
                vector = ir.Constant(kind, ir.Undefined)
                for i in range(count):
                    value = _as_stored(builder, builder.extract_value(args[2], i), stored)
                    vector = builder.insert_element(vector, value, _I32(i))
                pointer = _pointer(context, builder, signature, args, 0, 1)
                builder.store(vector, builder.bitcast(pointer, kind.as_pointer()), align=count * size)
                return context.get_dummy_value()

            return types.void(array, index, types.UniTuple(types.float32, count)), codegen

        return store

    store2, store4 = _vector_store(2), _vector_store(4)

    def _copy_operands(context, builder, signature, args, size):
        """Give what every copy takes: target, source, and how many of `size` bytes are read, by argument 5."""
        valid = context.cast(builder, args[5], signature.args[5], types.boolean)
        return (
            _shared_address(builder, _pointer(context, builder, signature, args, 0, 1)),
            _global_address(builder, _pointer(context, builder, signature, args, 3, 4)),
            builder.select(builder.trunc(valid, ir.IntType(1)), _I32(size), _I32(0)),
        )

    def _bytes(context, builder, signature, args, i):
        """Turn an argument from words to bytes: a constant by the time that it matters, and part of the instruction."""
        return builder.mul(context.cast(builder, args[i], signature.args[i], types.int32), _I32(4))

    @intrinsic
    def copy16(typingctx, shared, to, offset, array, start, valid):  # noqa: D103
        if not (_is_flat(shared) and _is_flat(array)):
            return None

        def codegen(context, builder, signature, args):
            operands = _copy_operands(context, builder, signature, args, 16)
            kind = ir.FunctionType(_VOID, [_I32, _I64, _I32, _I32])
            text = "cp.async.cg.shared.global [$0+$3], [$1], 16, $2;"
            asm = ir.InlineAsm(kind, text, "r,l,r,n,~{memory}", side_effect=True)
            builder.call(asm, [*operands, _bytes(context, builder, signature, args, 2)])
            return context.get_dummy_value()

        return types.void(shared, to, offset, array, start, valid), codegen

    @intrinsic
    def copy4(typingctx, shared, to, offset, array, start, valid, further, wanted):  # noqa: D103
        if not (_is_flat(shared) and _is_flat(array)):
            return None

        def codegen(context, builder, signature, args):
            operands = _copy_operands(context, builder, signature, args, 4)
            wanted = context.cast(builder, args[7], signature.args[7], types.boolean)
            offsets = [_bytes(context, builder, signature, args, i) for i in (2, 6)]
            kind = ir.FunctionType(_VOID, [_I32, _I64, _I32, _I32, _I32, _I32])
            instruction = "@%wanted cp.async.ca.shared.global [$0+$4], [$1+$5], 4, $2;"
            text = f"{{ .reg .pred %wanted; setp.ne.b32 %wanted, $3, 0; {instruction} }}"
            asm = ir.InlineAsm(kind, text, "r,l,r,r,n,n,~{memory}", side_effect=True)
            builder.call(asm, [*operands, builder.zext(builder.trunc(wanted, ir.IntType(1)), _I32), *offsets])
            return context.get_dummy_value()

        return types.void(shared, to, offset, array, start, valid, further, wanted), codegen

    def _statement(text):
        @intrinsic
        def statement(typingctx):
            def codegen(context, builder, signature, args):
                builder.call(ir.InlineAsm(ir.FunctionType(_VOID, []), text, "~{memory}", side_effect=True), [])
                return context.get_dummy_value()

            return types.void(), codegen

        return statement

    copy_commit = _statement("cp.async.commit_group;")
    sync_warp = _statement("bar.warp.sync 0xffffffff;")
    copy_wait0, copy_wait1 = _statement("cp.async.wait_group 0;"), _statement("cp.async.wait_group 1;")

    def _ldmatrix(transposed):
        places = ",".join(f"${i}" for i in range(4))
        text = f"ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{{places}}}, [$4];"

        @intrinsic
        def ldmatrix(typingctx, array, base, offset):
            if not _is_flat(array):
                return None

            def codegen(context, builder, signature, args):
                address = _shared_address(builder, _pointer(context, builder, signature, args, 0, 1, 2))
                kind = ir.FunctionType(ir.LiteralStructType([_I32] * 4), [_I32])
                asm = ir.InlineAsm(kind, text, "=r,=r,=r,=r,r,~{memory}", side_effect=True)
                words = builder.call(asm, [address])
                return cgutils.pack_array(builder, [builder.extract_value(words, i) for i in range(4)])

            return _WORDS(array, base, offset), codegen

        return ldmatrix

    ldmatrix4, ldmatrix4_transposed = _ldmatrix(""), _ldmatrix(".trans")

    def _mma(shape, kind):
        """Make ``mma.sync``: d (4 floats) = a (4 words) times b (2 words) plus c (4 floats)."""
        groups = ("$0,$1,$2,$3", "$4,$5,$6,$7", "$8,$9", "$10,$11,$12,$13")
        operands = ", ".join(f"{{{group}}}" for group in groups)
        text = f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {operands};"
        constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)

        @intrinsic
        def mma(typingctx, a, b, c):
            def codegen(context, builder, signature, args):
                counts = (4, 2, 4)
                flat = [builder.extract_value(args[k], i) for k, n in enumerate(counts) for i in range(n)]
                function = ir.FunctionType(ir.LiteralStructType([_F32] * 4), [_I32] * 6 + [_F32] * 4)
                result = builder.call(ir.InlineAsm(function, text, constraints, side_effect=False), flat)
                return cgutils.pack_array(builder, [builder.extract_value(result, i) for i in range(4)])

            return _FLOATS(_WORDS, types.UniTuple(types.uint32, 2), _FLOATS), codegen

        return mma

    mma_tf32 = _mma("m16n8k8", "tf32")
    mma_bf16, mma_f16 = _mma("m16n8k16", "bf16"), _mma("m16n8k16", "f16")

    def _unary(result, argument, emit):
        @intrinsic
        def unary(typingctx, value):
            def codegen(context, builder, signature, args):
                return emit(builder, context.cast(builder, args[0], signature.args[0], argument))

            return result(argument), codegen

        return unary

    def _assembly(text, constraints, result, argument):
        kind = ir.FunctionType(result, [argument])
        return lambda builder, value: builder.call(ir.InlineAsm(kind, text, constraints), [value])

    bits_of = _unary(types.uint32, types.float32, lambda builder, value: builder.bitcast(value, _I32))
    float_of = _unary(types.float32, types.uint32, lambda builder, value: builder.bitcast(value, _F32))
    round_tf32 = _unary(types.uint32, types.float32, _assembly("cvt.rna.tf32.f32 $0, $1;", "=r,f", _I32, _F32))
    # A value that the compiler takes for a new one: what is computed from it is not kept in registers from before.
    fresh = _unary(
        types.int32,
        types.int32,
        lambda builder, value: builder.call(
            ir.InlineAsm(ir.FunctionType(_I32, [_I32]), "mov.b32 $0, $1;", "=r,r", side_effect=True), [value]
        ),
    )
