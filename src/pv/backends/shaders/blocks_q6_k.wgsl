// Q6_K: 256 weights in two halves of four quarters of 32; lower nibbles in 128 bytes, upper bits in 64; codes are 32 above.
// A unit is 16 bytes of nibbles: its low ones belong to quarter 0 or 1, its high ones to the quarter two further on.
// extra: d, sixteen signed scales of a byte.
fn place(u: u32) -> vec2<u32> {
    let q = u % 8u;
    let at = u / 8u * 16u + q / 4u * 8u + q % 4u;
    return vec2(at, at + 4u);
}

fn scale_of(block: u32, piece: u32) -> f32 {
    return f32(i32(extra[block * 5u + 1u + piece / 4u]) << (24u - piece % 4u * 8u) >> 24u);
}

fn unit(row: u32, u: u32) -> Unit {
    let block = row * (UNITS / 8u) + u / 8u;
    let q = u % 8u;
    let piece = q / 4u * 8u + q % 4u;
    let packed = codes[block * 12u + q];
    let upper = codes[block * 12u + 8u + q / 4u * 2u + q % 2u] >> vec4(q % 4u / 2u * 2u);
    let two = vec4(0x03030303u);
    return Unit(
        less(packed & NIBBLES | (upper & two) << vec4(4u), 32u),
        less(packed >> vec4(4u) & NIBBLES | (upper >> vec4(4u) & two) << vec4(4u), 32u),
        number(block * 5u) * vec2(scale_of(block, piece), scale_of(block, piece + 4u)),
        vec2<f32>(),
    );
}
