// Q5_1: 32 codes of five bits; low nibbles are the first sixteen. extra: d, m, fifth bits.
fn place(u: u32) -> vec2<u32> { return vec2(2u * u, 2u * u + 1u); }

fn unit(row: u32, u: u32) -> Unit {
    let at = row * UNITS + u;
    let packed = codes[at];
    let bits = extra[3u * at + 2u];
    return Unit(
        packed & NIBBLES | fifths(bits, 0u),
        packed >> vec4(4u) & NIBBLES | fifths(bits, 16u),
        vec2(number(3u * at)),
        vec2(number(3u * at + 1u)),
    );
}
