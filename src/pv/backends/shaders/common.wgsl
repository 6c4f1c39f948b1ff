// What every shader shares: the facts of the current step, and which rows of a matrix a chunk holds.
struct Step {
    tokens: u32,    // T, new tokens of this pass
    start: u32,     // position of the first of them
    keys: u32,      // S, slots to attend to
    slot: u32,      // cache slot of the first new token
    capacity: u32,  // slots of the cache
}
struct Chunk { first: u32, rows: u32 }
