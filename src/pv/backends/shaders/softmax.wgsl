// weights[h, t, :] = softmax of scores[h, t, :] over the keys that position start + t may see; the others get exactly 0.
// A team of LANES lanes for each token, TEAMS in a workgroup. Constants: LANES (a power of two), TEAMS.

@group(0) @binding(0) var<storage, read> scores: array<f32>;            // (Hq, T, S)
@group(0) @binding(1) var<storage, read_write> weights: array<f32>;     // (Hq, T, S)
@group(0) @binding(2) var<uniform> step: Step;

var<workgroup> partial: array<f32, TEAMS * LANES>;

@compute @workgroup_size(LANES, TEAMS)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let lane = id.x;
    let t = min(group.x * TEAMS + id.y, step.tokens - 1u);
    let base = id.y * LANES;
    let row = (group.y * step.tokens + t) * step.keys;
    let seen = step.start + t + 1u;  // keys 0 .. seen - 1
    var top = -3.0e38;
    for (var s = lane; s < seen; s += LANES) { top = max(top, scores[row + s]); }
    partial[base + lane] = top;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { partial[base + lane] = max(partial[base + lane], partial[base + lane + half]); }
    }
    workgroupBarrier();
    top = partial[base];
    workgroupBarrier();
    var sum = 0.0;
    for (var s = lane; s < seen; s += LANES) { sum += exp(scores[row + s] - top); }
    partial[base + lane] = sum;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { partial[base + lane] += partial[base + lane + half]; }
    }
    workgroupBarrier();
    sum = partial[base];
    if (group.x * TEAMS + id.y < step.tokens) {
        for (var s = lane; s < step.keys; s += LANES) {
            weights[row + s] = select(0.0, exp(scores[row + s] - top) / sum, s < seen);
        }
    }
}
