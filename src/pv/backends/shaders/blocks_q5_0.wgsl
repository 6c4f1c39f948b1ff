// Q5_0: 32 codes of five bits, 16 above; low nibbles are the first sixteen. extra: d, fifth bits.
fn place(u: u32) -> vec2<u32> { return vec2(2u * u, 2u * u + 1u); }

fn unit(row: u32, u: u32) -> Unit {
    let at = row * UNITS + u;
    let packed = codes[at];
    let bits = extra[2u * at + 1u];
    return Unit(
        less(packed & NIBBLES | fifths(bits, 0u), 16u),
        less(packed >> vec4(4u) & NIBBLES | fifths(bits, 16u), 16u),
        vec2(number(2u * at)),
        vec2<f32>(),
    );
}
