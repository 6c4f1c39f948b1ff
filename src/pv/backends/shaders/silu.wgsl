// y[t, :] = gate / (1 + exp(-gate)), where gate is the first half of a row of gate_up.
// Constants: WIDTH (vec4 per half row).

@group(0) @binding(0) var<storage, read> gate_up: array<vec4<f32>>;     // (T, 2 WIDTH)
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;     // (T, WIDTH)
@group(0) @binding(2) var<uniform> step: Step;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= WIDTH || id.y >= step.tokens) { return; }
    let gate = gate_up[id.y * 2u * WIDTH + id.x];
    y[id.y * WIDTH + id.x] = gate / (1.0 + exp(-gate));
}
