// Q5_K: as Q4_K, with the fifth bits of 32 weights of every run in 32 bytes in front: bit r belongs to run r.
// extra: d, dmin, four words of two scales and two minima of six bits.
fn place(u: u32) -> vec2<u32> {
    let at = u / 8u * 16u + u % 8u / 2u * 4u + u % 2u;
    return vec2(at, at + 2u);
}

fn unit(row: u32, u: u32) -> Unit {
    let block = row * (UNITS / 8u) + u / 8u;
    let run = u % 8u / 2u * 2u;
    let six = extra[block * 6u + 2u + run / 2u];
    let packed = codes[block * 10u + 2u + u % 8u];
    let fifth = codes[block * 10u + u % 2u];
    let one = vec4(0x01010101u);
    return Unit(
        packed & NIBBLES | (fifth >> vec4(run) & one) << vec4(4u),
        packed >> vec4(4u) & NIBBLES | (fifth >> vec4(run + 1u) & one) << vec4(4u),
        number(block * 6u) * vec2(f32(six & 255u), f32(six >> 8u & 255u)),
        -number(block * 6u + 1u) * vec2(f32(six >> 16u & 255u), f32(six >> 24u)),
    );
}
