// scores[h, t, s] = (q[t, h] . k[s, h / GROUP]) SCALE, before the mask.
// Constants: QUERY_HEADS, GROUP (query heads per key head), DEPTH (vec4 per head), SCALE.

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;           // (T, QUERY_HEADS, DEPTH)
@group(0) @binding(1) var<storage, read> key_cache: array<vec4<f32>>;   // (KEY_HEADS, capacity, DEPTH)
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;      // (QUERY_HEADS, T, S)
@group(0) @binding(3) var<uniform> step: Step;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let s = id.x;
    let t = id.y;
    let h = id.z;
    if (s >= step.keys) { return; }
    let query = (t * QUERY_HEADS + h) * DEPTH;
    let key = ((h / GROUP) * step.capacity + s) * DEPTH;
    var sums = vec4<f32>();
    for (var d = 0u; d < DEPTH; d++) {
        sums = fma(q[query + d], key_cache[key + d], sums);
    }
    scores[(h * step.tokens + t) * step.keys + s] = ((sums.x + sums.y) + (sums.z + sums.w)) * SCALE;
}
