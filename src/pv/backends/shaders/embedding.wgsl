// x[t, :] = table[token[t], :] for the tokens whose row lies in this chunk of the table; the others belong to other chunks.
// Constants: WIDTH (vec4 per row).

@group(0) @binding(0) var<storage, read> table: array<vec4<f32>>;       // (rows, WIDTH)
@group(0) @binding(1) var<storage, read> token: array<u32>;             // (T)
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;     // (T, WIDTH)
@group(0) @binding(3) var<uniform> chunk: Chunk;
@group(0) @binding(4) var<uniform> step: Step;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    let t = id.y;
    if (column >= WIDTH || t >= step.tokens) { return; }
    let row = token[t] - chunk.first;  // wraps to a huge number for a row of an earlier chunk
    if (row >= chunk.rows) { return; }
    x[t * WIDTH + column] = table[row * WIDTH + column];
}
