// y[row] = sum over k of w[row, k] x[last token, k]: the product of decoding, bound by the bytes of w.
// A workgroup has TEAMS teams of LANES lanes; a team takes ROWS rows and walks k side by side, two steps at a time, so that
// every load of w is 16 bytes a lane, coalesced, and two for each row are under way. Four sums for each row and lane; then
// a tree over the lanes.
// Constants: INNER (vec4 per row of w), LANES (a power of two), TEAMS, ROWS, SPAN (workgroups along x).

@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;           // (rows, INNER)
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // (T, INNER)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;           // (rows of all chunks)
@group(0) @binding(3) var<uniform> chunk: Chunk;
@group(0) @binding(4) var<uniform> step: Step;

var<workgroup> partial: array<f32, TEAMS * ROWS * LANES>;

@compute @workgroup_size(LANES, TEAMS)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let lane = id.x;
    let first = ((group.y * SPAN + group.x) * TEAMS + id.y) * ROWS;
    let source = (step.tokens - 1u) * INNER;
    var sums: array<vec4<f32>, ROWS>;
    var k = lane;
    for (; k + LANES < INNER; k += 2u * LANES) {
        let value = x[source + k];
        let other = x[source + k + LANES];
        for (var r = 0u; r < ROWS; r++) {
            let at = min(first + r, chunk.rows - 1u) * INNER + k;  // beyond the edge the last row again; not stored
            let one = w[at];
            let more = w[at + LANES];
            sums[r] = fma(more, other, fma(one, value, sums[r]));
        }
    }
    if (k < INNER) {
        let tail = x[source + k];
        for (var r = 0u; r < ROWS; r++) {
            let row = min(first + r, chunk.rows - 1u);
            sums[r] = fma(w[row * INNER + k], tail, sums[r]);
        }
    }
    let base = id.y * ROWS * LANES + lane;
    for (var r = 0u; r < ROWS; r++) {
        partial[base + r * LANES] = (sums[r].x + sums[r].z) + (sums[r].y + sums[r].w);
    }
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            for (var r = 0u; r < ROWS; r++) {
                partial[base + r * LANES] += partial[base + r * LANES + half];
            }
        }
    }
    if (lane == 0u) {
        for (var r = 0u; r < ROWS; r++) {
            if (first + r < chunk.rows) {
                y[chunk.first + first + r] = partial[base + r * LANES];
            }
        }
    }
}
