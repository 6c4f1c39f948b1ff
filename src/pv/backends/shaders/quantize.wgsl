// Activations -> signed codes of a byte, a scale for each block, and for each piece of sixteen what offsets of weights are
// multiplied with: scale times the sum of its codes. As ggml: Q8_K has blocks of 256, the extreme becomes -127; Q8_0 and
// Q8_1 have blocks of 32 and keep scale (and the sum, of the whole block) in float16.
// An invocation makes a piece and looks through its whole block for the largest: no barriers, and what it reads again lies
// in a cache. What is not finite keeps its block not finite: the scale becomes NaN, the codes zero.
// Constants: PIECES (of a row), SHARE (pieces of a block: 16 or 2), SUMMED (1 for Q8_1).

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;           // (T, 4 PIECES)
@group(0) @binding(1) var<storage, read_write> a: array<vec4<u32>>;     // (T, PIECES)
@group(0) @binding(2) var<storage, read_write> a_scale: array<f32>;     // (T, PIECES / SHARE)
@group(0) @binding(3) var<storage, read_write> a_sum: array<f32>;       // (T, PIECES)
@group(0) @binding(4) var<uniform> step: Step;

const EXPONENT = 0x7f800000u;  // all of its bits: infinity or NaN. Compilers may take `v != v` for false.

fn finite(value: f32) -> bool { return (bitcast<u32>(value) & EXPONENT) != EXPONENT; }

// numerator / x, rounded once, to nearest even. WGSL lets a quotient err by 2.5 units in the last place, and a compiler may
// reorder what would mend it in floats; so it is a long division of the significands, eight bits at a time. Where one of
// the three is no normal number, it is WGSL's quotient.
fn over(numerator: f32, x: f32) -> f32 {
    let above = bitcast<u32>(numerator);
    let below = bitcast<u32>(x);
    let exponents = vec2(above, below) >> vec2(23u) & vec2(255u);
    let divisor = (below & 0x7fffffu) | 0x800000u;
    var rest = (above & 0x7fffffu) | 0x800000u;
    let less = rest < divisor;
    rest = select(rest, rest << 1u, less) - divisor;
    var quotient = 1u;
    for (var i = 0; i < 3; i++) {
        rest <<= 8u;
        quotient = quotient << 8u | rest / divisor;
        rest %= divisor;
    }
    let odd = quotient >> 1u & 1u;  // of the 24 bits that stay; the 25th rounds them
    let rounded = (quotient >> 1u) + (quotient & select(odd, 1u, rest != 0u));
    let exponent = i32(exponents.x) - i32(exponents.y) + 127 - i32(less);
    let bits = ((above ^ below) & 0x80000000u) | ((u32(exponent) << 23u) + rounded - 0x800000u);
    let normal = all(exponents > vec2(0u)) && all(exponents < vec2(255u)) && exponent > 0 && exponent < 255;
    return select(numerator / x, bitcast<f32>(bits), normal);
}

// To float16 and back, to nearest even, subnormals kept: WGSL lets `quantizeToF16` flush them and round as it likes.
fn halved(value: f32) -> f32 {
    let size = abs(value);
    if (size < 0x1p-14) { return sign(value) * (round(size * 0x1p24) * 0x1p-24); }
    let bits = bitcast<u32>(size);
    let rounded = (bits + 0xfffu + (bits >> 13u & 1u)) & 0xffffe000u;
    return sign(value) * bitcast<f32>(select(rounded, EXPONENT, rounded > 0x477fe000u));
}

// The first of the values from vec4 `start` of x on, a block, that has this magnitude.
fn first_of(size: f32, start: u32) -> f32 {
    for (var k = start; k < start + 4u * SHARE; k++) {
        let four = x[k];
        for (var i = 0u; i < 4u; i++) {
            if (abs(four[i]) == size) { return four[i]; }
        }
    }
    return size;
}

fn coded(at: u32, inverse: f32) -> vec4<i32> { return min(vec4<i32>(round(x[at] * inverse)), vec4(127)); }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let piece = id.x;
    let t = id.y;
    if (piece >= PIECES || t >= step.tokens) { return; }
    let block = t * PIECES + piece / SHARE * SHARE;
    var sizes: vec4<u32>;  // bits of magnitudes: as integers they have the order of the numbers
    var top: vec4<f32>;
    var low: vec4<f32>;
    for (var k = 4u * block; k < 4u * (block + SHARE); k++) {
        let four = x[k];
        sizes = max(sizes, bitcast<vec4<u32>>(four) & vec4(0x7fffffffu));
        top = max(top, four);
        low = min(low, four);
    }
    let size = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
    let whole = size < EXPONENT;
    let largest = bitcast<f32>(select(0u, size, whole));
    let wide = SHARE == 16u;
    let above = max(max(top.x, top.y), max(top.z, top.w)) == largest;
    let below = min(min(low.x, low.y), min(low.z, low.w)) == -largest;
    var extreme = select(-largest, largest, above);
    if (wide && above && below && largest > 0.0) { extreme = first_of(largest, 4u * block); }
    let raw = over(127.0, select(largest, -extreme, wide));
    let dead = largest == 0.0 || !finite(raw);
    let inverse = select(raw, 0.0, dead);
    let scale = select(over(largest, 127.0), select(over(1.0, raw), 0.0, dead), wide);
    let at = t * PIECES + piece;
    var packed: vec4<u32>;
    var sum = vec4<i32>();
    for (var k = 0u; k < 4u; k++) {
        let code = coded(4u * at + k, inverse);
        packed[k] = pack4xI8(code);
        sum += code;
    }
    a[at] = select(vec4<u32>(), packed, whole);
    if (SUMMED == 1u) {
        if (piece % 2u == 0u) {
            for (var k = 4u; k < 8u; k++) { sum += coded(4u * at + k, inverse); }
        } else {
            sum = vec4<i32>();
        }
    }
    let total = scale * f32(sum.x + sum.y + sum.z + sum.w);
    a_sum[at] = select(total, halved(total), SUMMED == 1u);
    if (piece % SHARE == 0u) {
        let stored = select(halved(scale), scale, wide);
        a_scale[t * (PIECES / SHARE) + piece / SHARE] = bitcast<f32>(select(0x7fc00000u, bitcast<u32>(stored), whole));
    }
}
