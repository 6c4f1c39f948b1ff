// y[t, :] = x[t, :] + bias
// Constants: WIDTH (vec4 per row).

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;           // (T, WIDTH)
@group(0) @binding(1) var<storage, read> bias: array<vec4<f32>>;        // (WIDTH)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;     // (T, WIDTH)
@group(0) @binding(3) var<uniform> step: Step;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= WIDTH || id.y >= step.tokens) { return; }
    let place = id.y * WIDTH + id.x;
    y[place] = x[place] + bias[id.x];
}
