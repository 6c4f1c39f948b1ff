// Q4_K: 256 weights in 8 units. Of 32 bytes, low nibbles are one run of 32 weights, high nibbles the next.
// extra: d, dmin, four words of two scales and two minima of six bits.
fn place(u: u32) -> vec2<u32> {
    let at = u / 8u * 16u + u % 8u / 2u * 4u + u % 2u;
    return vec2(at, at + 2u);
}

fn unit(row: u32, u: u32) -> Unit {
    let at = (row * (UNITS / 8u) + u / 8u) * 6u;
    let six = extra[at + 2u + u % 8u / 2u];
    let packed = codes[row * UNITS + u];
    return Unit(
        packed & NIBBLES,
        packed >> vec4(4u) & NIBBLES,
        number(at) * vec2(f32(six & 255u), f32(six >> 8u & 255u)),
        -number(at + 1u) * vec2(f32(six >> 16u & 255u), f32(six >> 24u)),
    );
}
