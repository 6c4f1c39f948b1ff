// y[row] = w[row, :] . a[last token, :] for weights in blocks: the product of decoding. As matvec.wgsl: a team of LANES
// lanes takes ROWS rows and walks the units side by side; then a tree over the lanes.
// Constants: UNITS, SHARE (units that share a scale of the activations), OFFSETS (1 where the type has offsets),
// LANES (a power of two), TEAMS, ROWS, SPAN (workgroups along x).

@group(0) @binding(2) var<storage, read> a: array<vec4<u32>>;           // (T, 2 UNITS) codes of sixteen activations
@group(0) @binding(3) var<storage, read> a_scale: array<f32>;           // (T, UNITS / SHARE)
@group(0) @binding(4) var<storage, read> a_sum: array<f32>;             // (T, 2 UNITS)
@group(0) @binding(5) var<storage, read_write> y: array<f32>;           // (rows of all chunks)
@group(0) @binding(6) var<uniform> chunk: Chunk;
@group(0) @binding(7) var<uniform> step: Step;

var<workgroup> partial: array<f32, TEAMS * ROWS * LANES>;

@compute @workgroup_size(LANES, TEAMS)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let lane = id.x;
    let first = ((group.y * SPAN + group.x) * TEAMS + id.y) * ROWS;
    let token = step.tokens - 1u;
    var sums: array<f32, ROWS>;
    for (var u = lane; u < UNITS; u += LANES) {
        let at = token * 2u * UNITS + place(u);
        let low = a[at.x];
        let high = a[at.y];
        let scale = a_scale[token * (UNITS / SHARE) + u / SHARE];
        for (var r = 0u; r < ROWS; r++) {
            let w = unit(min(first + r, chunk.rows - 1u), u);  // beyond the edge the last row again; not stored
            sums[r] += scale * (w.scale.x * dots(w.low, low) + w.scale.y * dots(w.high, high));
            if (OFFSETS == 1u) { sums[r] += w.offset.x * a_sum[at.x] + w.offset.y * a_sum[at.y]; }
        }
    }
    let base = id.y * ROWS * LANES + lane;
    for (var r = 0u; r < ROWS; r++) { partial[base + r * LANES] = sums[r]; }
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            for (var r = 0u; r < ROWS; r++) { partial[base + r * LANES] += partial[base + r * LANES + half]; }
        }
    }
    if (lane == 0u) {
        for (var r = 0u; r < ROWS; r++) {
            if (first + r < chunk.rows) { y[chunk.first + first + r] = partial[base + r * LANES]; }
        }
    }
}
