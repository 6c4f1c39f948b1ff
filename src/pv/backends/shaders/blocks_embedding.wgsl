// x[t, :] = the weights of row token[t], for the tokens whose row lies in this chunk; an invocation writes a unit.
// Constants: UNITS.

@group(0) @binding(2) var<storage, read> token: array<u32>;             // (T)
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;     // (T, 8 UNITS)
@group(0) @binding(4) var<uniform> chunk: Chunk;
@group(0) @binding(5) var<uniform> step: Step;

fn weights(word: u32, scale: f32, offset: f32) -> vec4<f32> {
    return scale * vec4<f32>(unpack4xI8(word)) + offset;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let u = id.x;
    let t = id.y;
    if (u >= UNITS || t >= step.tokens) { return; }
    let row = token[t] - chunk.first;  // wraps to a huge number for a row of an earlier chunk
    if (row >= chunk.rows) { return; }
    let w = unit(row, u);
    let at = (t * 2u * UNITS + place(u)) * 4u;
    for (var i = 0u; i < 4u; i++) {
        x[at.x + i] = weights(w.low[i], w.scale.x, w.offset.x);
        x[at.y + i] = weights(w.high[i], w.scale.y, w.offset.y);
    }
}
