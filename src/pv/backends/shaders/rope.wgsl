// Half-split rotary embedding of q and k; the angles come from tables made on the CPU, since WGSL lets sin and cos be coarse.
// Constants: QUERY_HEADS, KEY_HEADS, HALF (D / 2).

@group(0) @binding(0) var<storage, read> qkv: array<f32>;               // (T, (QUERY_HEADS + 2 KEY_HEADS) D)
@group(0) @binding(1) var<storage, read> cosine: array<f32>;            // (positions, HALF)
@group(0) @binding(2) var<storage, read> sine: array<f32>;              // (positions, HALF)
@group(0) @binding(3) var<storage, read_write> q: array<f32>;           // (T, QUERY_HEADS D)
@group(0) @binding(4) var<storage, read_write> k: array<f32>;           // (T, KEY_HEADS D)
@group(0) @binding(5) var<uniform> step: Step;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let head = id.x / HALF;
    let d = id.x % HALF;
    let t = id.y;
    if (head >= QUERY_HEADS + KEY_HEADS || t >= step.tokens) { return; }
    let position = step.start + t;
    let source = (t * (QUERY_HEADS + 2u * KEY_HEADS) + head) * 2u * HALF;
    let a = qkv[source + d];
    let b = qkv[source + HALF + d];
    let c = cosine[position * HALF + d];
    let s = sine[position * HALF + d];
    let low = a * c - b * s;
    let high = b * c + a * s;
    if (head < QUERY_HEADS) {
        let to = (t * QUERY_HEADS + head) * 2u * HALF;
        q[to + d] = low;
        q[to + HALF + d] = high;
    } else {
        let to = (t * KEY_HEADS + head - QUERY_HEADS) * 2u * HALF;
        k[to + d] = low;
        k[to + HALF + d] = high;
    }
}
