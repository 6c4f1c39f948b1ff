// Q4_0: 32 codes of four bits, 8 above; low nibbles are the first sixteen. extra: d.
fn place(u: u32) -> vec2<u32> { return vec2(2u * u, 2u * u + 1u); }

fn unit(row: u32, u: u32) -> Unit {
    let at = row * UNITS + u;
    let packed = codes[at];
    return Unit(less(packed & NIBBLES, 8u), less(packed >> vec4(4u) & NIBBLES, 8u), vec2(number(at)), vec2<f32>());
}
