// Q8_0: 32 signed codes of a byte. extra: d.
fn place(u: u32) -> vec2<u32> { return vec2(2u * u, 2u * u + 1u); }

fn unit(row: u32, u: u32) -> Unit {
    let at = row * UNITS + u;
    return Unit(codes[2u * at], codes[2u * at + 1u], vec2(number(at)), vec2<f32>());
}
