// context[t, h] = sum over s of weights[h, t, s] v[s, h / GROUP]; one workgroup for each (t, h).
// SPLITS parts of the keys are summed side by side, then added in a tree.
// Constants: QUERY_HEADS, GROUP (query heads per key head), DEPTH (vec4 per head), SPLITS (a power of two).

@group(0) @binding(0) var<storage, read> weights: array<f32>;               // (QUERY_HEADS, T, S)
@group(0) @binding(1) var<storage, read> value_cache: array<vec4<f32>>;     // (KEY_HEADS, capacity, DEPTH)
@group(0) @binding(2) var<storage, read_write> context: array<vec4<f32>>;   // (T, QUERY_HEADS, DEPTH)
@group(0) @binding(3) var<uniform> step: Step;

var<workgroup> partial: array<vec4<f32>, SPLITS * DEPTH>;                         // (SPLITS, DEPTH)

@compute @workgroup_size(DEPTH, SPLITS)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let t = group.x;
    let h = group.y;
    let row = (h * step.tokens + t) * step.keys;
    let value = (h / GROUP) * step.capacity * DEPTH + id.x;
    var sum = vec4<f32>();
    for (var s = id.y; s < step.keys; s += SPLITS) {
        sum = fma(vec4(weights[row + s]), value_cache[value + s * DEPTH], sum);
    }
    partial[id.y * DEPTH + id.x] = sum;
    for (var half = SPLITS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (id.y < half) { partial[id.y * DEPTH + id.x] += partial[(id.y + half) * DEPTH + id.x]; }
    }
    if (id.y == 0u) { context[(t * QUERY_HEADS + h) * DEPTH + id.x] = partial[id.x]; }
}
