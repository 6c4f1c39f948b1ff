// The fifth bits of Q5_0 and Q5_1: bit n of a word belongs to weight n.

// Sixteen bits from `first` on, one in the fifth place of every byte.
fn fifths(bits: u32, first: u32) -> vec4<u32> {
    let four = vec4(bits) >> (vec4(first) + vec4(0u, 4u, 8u, 12u)) & vec4(15u);
    return (four * vec4(0x00204081u) & vec4(0x01010101u)) << vec4(4u);  // bit k of four to bit 0 of byte k
}
