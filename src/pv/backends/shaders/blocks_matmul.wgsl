// y[t, row] = w[row, :] . a[t, :] for weights in blocks: the product of a prefill, in blocks of 4 tokens by 4 rows.
// Constants: UNITS, SHARE (units that share a scale of the activations), OFFSETS (1 where the type has offsets),
// OUTER (rows of the whole matrix: the stride of y).

@group(0) @binding(2) var<storage, read> a: array<vec4<u32>>;           // (T, 2 UNITS) codes of sixteen activations
@group(0) @binding(3) var<storage, read> a_scale: array<f32>;           // (T, UNITS / SHARE)
@group(0) @binding(4) var<storage, read> a_sum: array<f32>;             // (T, 2 UNITS)
@group(0) @binding(5) var<storage, read_write> y: array<f32>;           // (T, OUTER)
@group(0) @binding(6) var<uniform> chunk: Chunk;
@group(0) @binding(7) var<uniform> step: Step;

// One unit of four rows times that of one token.
fn times(w: array<Unit, 4>, u: u32, token: u32) -> vec4<f32> {
    var units = w;
    let at = token * 2u * UNITS + place(u);
    let low = a[at.x];
    let high = a[at.y];
    let scale = a_scale[token * (UNITS / SHARE) + u / SHARE];
    var sums = vec4<f32>();
    for (var j = 0u; j < 4u; j++) {
        sums[j] = scale * (units[j].scale.x * dots(units[j].low, low) + units[j].scale.y * dots(units[j].high, high));
        if (OFFSETS == 1u) { sums[j] += units[j].offset.x * a_sum[at.x] + units[j].offset.y * a_sum[at.y]; }
    }
    return sums;
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x * 4u;
    let t = id.y * 4u;
    if (row >= chunk.rows || t >= step.tokens) { return; }
    // At the edge the last row or token is read again instead of one beyond; what it gives is not stored.
    let rows = min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(chunk.rows - 1u));
    let tokens = min(vec4(t) + vec4(0u, 1u, 2u, 3u), vec4(step.tokens - 1u));
    var sums: array<vec4<f32>, 4>;                                      // (token) of (row)
    for (var u = 0u; u < UNITS; u++) {
        let w = array<Unit, 4>(unit(rows.x, u), unit(rows.y, u), unit(rows.z, u), unit(rows.w, u));
        sums[0] += times(w, u, tokens.x);
        sums[1] += times(w, u, tokens.y);
        sums[2] += times(w, u, tokens.z);
        sums[3] += times(w, u, tokens.w);
    }
    for (var i = 0u; i < 4u && t + i < step.tokens; i++) {
        for (var j = 0u; j < 4u && row + j < chunk.rows; j++) {
            y[(t + i) * OUTER + chunk.first + row + j] = sums[i][j];
        }
    }
}
