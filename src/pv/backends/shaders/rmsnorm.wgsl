// y[t, :] = gain * (x[t, :] / sqrt(mean(x[t, :]^2) + EPSILON)); a team of LANES lanes for each token, TEAMS in a workgroup.
// Constants: WIDTH (vec4 per row), EPSILON, LANES (a power of two), TEAMS.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;           // (T, WIDTH)
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;        // (WIDTH)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;     // (T, WIDTH)
@group(0) @binding(3) var<uniform> step: Step;

var<workgroup> partial: array<f32, TEAMS * LANES>;

@compute @workgroup_size(LANES, TEAMS)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let lane = id.x;
    let t = group.x * TEAMS + id.y;
    let row = min(t, step.tokens - 1u) * WIDTH;
    let base = id.y * LANES;
    var squares = vec4<f32>();
    for (var k = lane; k < WIDTH; k += LANES) {
        let value = x[row + k];
        squares = fma(value, value, squares);
    }
    partial[base + lane] = (squares.x + squares.y) + (squares.z + squares.w);
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { partial[base + lane] += partial[base + lane + half]; }
    }
    workgroupBarrier();
    let scale = 1.0 / sqrt(partial[base] / f32(4u * WIDTH) + EPSILON);
    if (t < step.tokens) {
        for (var k = lane; k < WIDTH; k += LANES) {
            y[row + k] = gain[k] * (x[row + k] * scale);
        }
    }
}
