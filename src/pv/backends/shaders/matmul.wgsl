// y[t, row] = sum over k of x[t, k] w[row, k]: the product of a prefill, in blocks of 4 tokens by 4 rows kept in registers.
// No shared memory: on a software driver the barriers of a tiled product cost 17 to 45 times more than they save.
// Constants: INNER (vec4 per row), OUTER (rows of the whole matrix: the stride of y).

@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;           // (rows, INNER)
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // (T, INNER)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;           // (T, OUTER)
@group(0) @binding(3) var<uniform> chunk: Chunk;
@group(0) @binding(4) var<uniform> step: Step;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x * 4u;
    let t = id.y * 4u;
    if (row >= chunk.rows || t >= step.tokens) { return; }
    // At the edge the last row or token is read again instead of one beyond; what it gives is not stored.
    let rows = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(chunk.rows - 1u)) * INNER;
    let tokens = min(vec4(t) + vec4(0u, 1u, 2u, 3u), vec4(step.tokens - 1u)) * INNER;
    var sums: array<vec4<f32>, 4>;                                      // (token) of (row)
    for (var k = 0u; k < INNER; k++) {
        let w0 = w[rows.x + k];
        let w1 = w[rows.y + k];
        let w2 = w[rows.z + k];
        let w3 = w[rows.w + k];
        let x0 = x[tokens.x + k];
        let x1 = x[tokens.y + k];
        let x2 = x[tokens.z + k];
        let x3 = x[tokens.w + k];
        sums[0] += vec4(dot(w0, x0), dot(w1, x0), dot(w2, x0), dot(w3, x0));
        sums[1] += vec4(dot(w0, x1), dot(w1, x1), dot(w2, x1), dot(w3, x1));
        sums[2] += vec4(dot(w0, x2), dot(w1, x2), dot(w2, x2), dot(w3, x2));
        sums[3] += vec4(dot(w0, x3), dot(w1, x3), dot(w2, x3), dot(w3, x3));
    }
    for (var i = 0u; i < 4u && t + i < step.tokens; i++) {
        for (var j = 0u; j < 4u && row + j < chunk.rows; j++) {
            y[(t + i) * OUTER + chunk.first + row + j] = sums[i][j];
        }
    }
}
