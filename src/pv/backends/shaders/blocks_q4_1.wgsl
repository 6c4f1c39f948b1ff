// Q4_1: 32 codes of four bits; low nibbles are the first sixteen. extra: d, m.
fn place(u: u32) -> vec2<u32> { return vec2(2u * u, 2u * u + 1u); }

fn unit(row: u32, u: u32) -> Unit {
    let at = row * UNITS + u;
    let packed = codes[at];
    return Unit(packed & NIBBLES, packed >> vec4(4u) & NIBBLES, vec2(number(2u * at)), vec2(number(2u * at + 1u)));
}
