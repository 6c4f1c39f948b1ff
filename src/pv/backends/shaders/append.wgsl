// Writes the new keys (after RoPE) and values into the cache, from slot `step.slot` on.
// Constants: QUERY_HEADS, KEY_HEADS, DEPTH (vec4 per head).

@group(0) @binding(0) var<storage, read> k: array<vec4<f32>>;                  // (T, KEY_HEADS, DEPTH)
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;                // (T, QUERY_HEADS + 2 KEY_HEADS, DEPTH)
@group(0) @binding(2) var<storage, read_write> key_cache: array<vec4<f32>>;    // (KEY_HEADS, capacity, DEPTH)
@group(0) @binding(3) var<storage, read_write> value_cache: array<vec4<f32>>;  // (KEY_HEADS, capacity, DEPTH)
@group(0) @binding(4) var<uniform> step: Step;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let head = id.x / DEPTH;
    let d = id.x % DEPTH;
    let t = id.y;
    if (head >= KEY_HEADS || t >= step.tokens) { return; }
    let to = (head * step.capacity + step.slot + t) * DEPTH + d;
    key_cache[to] = k[(t * KEY_HEADS + head) * DEPTH + d];
    value_cache[to] = qkv[(t * (QUERY_HEADS + 2u * KEY_HEADS) + QUERY_HEADS + KEY_HEADS + head) * DEPTH + d];
}
