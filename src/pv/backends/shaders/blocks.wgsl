// What every product of quantized weights shares. Weights and activations are integers on a scale, as ggml has them:
//     y[t, row] = sum over blocks of a_scale (scale (w . a)) + offset a_sum
// A *piece* is 16 weights, four to a word; a *unit* is two pieces, 32 weights, whose codes lie in the same bytes.
// A type's own file says where a unit's pieces stand in the row (`place`) and what they are (`unit`).
// Constants of every type: UNITS (units of a row).

@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;       // (rows, UNITS, …) as the file has them
@group(0) @binding(1) var<storage, read> extra: array<u32>;             // (rows, blocks, …) scales, float32 where they were float16

struct Unit {
    low: vec4<u32>,         // signed codes of the first piece, a byte each
    high: vec4<u32>,        // of the second
    scale: vec2<f32>,       // a weight is scale * code + offset
    offset: vec2<f32>,
}

const NIBBLES = vec4<u32>(0x0f0f0f0fu);

fn dots(w: vec4<u32>, a: vec4<u32>) -> f32 {
    return f32(dot4I8Packed(w.x, a.x) + dot4I8Packed(w.y, a.y) + dot4I8Packed(w.z, a.z) + dot4I8Packed(w.w, a.w));
}

// Every byte, below 128, less `by`: no byte borrows from its neighbour.
fn less(bytes: vec4<u32>, by: u32) -> vec4<u32> {
    return ((bytes | vec4(0x80808080u)) - vec4(by * 0x01010101u)) ^ vec4(0x80808080u);
}

fn number(at: u32) -> f32 { return bitcast<f32>(extra[at]); }
